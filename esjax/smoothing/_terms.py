"""A block as the terms that it is made of, what combines them, and which coordinates of x each term reads."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from esjax._core import chunks
from esjax._jaxpr import dependence, peeling
from esjax.credit import Credit, auto, none
from esjax.smoothing import _credit
from esjax.smoothing._credit import Readers
from esjax.smoothing._inputs import Args

Array = jax.Array
Block = Callable[[Array, Args], Array]

_MOST_PAIRS, _MOST_EQUATIONS = 2**18, 2_000
"""Where a stand-in is larger, its derivative is not looked at before it is used: a tenth of a second."""


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


def of_stand_in(control: Block, whole: Terms, x: Array, num_values: int, leaves: Args) -> Terms:
    """Returns the terms of a stand-in for a block of terms `whole`, with credit of its own if that has some.

    Raises:
        ValueError: it has no derivative in x.
    """
    _check_slopes(control, x, num_values, leaves)
    has_credit = whole.readers.num_pairs < whole.num_terms * x.size
    return of_block(control, auto if has_credit else none, x, num_values, leaves, peels=True)


def _check_slopes(control: Block, x: Array, num_values: int, leaves: Args) -> None:
    def slopes(cotangent: Array, x: Array, leaves: Args) -> Array:
        values, pull = jax.vjp(lambda z: control(z, leaves), x)
        return pull(chunks.varying_like(cotangent, values))[0]

    remedy = "give a function that is smooth where fun is not, such as jax.nn.sigmoid for a comparison"
    try:
        program = jax.make_jaxpr(slopes)(jnp.zeros(num_values, x.dtype), x, leaves)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(f"control has no derivative in x ({error}); {remedy}") from error
    is_cotangent = [number == 0 for number in range(len(program.in_avals))]
    found = dependence.reads(program, is_cotangent, most_pairs=_MOST_PAIRS, most_equations=_MOST_EQUATIONS)
    if found.pattern is not None and not found.pattern.nnz:
        raise ValueError(f"control has the derivative 0 in x everywhere; {remedy}")


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
