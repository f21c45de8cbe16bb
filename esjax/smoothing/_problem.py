"""What is estimated and how, on one vector x (dim,): no pytrees, no checks, no derivative rules."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from esjax._core.placement import Shards
from esjax.smoothing._credit import Readers
from esjax.smoothing._inputs import Args
from esjax.smoothing._perturbing import Perturbing
from esjax.smoothing._terms import Terms

Array = jax.Array
Informs = Callable[..., Any]  # (problem, key, inputs, saved) -> what is told of the samples beside their mean


class Problem(NamedTuple):
    """What is estimated and how: static, so that it can be an argument that JAX never traces.

    Traced values that the functions below close over are in their first or last argument, `args`.

    Attributes:
        fun: `(z, args) -> terms`: (dim,) → (num_terms,) in `dtype`.
        combine: `(args, terms) -> values`: (num_terms,) → (num_values,), affine in the terms; None: these are
            the values.
        readers: which coordinates each term reads.
        perturbing: how z is drawn, and its scores.
        coefficients: of the baseline, `(args, in_group, in_all) -> (own, total)`, elementwise.
        at_input: `args -> share` of f(x) in the baseline; None: it is 0, and f(x) need not be known.
        averages: whether each b_n is an average of values, so that an offset of all values drops out.
        transform: of the baseline, `(args, values (N,), kept (N,)) -> (N,)`; None: none.
        discard: `(args, values (num_values,)) -> bool ()`, which samples to leave out; None: none.
        is_uniform: whether `args` vary over the same axes of an outer `jax.shard_map` as everything else.
        constant_args: those of `args` in which no derivative is taken, by their place among the inputs: what
            says how ε is drawn, which samples are kept, and how scores are weighted.
        as_key: makes a key from its data, which is what the rules are given.
        group_size: samples that are drawn together.
        num_samples: N.
        evaluated_at_once: samples in one call of the vmapped `fun`.
        drawn_at_once: samples whose ε are held at once, a multiple of the groups' size.
        shards: the devices that share the samples; None: one device has all of them.
        informs: what makes a report on the gradient, or another thing that needs all values; None: nothing is
            told.
        dim: length of x.
        num_terms: length of the terms.
        num_values: length of the values.
        dtype: dtype of x, ε, the values and every sum.
        control: a stand-in for the block, with a derivative, of the same values; None: none.
    """

    fun: Callable[[Array, Args], Array]
    combine: Callable[[Args, Array], Array] | None
    readers: Readers
    perturbing: Perturbing
    coefficients: Callable[[Args, Any, Any], tuple[Any, Any]]
    at_input: Callable[[Args], Any] | None
    averages: bool
    transform: Callable[[Args, Array, Array], Array] | None
    discard: Callable[[Args, Array], Array] | None
    is_uniform: bool
    constant_args: frozenset[int]
    as_key: Callable[[Array], Any]
    group_size: int
    num_samples: int
    evaluated_at_once: int
    drawn_at_once: int
    shards: Shards | None
    informs: Informs | None
    dim: int
    num_terms: int
    num_values: int
    dtype: Any
    control: Terms | None = None

    @property
    def has_credit(self) -> bool:
        """Whether terms are known not to read all of x."""
        return self.readers.num_pairs < self.num_terms * self.dim
