"""The 24 strategies of Petersen et al. (2024, arXiv 2410.08125, sec. 4.1) against a Jacobian's variance.

A strategy is a way to draw N points u of the unit cube, from which ε = icdf(u), and a covariate that is
subtracted from the values: J = (1/N) Σ_n (f_n − b_n) s(ε_n)ᵀ / σ. Eight ways, each with three covariates:

- `mc`: independent points;
- `qmc`, `rqmc`: Latin hypercubes, at the middle of each stratum or anywhere in it;
- `cartesian qmc`, `cartesian rqmc`: a grid of ⌊N^(1/n)⌋ cells along each of n axes, likewise;
- `mc`, `rqmc` and `cartesian rqmc` antithetic: half of the points mirrored at the centre of the cube.

The points at the middles are symmetric already, and the estimate with them is biased. Which eight ways make
up the paper's 24 strategies is our reading of it; antithetic cells here use all N evaluations.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import esjax

Array = np.ndarray[Any, np.dtype[Any]]
Points = Callable[[np.random.Generator, int, int], Array]  # (N, n) -> (N or a little less, n) in (0, 1)
Covariate = Callable[[Array, Array], Array]  # (values (N, m), value at x (m,)) -> what is left of the values


_INSIDE = 2.0**-24
"""How near points may come to 0 and 1, so that no ε is infinite in float32."""


class Strategy(NamedTuple):
    """One of the 24."""

    name: str
    points: Points
    covariate: Covariate


def jacobian(
    strategy: Strategy,
    fun: Callable[[Array], Array],
    noise: esjax.noise.Noise,
    sigma: float,
    num_samples: int,
    random: np.random.Generator,
    x: Array,
) -> Array:
    """Returns an estimate (m, n) of the Jacobian of E[fun(x + σ ε)], fun: (..., n) → (..., m) in NumPy."""
    points = strategy.points(random, num_samples, x.size)
    eps = noise.icdf(jnp.clip(jnp.asarray(points, jnp.float32), _INSIDE, 1 - _INSIDE))
    left = strategy.covariate(fun(x + sigma * np.asarray(eps)), fun(x))
    return left.T @ np.asarray(noise.score(eps)) / (len(eps) * sigma)


# --- points ---------------------------------------------------------------------------------------------


def _mc(random: np.random.Generator, num_samples: int, dim: int) -> Array:
    return random.random((num_samples, dim))


def _strata(random: np.random.Generator, num_samples: int, dim: int) -> Array:
    return random.permuted(np.tile(np.arange(num_samples)[:, None], dim), axis=0)


def _qmc(random: np.random.Generator, num_samples: int, dim: int) -> Array:
    return (_strata(random, num_samples, dim) + 0.5) / num_samples


def _rqmc(random: np.random.Generator, num_samples: int, dim: int) -> Array:
    return (_strata(random, num_samples, dim) + random.random((num_samples, dim))) / num_samples


def _cells(num_samples: int, dim: int) -> tuple[Array, int]:
    """Returns the corners (k^n, n) of the cells of a grid, in units of a cell, and k."""
    num_cells = math.floor(num_samples ** (1 / dim) + 1e-9)
    return np.stack(np.meshgrid(*[np.arange(num_cells)] * dim, indexing="ij"), -1).reshape(-1, dim), num_cells


def _cartesian_qmc(random: np.random.Generator, num_samples: int, dim: int) -> Array:
    del random
    corners, num_cells = _cells(num_samples, dim)
    return (corners + 0.5) / num_cells


def _cartesian_rqmc(random: np.random.Generator, num_samples: int, dim: int) -> Array:
    corners, num_cells = _cells(num_samples, dim)
    return (corners + random.random(corners.shape)) / num_cells


def _antithetic_halves(points: Points) -> Points:
    """Draws half of the points and mirrors them."""

    def both(random: np.random.Generator, num_samples: int, dim: int) -> Array:
        half = points(random, num_samples // 2, dim)
        return np.concatenate([half, 1 - half])

    return both


def _antithetic_cells(random: np.random.Generator, num_samples: int, dim: int) -> Array:
    """Draws a point in every cell of the grid's first half; those in the mirrored cells are mirrored."""
    points = _cartesian_rqmc(random, num_samples, dim)
    half = len(points) // 2
    return np.concatenate([points[:half], points[half : len(points) - half], 1 - points[:half]])


_POINTS: dict[str, Points] = {
    "mc": _mc,
    "mc, antithetic": _antithetic_halves(_mc),
    "qmc": _qmc,
    "rqmc": _rqmc,
    "rqmc, antithetic": _antithetic_halves(_rqmc),
    "cartesian qmc": _cartesian_qmc,
    "cartesian rqmc": _cartesian_rqmc,
    "cartesian rqmc, antithetic": _antithetic_cells,
}

# --- covariates -----------------------------------------------------------------------------------------


def _no_covariate(values: Array, at_input: Array) -> Array:
    del at_input
    return values


def _value_at_input(values: Array, at_input: Array) -> Array:
    return values - at_input


def _mean_of_others(values: Array, at_input: Array) -> Array:
    del at_input
    return values - (values.sum(0) - values) / (len(values) - 1)


_COVARIATES: dict[str, Covariate] = {
    "none": _no_covariate,
    "f(x)": _value_at_input,
    "leave-one-out": _mean_of_others,
}

ALL = tuple(
    Strategy(f"{way}, {covariate}", points, take_off)
    for way, points in _POINTS.items()
    for covariate, take_off in _COVARIATES.items()
)
"""The 24 strategies."""
