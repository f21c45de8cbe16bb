"""Credit: which coordinates of x each value of a block reads, and whose noise it is therefore credited to.

    g_i = (1/Nσ) Σ_n s(ε_ni) Σ_{o reads i} c_o (f_no − b_no)

for a loss with slopes c_o in the values, or in the terms of a block that ends in a sum or a mean. Values that
do not read coordinate i add nothing but noise to its gradient; without them, the error no longer grows with
the length of x. *Reading* is dependence of values, not of derivatives: comparisons and indices read.

| credit | pattern |
|---|---|
| `auto`, the default of `smooth` | traced, where that is quick and at least half of all pairs drop out |
| `traced` | found in the block's program; warns where nothing was found |
| `declared(reads)` | yours, for programs on the host and for what tracing cannot see |
| `none` | every value reads all of x |
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.flatten_util import ravel_pytree

from esjax._core.check import check_count, check_key, check_positive
from esjax._jaxpr import dependence

__all__ = [
    "Credit",
    "Pattern",
    "auto",
    "blocks",
    "causal",
    "check",
    "declared",
    "elementwise",
    "none",
    "traced",
    "windows",
]

Array = jax.Array
Pattern = Any
"""A boolean matrix (num_values, dim) of `scipy.sparse`: whether a value reads a coordinate."""


class Credit(NamedTuple):
    """How to find what reads what.

    Attributes:
        reads: `(program, is_x, num_values, dim) -> pattern`, None where every value reads all of x: of the
            block's program (a `ClosedJaxpr`), of which of its inputs are x.
        peels: whether the linear end of the block is taken off first; the values are then its terms.
    """

    reads: Callable[[ClosedJaxpr, Sequence[bool], int, int], Pattern | None]
    peels: bool


# --- found in the program ----------------------------------------------------------------------------

_MOST_PAIRS_PER_INPUT = 64
"""Pairs for each coordinate of x, of which sums are still quick beside evaluations."""
_MOST_TERMS_PER_INPUT = 16
_MOST_PAIRS_ON_THE_WAY = 2**21
"""Of all values that lead to the terms; beyond, a tenth of a second would be gone."""
_QUICK_EQUATIONS = 2_000
"""A fifth of a second."""


def _everything(program: ClosedJaxpr, is_x: Sequence[bool], num_values: int, dim: int) -> None:
    del program, is_x, num_values, dim


def _quick(program: ClosedJaxpr, is_x: Sequence[bool], num_values: int, dim: int) -> Pattern | None:
    if min(dim, num_values) < 2 or num_values > _MOST_TERMS_PER_INPUT * dim:
        return None
    most = _MOST_PAIRS_PER_INPUT * max(dim, num_values)
    most_pairs = min(4 * most, _MOST_PAIRS_ON_THE_WAY)
    found = dependence.reads(program, is_x, most_pairs=most_pairs, most_equations=_QUICK_EQUATIONS).pattern
    few = found is not None and found.nnz <= min(most, num_values * dim // 2)
    return found if few else None


def _thorough(program: ClosedJaxpr, is_x: Sequence[bool], num_values: int, dim: int) -> Pattern | None:
    found = dependence.reads(program, is_x)
    if found.pattern is not None and found.pattern.nnz < num_values * dim:
        return found.pattern
    met = f"; it met {', '.join(found.unknown)}, which it does not know" if found.unknown else ""
    warnings.warn(
        f"credit=traced finds that every value of the block may read all of x{met}; return the terms of a "
        "sum, use esjax.credit.declared, or leave credit out",
        stacklevel=2,
    )
    return None


none = Credit(_everything, peels=False)
"""Every value reads all of x."""
auto = Credit(_quick, peels=True)
"""Found in the program where that is quick and pays: half of the pairs or more drop out, and few are left."""
traced = Credit(_thorough, peels=True)
"""Found in the program, whatever that takes; a warning says where nothing was found, and why."""


# --- declared ----------------------------------------------------------------------------------------


def declared(reads: Any) -> Credit:
    """Returns the credit of a block whose user knows what its values read.

        reads[o, i] = whether value o reads coordinate i of x

    A pair that is missing makes the gradient wrong, and cannot be noticed; `check` looks for some.

    Args:
        reads: booleans (num_values, dim), an array or a matrix of `scipy.sparse`; or a function
            `(num_values, dim) -> ` such a matrix: `elementwise`, `blocks(size)`, `windows(before, after)`,
            `causal`. x and values are flat, their leaves joined in order.

    Raises:
        ValueError: `reads` is not boolean, or not a matrix; or, at a call, of another shape.
    """
    if not callable(reads):
        _as_pattern(reads)

    def of_block(program: ClosedJaxpr, is_x: Sequence[bool], num_values: int, dim: int) -> Pattern:
        del program, is_x
        pattern = _as_pattern(reads(num_values, dim) if callable(reads) else reads)
        if pattern.shape != (num_values, dim):
            raise ValueError(
                f"reads has shape {pattern.shape}, and the block turns {dim} coordinates of x into "
                f"{num_values} values; give booleans ({num_values}, {dim})"
            )
        return pattern

    return Credit(of_block, peels=False)


def _as_pattern(reads: Any) -> Pattern:
    from scipy import sparse

    matrix = reads if sparse.issparse(reads) else np.asarray(reads)
    if matrix.ndim != 2 or matrix.dtype != bool:
        raise ValueError(
            f"reads is {matrix.dtype}{list(matrix.shape)}; give booleans (num_values, dim), or a function "
            "such as esjax.credit.elementwise"
        )
    pattern = sparse.csr_array(matrix)
    pattern.eliminate_zeros()
    return pattern


def elementwise(num_values: int, dim: int) -> Pattern:
    """Returns the pattern of a block whose value i reads coordinate i, for `declared`.

        reads[o, i] = (o is i),    with num_values = dim

    Raises:
        ValueError: there are not as many values as coordinates.
    """
    return windows(0, 0)(num_values, dim)


def blocks(size: int) -> Callable[[int, int], Pattern]:
    """Returns the pattern of runs of `size` coordinates, each read by an equal run of values, for `declared`.

        reads[o, i] = (o // (M size / D) is i // size),    M values, D coordinates

    Args:
        size: coordinates in a block, ≥ 1, of which D is a multiple; and M one of the number of blocks.

    Raises:
        ValueError: `size` is out of range; or, at a call, the numbers are no such multiples.
    """
    check_count("size", size)

    def pattern(num_values: int, dim: int) -> Pattern:
        from scipy import sparse

        if not dim or dim % size or num_values % (dim // size):
            raise ValueError(
                f"size={size} does not divide {dim} coordinates and {num_values} values into as many blocks; "
                "use another, or give the pattern itself"
            )
        count = dim // size
        ones = np.ones((num_values // count, size), bool)
        return sparse.csr_array(sparse.kron(sparse.eye_array(count, dtype=bool), ones), dtype=bool)

    return pattern


def windows(before: int, after: int) -> Callable[[int, int], Pattern]:
    """Returns the pattern of windows: value i reads coordinates i − before to i + after, for `declared`.

        reads[o, i] = o − before ≤ i ≤ o + after

    Args:
        before: coordinates before its own that a value reads, ≥ 0.
        after: coordinates after it, ≥ 0.

    Raises:
        ValueError: they are out of range; or, at a call, there are not as many values as coordinates.
    """
    for name, each in (("before", before), ("after", after)):
        if each != 0:
            check_count(name, each)

    def pattern(num_values: int, dim: int) -> Pattern:
        from scipy import sparse

        if num_values != dim:
            raise ValueError(
                f"{num_values} values are not as many as {dim} coordinates, which windows and elementwise "
                "need; give the pattern itself"
            )
        offsets = np.arange(-min(before, dim - 1), min(after, dim - 1) + 1)
        ones = np.ones((offsets.size, dim), bool)
        return sparse.csr_array(sparse.dia_array((ones, offsets), shape=(dim, dim)), dtype=bool)

    return pattern


def causal(num_values: int, dim: int) -> Pattern:
    """Returns the pattern of rewards that read the actions before them, for `declared`.

        reads[o, i] = i // A ≤ o,    with num_values rewards o, and dim = num_values A coordinates of actions

    that is, x are actions (T, A), and reward t of T reads those of steps 0 to t.

    Raises:
        ValueError: the number of coordinates is no multiple of the number of values.
    """
    from scipy import sparse

    if dim % num_values:
        raise ValueError(
            f"{dim} coordinates of x are not a multiple of {num_values} rewards; give x as (steps, "
            "actions), or the pattern itself"
        )
    steps = np.tril(np.ones((num_values, num_values), bool))
    return sparse.csr_array(np.repeat(steps, dim // num_values, axis=1))


def check(
    fun: Callable[..., Any],
    x: Any,
    pattern: Any,
    key: Any,
    *args: Any,
    sigma: float = 1.0,
    num_tries: int = 256,
) -> list[tuple[int, int]]:
    """Looks for pairs that a pattern lacks, by trying: x + σ ε with one coordinate drawn anew.

        missing = {(o, i): f_o changes with coordinate i, and pattern[o, i] is False}

    Where it finds none, there may be some all the same.

    Args:
        fun: the block, `fun(x, *args)`.
        x: where to look: a pytree of floating arrays.
        pattern: what may be read: a `Credit`, or what `declared` takes.
        key: a PRNG key.
        *args: what else the block takes.
        sigma: σ > 0 of the changes, in units of x.
        num_tries: coordinates to change, one after the other, ≥ 1.

    Returns:
        The pairs (value, coordinate) that are missing, sorted; none where none was found.

    Raises:
        ValueError: `num_tries` or `sigma` is out of range, or `key` is not one key.
    """
    check_key(key)
    check_count("num_tries", num_tries)
    check_positive("sigma", sigma, "changes have to change something")
    flat, unflatten = ravel_pytree(x)

    def values(z: Array) -> Array:
        return ravel_pytree(fun(unflatten(z), *args))[0]

    credit = pattern if isinstance(pattern, Credit) else declared(pattern)
    program = jax.make_jaxpr(values)(flat)
    reads = credit.reads(program, [True], program.out_avals[0].size, flat.size)
    if reads is None:
        return []
    evaluate, found = jax.jit(values), set()
    for number, coordinate in enumerate(_coordinates(key, flat.size, num_tries)):
        eps = jax.random.normal(jax.random.fold_in(key, number), (2, flat.size), flat.dtype)
        before = flat + sigma * eps[0]
        after = before.at[coordinate].set(flat[coordinate] + sigma * eps[1, coordinate])
        changed = ~np.isclose(evaluate(before), evaluate(after), rtol=1e-6, equal_nan=True)
        unread = changed & ~reads[:, [coordinate]].toarray()[:, 0]
        found |= {(int(value), int(coordinate)) for value in np.flatnonzero(unread)}
    return sorted(found)


def _coordinates(key: Any, dim: int, num_tries: int) -> np.ndarray:
    """Returns coordinates to change, each before any a second time."""
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, num_tries), dim))
    return np.resize(order, num_tries)
