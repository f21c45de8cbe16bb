"""Who is credited with what: which coordinates of x each term of a block reads.

A coordinate's score needs the terms that read it, and no others: the rest has mean 0, and is noise. Terms are
what a block's linear end (a sum, a mean, a product with what does not read x) is made of, so that

    value = combine(terms),    g_i = E[s(ε_i) Σ_{t reads i} c_t (f_t − b_t)] / σ,    c = ∂value/∂terms

Without credit every term is read as if it depended on all of x.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.products import matmul

Array = jax.Array
Credited = Callable[[Array], Array]


class Readers(NamedTuple):
    """Sums along pairs (term, coordinate): static, so that JAX never traces them.

    Attributes:
        by_coordinate: `(..., num_terms) -> (..., dim)`: for each coordinate the sum over terms that read it.
        by_term: `(..., dim) -> (..., num_terms)`: for each term the sum over coordinates that it reads.
        num_pairs: how many pairs there are.
        pairs: the pairs' terms and coordinates, each (num_pairs,); without credit none are listed.
    """

    by_coordinate: Credited
    by_term: Credited
    num_pairs: int
    pairs: tuple[np.ndarray, np.ndarray]


def everyone(num_terms: int, dim: int) -> Readers:
    """Returns sums without credit, of which one stands for all: (..., 1)."""
    return Readers(_all, _all, num_terms * dim, (np.zeros(0, np.int32), np.zeros(0, np.int32)))


def _all(values: Array) -> Array:
    return values if values.shape[-1] == 1 else values.sum(-1, keepdims=True)


def readers(pattern: Any) -> Readers:
    """Returns the sums of a sparse boolean matrix (num_terms, dim), of SciPy."""
    listed = pattern.tocoo()
    pairs = listed.row.astype(np.int32), listed.col.astype(np.int32)
    return Readers(_adding(pattern.T.tocsr()), _adding(pattern.tocsr()), int(pattern.nnz), pairs)


def _adding(rows: Any) -> Credited:
    """Returns `(..., columns) -> (..., rows)`, the product with a sparse matrix of ones.

    Few diagonals are added up one by one, rows of few entries are gathered; where there are many, a dense
    product is faster.
    """
    count, width = rows.shape
    most = int(np.diff(rows.indptr).max(initial=0))
    listed = rows.tocoo()
    offsets = np.unique(listed.col - listed.row)
    if rows.nnz == count == width and offsets.tolist() == [0]:
        return lambda values: values
    if 0 < offsets.size <= 2 * most + 4 and offsets.size <= width // 4:
        return _of_diagonals(listed, offsets)
    if most * count > rows.nnz * 8 or most > width // 4:
        dense = rows.toarray()
        return lambda values: matmul(values, jnp.asarray(dense.T, values.dtype))
    return _gathered(rows, most)


def _of_diagonals(listed: Any, offsets: np.ndarray) -> Credited:
    """Returns the product with a matrix whose entries are at `column − row` in `offsets`: shifted sums."""
    count, width = listed.shape
    before, after = max(0, -int(offsets[0])), max(0, int(offsets[-1]) + count - width)
    present = np.zeros((offsets.size, count), bool)
    present[np.searchsorted(offsets, listed.col - listed.row), listed.row] = True

    def of_diagonals(values: Array) -> Array:
        padded = jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(before, after)])
        total = jnp.zeros_like(values, shape=(*values.shape[:-1], count))
        for offset, at in zip((before + offsets).tolist(), present, strict=True):
            shifted = padded[..., offset : offset + count]
            total = total + (shifted if at.all() else jnp.where(jnp.asarray(at), shifted, 0))
        return total

    return of_diagonals


def _gathered(rows: Any, most: int) -> Credited:
    """Returns the product with a matrix of at most `most` entries in a row, gathered entry by entry.

    (Columns become the first axis, so that what is gathered is contiguous.)
    """
    count, degrees = rows.shape[0], np.diff(rows.indptr)
    places = np.full((count, most), -1, np.int32)
    places[np.repeat(np.arange(count), degrees), _within(degrees)] = rows.indices

    def gathered(values: Array) -> Array:
        by_column = jnp.moveaxis(values, -1, 0)
        total = jnp.zeros_like(by_column, shape=(count, *by_column.shape[1:]))
        for at in places.T:
            taken, is_there = by_column[jnp.asarray(np.maximum(at, 0))], at >= 0
            present = jnp.asarray(is_there.reshape(-1, *(1,) * (values.ndim - 1)))
            total = total + (taken if is_there.all() else jnp.where(present, taken, 0))
        return jnp.moveaxis(total, 0, -1)

    return gathered


def _within(degrees: np.ndarray) -> np.ndarray:
    """Returns 0, 1, ... within each run of the lengths `degrees`."""
    ends = np.cumsum(degrees)
    return np.arange(int(ends[-1]) if ends.size else 0) - np.repeat(ends - degrees, degrees)
