"""Groups in orthogonal directions: rows of a random rotation, made by Householder's reflections."""

from typing import Any

import jax
import jax.numpy as jnp

from esjax._core import chunks, random
from esjax._core.products import matmul
from esjax.noise import Noise, normal
from esjax.samplers.groups import Groups, check, half, inside
from esjax.samplers.independent import iid

Array = jax.Array


def orthogonal(num_samples: int, dim: int, noise: Noise) -> Groups:
    """Groups of at most D samples in orthogonal directions, D = `dim` (Choromanski et al. 2018, sec. 3).

    For normal noise the directions are rows of a random rotation and the lengths independent, so that each
    sample is exactly N(0, I). Other noise is icdf(Φ(z)) of such z: its coordinates are independent within
    a sample, and nearly uncorrelated between samples. Groups are also at most about N/2, so that there
    are two to compare, and at most 2¹⁶ numbers: making n directions orthogonal takes O(n² D).
    """
    check(num_samples, dim, noise)
    if dim == 0:
        return iid(num_samples, dim, noise)
    size = min(dim, half(num_samples, dim))

    def draw(key: Any, dtype: Any) -> Array:
        return _from_normal(noise, _orthogonal_normal(key, size, dim, dtype))

    return Groups(size, draw)


def _orthogonal_normal(key: Any, size: int, dim: int, dtype: Any) -> Array:
    """Returns (size, dim): rows N(0, I) in orthogonal directions.

    The directions depend on those of parts of the Gaussian rows only, and are independent of all lengths.
    So a row takes the length of the Gaussian row that it was made from.
    """
    rows = random.normal(key, (size, dim), dtype)
    return jnp.linalg.norm(rows, axis=1, keepdims=True) * _rotation(rows)


@jax.jit
def _rotation(rows: Array) -> Array:
    """Returns n rows of a random rotation (D, D), for Gaussian `rows` (n, D): ± the first columns of H.

        H = H_1 ⋯ H_n,   H_i = I − 2 v_i v_iᵀ turning x_i = (0, ..., 0, row_ii, ..., row_iD) to axis i
          = I − Vᵀ T V,  T⁻¹ = ½ I + the part of V Vᵀ above its diagonal

    (Stewart 1980, thm. 3.3; Joffrain et al. 2006); row i points along x_i before H_1 ⋯ H_i−1 turn it. Rows
    wait for each other only in a triangular system of n × n; in Gram and Schmidt's method, in everything.
    """
    count, dim = rows.shape
    axes = jnp.eye(count, dim, dtype=rows.dtype)
    tails = jnp.triu(rows)
    lengths = jnp.linalg.norm(tails, axis=1)
    signs = jnp.where(jnp.diagonal(tails) < 0, -1, 1).astype(rows.dtype)
    steps = signs * jnp.where(lengths > 0, lengths, 1)  # the last one is short, and may be 0
    v = tails + steps[:, None] * axes
    v = v / jnp.linalg.norm(v, axis=1, keepdims=True)
    inverse = jnp.triu(matmul(v, v.T), 1) + axes[:, :count] / 2
    products = jax.lax.platform_dependent(
        inverse, v[:, :count], cpu=_solve_in_turn, default=jax.scipy.linalg.solve_triangular
    )
    return signs[:, None] * (matmul(products.T, v) - axes)


def _solve_in_turn(upper: Array, right: Array) -> Array:
    """Returns X (n, m) with `upper` (n, n) X = `right`, upper triangular; from the last row to the first.

    On a busy CPU the threads of LAPACK wait for each other, and took a hundred times as long.
    """

    def step(found: Array, item: tuple[Array, Array, Array]) -> tuple[Array, None]:
        index, row, right = item  # what is found of this row is 0
        found_row = (right - matmul(row, found)) / row[index]
        return jax.lax.dynamic_update_index_in_dim(found, found_row, index, 0), None

    items = jnp.arange(len(upper), dtype=jnp.int32), upper, right
    nothing = chunks.varying_like(jnp.zeros_like(right), right)
    return jax.lax.scan(step, nothing, items, reverse=True)[0]


def _from_normal(noise: Noise, z: Array) -> Array:
    """Turns standard normal coordinates into the noise's, icdf(Φ(z)), by the lower tail where it can."""
    if noise == normal:
        return z
    if not noise.symmetric:
        return noise.icdf(inside(jax.scipy.special.ndtr(z)))
    lower = noise.icdf(inside(jax.scipy.special.ndtr(-jnp.abs(z))))
    return jnp.where(z < 0, lower, -lower)
