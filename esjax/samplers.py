"""Samplers: how the N perturbations of one gradient are drawn together.

A sampler draws in *groups*. Samples of one group may depend on each other (that is where variance is
saved); each sample by itself has the distribution of the noise (so every estimate stays unbiased), and
groups are independent (so a group may be compared with the others, see `esjax.baselines`).
Group g of a call is drawn from `jax.random.fold_in(key, g)`: the draws do not depend on the chunking.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esjax import _mapping, _random, _sobol
from esjax._check import check_count
from esjax._products import matmul
from esjax.noise import Noise, normal

__all__ = [
    "Groups",
    "Sampler",
    "antithetic",
    "auto",
    "iid",
    "latin_hypercube",
    "orthogonal",
    "sobol",
]

Array = jax.Array


class Groups(NamedTuple):
    """How one group is drawn.

    Attributes:
        size: samples in a group, in [1, N]; the last group is cut short where N is no multiple.
        draw: `(key, dtype) -> (size, dim)` perturbations ε.
    """

    size: int
    draw: Callable[[Any, Any], Array]


Sampler = Callable[[int, int, Noise], Groups]
"""`(num_samples, dim, noise) -> Groups`, N ≥ 1, D ≥ 0; raises `ValueError` where it cannot serve these."""

_GROUP_FLOATS = 2**16
"""The most numbers in one group, 256 KB in float32: where a group fits the cache, structure costs little."""


def iid(num_samples: int, dim: int, noise: Noise) -> Groups:
    """Independent draws: N groups of one."""
    _check(num_samples, dim, noise)
    return Groups(1, lambda key, dtype: noise.sample(key, (1, dim), dtype))


def antithetic(num_samples: int, dim: int, noise: Noise) -> Groups:
    """Pairs (ε, −ε): N/2 groups of two (Hammersley and Morton 1956).

    Even parts of the block cancel out of the gradient in x.

    Raises:
        ValueError: the noise is not symmetric, or N is odd.
    """
    _check(num_samples, dim, noise)
    if not noise.symmetric:
        raise ValueError(
            "sampler=antithetic pairs ε with −ε, which needs symmetric noise; "
            "use symmetric noise such as esjax.noise.normal, or sampler=esjax.samplers.iid"
        )
    if num_samples % 2:
        raise ValueError(
            f"num_samples={num_samples} is odd, and sampler=antithetic draws pairs (ε, −ε); "
            f"use num_samples={max(num_samples + 1, 4)}, or sampler=esjax.samplers.iid"
        )

    def draw(key: Any, dtype: Any) -> Array:
        eps = noise.sample(key, (1, dim), dtype)
        return jnp.concatenate([eps, -eps])

    return Groups(2, draw)


def orthogonal(num_samples: int, dim: int, noise: Noise) -> Groups:
    """Groups of at most D samples in orthogonal directions, D = `dim` (Choromanski et al. 2018, sec. 3).

    For normal noise the directions are rows of a random rotation and the lengths independent, so that each
    sample is exactly N(0, I). Other noise is icdf(Φ(z)) of such z: its coordinates are independent within
    a sample, and nearly uncorrelated between samples. Groups are also at most about N/2, so that there
    are two to compare, and at most 2¹⁶ numbers: making n directions orthogonal takes O(n² D).
    """
    _check(num_samples, dim, noise)
    if dim == 0:
        return iid(num_samples, dim, noise)
    size = min(dim, _half(num_samples, dim))

    def draw(key: Any, dtype: Any) -> Array:
        return _from_normal(noise, _orthogonal_normal(key, size, dim, dtype))

    return Groups(size, draw)


def latin_hypercube(num_samples: int, dim: int, noise: Noise) -> Groups:
    """Groups in which every coordinate visits every stratum of the noise once (McKay et al. 1979).

        ε_ij = icdf((π_j(i) + u_ij) / size),   u uniform on (0, 1)

    with an independent random permutation π_j of 0, ..., size − 1 for each coordinate j. It removes the
    variance of sums of functions of one coordinate each. That helps values and one-dimensional problems
    most; in a gradient, products f(x + σε) s(ε) of many coordinates keep their variance. Groups are of
    about N/2 samples, so that there are two to compare, and of at most 2¹⁶ numbers.
    """
    _check(num_samples, dim, noise)
    size = _half(num_samples, dim)

    def draw(key: Any, dtype: Any) -> Array:
        permutation_key, jitter_key = jax.random.split(key)
        ordered = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32)[:, None], (size, dim))
        strata = jax.random.permutation(permutation_key, ordered, axis=0, independent=True)
        jitter = _random.uniform(jitter_key, (size, dim), dtype)
        return noise.icdf(_inside((strata.astype(dtype) + jitter) / size))

    return Groups(size, draw)


def sobol(num_samples: int, dim: int, noise: Noise) -> Groups:
    """Groups of scrambled Sobol' points, evenly spread over several coordinates at once (Owen 1995).

    Every group is scrambled by itself, and each of its points is uniform on (0, 1)ᴰ and becomes ε by
    the noise's icdf. Groups are the largest power of two up to about N/2, so that there are two to
    compare, and at most 2¹⁶ numbers: N a power of two suits best.

    Raises:
        ValueError: `dim` is above 21,201, where the known direction numbers end.
    """
    _check(num_samples, dim, noise)
    _sobol.check_dim(dim)
    log2_size = _log2_half(num_samples, dim)
    directions = _sobol.direction_numbers(log2_size, dim)

    def draw(key: Any, dtype: Any) -> Array:
        return noise.icdf(_sobol.scrambled_points(key, jnp.asarray(directions), dtype=dtype))

    return Groups(2**log2_size, draw)


def auto(num_samples: int, dim: int, noise: Noise) -> Groups:
    """The sampler with the smallest gradient error for this N and D = `dim`, as measured.

    - `sobol` where its groups have at least D² samples: about N ≥ 2 D², up to D = 32.
    - `orthogonal` where its groups have at least D/8 samples: about N ≥ D/4, up to D = 724.
    - `iid` beyond, where nothing else was measurably better, and all were slower.

    Measured: rank correlation, rounding, counts above a threshold and argmax, with `leave_one_out`; D from
    2 to 10,000, N from 4 to 2048, noise normal, logistic, laplace, gumbel and cauchy.
    """
    _check(num_samples, dim, noise)
    if 2 ** _log2_half(num_samples, dim) >= dim**2:
        return sobol(num_samples, dim, noise)
    groups = orthogonal(num_samples, dim, noise)
    return groups if 8 * groups.size >= dim else iid(num_samples, dim, noise)


def _check(num_samples: Any, dim: Any, noise: Any) -> None:
    check_count("num_samples", num_samples)
    if dim != 0:
        check_count("dim", dim)
    if not isinstance(noise, Noise):
        raise ValueError(f"noise={noise!r} is no Noise; use one of esjax.noise, such as normal")


def _half(num_samples: int, dim: int) -> int:
    """Returns the largest group size that leaves two groups, where N ≥ 2, and respects the bound."""
    return max(min(-(-num_samples // 2), _GROUP_FLOATS // max(dim, 1)), 1)


def _log2_half(num_samples: int, dim: int) -> int:
    """Returns the logarithm of the largest power of two up to `_half`."""
    return _half(num_samples, dim).bit_length() - 1


def _inside(u: Array) -> Array:
    """Moves what was rounded to 0 or 1 back inside (0, 1), by half the spacing of numbers below 2."""
    margin = float(np.finfo(u.dtype).eps) / 2
    return jnp.clip(u, margin, 1 - margin)


def _orthogonal_normal(key: Any, size: int, dim: int, dtype: Any) -> Array:
    """Returns (size, dim): rows N(0, I) in orthogonal directions.

    The directions depend on those of parts of the Gaussian rows only, and are independent of all lengths.
    So a row takes the length of the Gaussian row that it was made of.
    """
    rows = _random.normal(key, (size, dim), dtype)
    return jnp.linalg.norm(rows, axis=1, keepdims=True) * _rotation(rows)


@jax.jit
def _rotation(rows: Array) -> Array:
    """Returns n rows of a random rotation (D, D), for Gaussian `rows` (n, D): ± the first columns of H.

        H = H_1 ⋯ H_n,   H_i = I − 2 v_i v_iᵀ turning x_i = (0, ..., 0, row_ii, ..., row_iD) to axis i
          = I − Vᵀ T V,  T⁻¹ = ½ I + the part of V Vᵀ above its diagonal

    (Stewart 1980, thm. 3.3; Joffrain et al. 2006); row i points along x_i before H_1 ⋯ H_i−1 turn it. Rows
    wait for each other in a triangular system of n × n only, where Gram and Schmidt's wait in everything.
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
    nothing = _mapping.varying_like(jnp.zeros_like(right), right)
    return jax.lax.scan(step, nothing, items, reverse=True)[0]


def _from_normal(noise: Noise, z: Array) -> Array:
    """Turns standard normal coordinates into the noise's, icdf(Φ(z)), by the lower tail where it can."""
    if noise == normal:
        return z
    if not noise.symmetric:
        return noise.icdf(_inside(jax.scipy.special.ndtr(z)))
    lower = noise.icdf(_inside(jax.scipy.special.ndtr(-jnp.abs(z))))
    return jnp.where(z < 0, lower, -lower)
