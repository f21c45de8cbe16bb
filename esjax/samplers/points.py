"""Scrambled Sobol' points: direction numbers from SciPy, the random scramble in JAX.

A Sobol' point is the exclusive or of the direction numbers that its index's binary digits choose. A
scramble that is linear over GF(2) may therefore be applied to the few direction numbers, not the points.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax.noise import Noise
from esjax.samplers.groups import Groups, check, log2_half

Array = jax.Array


def sobol(num_samples: int, dim: int, noise: Noise) -> Groups:
    """Groups of scrambled Sobol' points, evenly spread over several coordinates at once (Owen 1995).

    Every group is scrambled by itself, and each of its points is uniform on (0, 1)ᴰ and becomes ε by
    the noise's icdf. Groups are the largest power of two up to about N/2, so that there are two to
    compare, and at most 2¹⁶ numbers: N a power of two suits best.

    Raises:
        ValueError: `dim` is above 21,201, where the known direction numbers end.
    """
    check(num_samples, dim, noise)
    _check_dim(dim)
    log2_size = log2_half(num_samples, dim)
    directions = direction_numbers(log2_size, dim)

    def draw(key: Any, dtype: Any) -> Array:
        return noise.icdf(scrambled_points(key, jnp.asarray(directions), dtype=dtype))

    return Groups(2**log2_size, draw)


def _check_dim(dim: int) -> None:
    """Raises `ValueError` where SciPy has no direction numbers for `dim` coordinates."""
    from scipy.stats import qmc  # here, because it takes a second to import

    if dim > qmc.Sobol.MAXDIM:
        raise ValueError(
            f"dim={dim}: sampler=sobol has direction numbers for at most {qmc.Sobol.MAXDIM} coordinates; "
            "use another sampler, such as esjax.samplers.orthogonal or esjax.samplers.latin_hypercube"
        )


def direction_numbers(log2_size: int, dim: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Returns the direction numbers (log2_size, dim) of Joe & Kuo (2008), as integers of log2_size bits.

    SciPy visits the points in Gray-code order, where point 2^(k+1) − 1 is direction number k by itself.
    """
    from scipy.stats import qmc

    points = qmc.Sobol(dim, scramble=False).random_base2(log2_size)
    rows = 2 ** np.arange(1, log2_size + 1) - 1
    return (points[rows] * 2**log2_size).astype(np.uint32)


def span(shift: Array, directions: Array) -> Array:
    """Returns `shift` (dim,) combined with every subset of `directions` (m, dim): integers (2^m, dim).

    Row i takes the directions that the binary digits of i choose, so that every block of 2^k rows
    beginning at a multiple of 2^k is a net by itself.
    """
    index = jax.lax.broadcasted_iota(directions.dtype, (2 ** len(directions), 1), 0)
    points = jnp.broadcast_to(shift[None], (index.size, shift.size))
    for place, direction in enumerate(directions):
        points = points ^ (((index >> place) & 1) * direction[None])
    return points


@partial(jax.jit, static_argnames="dtype")
def scrambled_points(key: Any, directions: Array, *, dtype: Any) -> Array:
    """Returns Sobol' points (2^m, dim) in (0, 1), each of them uniform, from directions (m, dim).

    Per coordinate: y = L x + e over GF(2), with a random lower triangular matrix L that has ones
    on its diagonal and a random shift e (Matoušek 1998, "random linear scrambling"). The points are
    midpoints of a grid of spacing 2⁻²³ in float32 and 2⁻⁵² in float64, so never 0 or 1.
    """
    num_bits = np.finfo(np.dtype(dtype)).nmant
    word = np.uint32 if num_bits < 32 else np.uint64
    matrix_key, shift_key = jax.random.split(key)
    shift = _random_integers(shift_key, directions.shape[1:], num_bits, word)
    columns = _random_columns(matrix_key, directions.shape, num_bits, word)
    integers = span(shift, _apply(columns, directions))
    return (integers.astype(dtype) + 0.5) * 2.0**-num_bits


def _random_integers(key: Any, shape: tuple[int, ...], num_bits: int, word: Any) -> Array:
    return jax.random.bits(key, shape, word) >> (np.iinfo(word).bits - num_bits)


def _random_columns(key: Any, shape: tuple[int, ...], num_bits: int, word: Any) -> Array:
    """Returns the first m columns (m, dim) of random lower triangular matrices, first row in the top bit."""
    top_bits = [1 << (num_bits - 1 - column) for column in range(shape[0])]
    diagonal = jnp.asarray(np.array(top_bits, word)[:, None])
    return diagonal | (_random_integers(key, shape, num_bits, word) & (diagonal - 1))


def _apply(columns: Array, vectors: Array) -> Array:
    """Returns the matrices with these `columns` (m, dim) times `vectors` (m, dim) of m bits, over GF(2)."""
    size = columns.shape[0]
    places = np.arange(size - 1, -1, -1, dtype=np.uint32)[:, None, None]
    digits = (vectors[None] >> places) & 1  # (m, m, dim): the first digit of every vector, the second, ...
    chosen = jnp.where(digits == 1, columns[:, None], jnp.zeros_like(columns[:, None]))
    return jax.lax.reduce_xor(chosen, (0,))
