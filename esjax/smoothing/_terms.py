"""A block as the terms that it is made of, what combines them, and which coordinates of x each term reads."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from esjax._jaxpr import peeling
from esjax.credit import Credit, none
from esjax.smoothing import _credit
from esjax.smoothing._credit import Readers
from esjax.smoothing._inputs import Args

Array = jax.Array
Block = Callable[[Array, Args], Array]


class Terms(NamedTuple):
    """A block `(z, args) -> combine(args, fun(z, args))`; see `Problem`.

    Attributes:
        fun: `(z, args) -> terms` (num_terms,).
        combine: `(args, terms) -> values`, affine in the terms; None: these are the values.
        readers: which coordinates each term reads.
        num_terms: length of the terms.
    """

    fun: Block
    combine: Callable[[Args, Array], Array] | None
    readers: Readers
    num_terms: int


def of_block(block: Block, credit: Credit, x: Array, num_values: int, leaves: Args, *, peels: bool) -> Terms:
    """Returns the terms of a block with credit, or its values where every one reads all of x.

    Args:
        block: `(z, args) -> values`, (dim,) → (num_values,).
        credit: how to find what reads what.
        x: any (dim,) of its dtype.
        num_values: length of the values.
        leaves: the args.
        peels: whether the estimator may look at terms in place of values.
    """
    whole = Terms(block, None, _credit.everyone(num_values, x.size), num_values)
    if credit == none:
        return whole
    program = jax.make_jaxpr(block)(x, leaves)
    is_x = [number == 0 for number in range(len(program.in_avals))]
    if program.effects or not (credit.peels and peels and num_values):
        pattern = credit.reads(program, is_x, num_values, x.size)
        return whole if _is_whole(pattern) else whole._replace(readers=_credit.readers(pattern))
    peeled = peeling.peel(program, is_x)
    pattern = credit.reads(peeled.terms, is_x, peeled.num_terms, x.size)
    if _is_whole(pattern):
        return whole
    return Terms(*_functions(peeled, x.dtype), _credit.readers(pattern), peeled.num_terms)


def _is_whole(pattern: Any) -> bool:
    """Whether everything reads everything."""
    return pattern is None or pattern.nnz == pattern.shape[0] * pattern.shape[1]


def _functions(peeled: peeling.Peeled, dtype: Any) -> tuple[Block, Callable[[Args, Array], Array]]:
    """Returns the programs of terms and of what combines them, on vectors."""
    shapes = [aval.shape for aval in peeled.terms.out_avals]
    dtypes = [aval.dtype for aval in peeled.terms.out_avals]
    ends = np.cumsum([aval.size for aval in peeled.terms.out_avals])[:-1].tolist()

    def fun(z: Array, leaves: Args) -> Array:
        return _joined(_evaluated(peeled.terms, z, *leaves), dtype)

    def combine(leaves: Args, terms: Array) -> Array:
        parts = [
            part.reshape(shape).astype(own)
            for part, shape, own in zip(jnp.split(terms, ends), shapes, dtypes, strict=True)
        ]
        return _joined(_evaluated(peeled.combine, *parts, *leaves), dtype)

    return fun, combine


def _evaluated(program: ClosedJaxpr, *inputs: Any) -> list[Any]:
    return jax.core.eval_jaxpr(program.jaxpr, program.consts, *inputs)


def _joined(parts: list[Array], dtype: Any) -> Array:
    return jnp.concatenate([part.reshape(-1).astype(dtype) for part in parts])
