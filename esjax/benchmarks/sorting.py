"""Hard sorting and ranking: the defaults beside 24 strategies, optax and jaxopt, for six noises."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import esjax
from esjax.benchmarks import measure, peers, references, strategies
from esjax.benchmarks.report import Claim, Row, Section, Table
from esjax.train import tables

Array = jax.Array
_NUM_SAMPLES = 1024
_SIGMA = 1.0


class Block(NamedTuple):
    """A block (n,) → (n,) and the Jacobian of its smoothed value.

    Attributes:
        fun: in JAX, for one vector.
        of_rows: in NumPy, along the last axis.
        jacobian: `(x, sigma, law) -> (n, n)`.
    """

    fun: Callable[[Array], Array]
    of_rows: Callable[[Any], Any]
    jacobian: Callable[[Any, float, Any], Any]


def _ranks(x: Array) -> Array:
    return jnp.argsort(jnp.argsort(x)).astype(x.dtype)


BLOCKS = {
    "sort": Block(jnp.sort, np.sort, references.sort_jacobian),
    "rank": Block(_ranks, lambda x: x.argsort(-1).argsort(-1).astype(x.dtype), references.rank_jacobian),
}


def run(quick: bool) -> Section:
    """Measures sorting of n = 5 where `quick`, else both blocks, for n = 3, 5 and 10."""
    found, claims = [], []
    for size in (5,) if quick else (3, 5, 10):
        for name in ("sort",) if quick else BLOCKS:
            table, ratios = _compare(
                name, size, num_points=1 if quick else 3, num_repeats=20 if quick else 100
            )
            found.append(table)
            if (name, size) == ("sort", 5):
                claims += [
                    Claim(f"hard sort, n = 5, {noise} noise: error over that of the best of 24", ratio, 1.0)
                    for noise, ratio in ratios.items()
                ]
    return Section("Hard sorting and ranking", found, claims, [])


def _compare(name: str, size: int, num_points: int, num_repeats: int) -> tuple[Table, dict[str, float]]:
    block = BLOCKS[name]
    points = [np.random.RandomState(seed).randn(size).astype(np.float32) for seed in range(num_points)]
    rows: list[Row] = []
    ratios = {}
    for noise, law in references.LAWS.items():
        exact = [block.jacobian(x.astype(np.float64), _SIGMA, law) for x in points]
        of_24 = _errors_of_strategies(block, noise, points, exact, num_repeats)
        best = min(of_24, key=lambda title: of_24[title][0])
        options: tuple[Any, ...] = (block.fun, noise, _SIGMA, _NUM_SAMPLES)
        others = {
            "esjax": peers.esjax_jacobian(*options),
            "esjax, at_input": peers.esjax_jacobian(*options, baseline=esjax.baselines.at_input),
            "optax": peers.optax_jacobian(*options),
            "jaxopt": peers.jaxopt_jacobian(*options),
        }
        errors: dict[str, Any] = {
            title: "no such noise" if estimator is None else _errors(estimator, points, exact, num_repeats)
            for title, estimator in others.items()
        }
        ratios[noise] = errors["esjax"][0] / of_24[best][0]
        rows.append(
            {"noise": noise, "best of 24": best, "its error": of_24[best]}
            | errors
            | {"esjax over best": ratios[noise]}
        )
    what = f"mean of ‖J − J*‖ / ‖J*‖ over {num_points} points and {num_repeats} keys"
    return Table(f"Hard {name}, n = {size}, {_NUM_SAMPLES:,} samples, σ = 1: {what}", rows), ratios


def _errors_of_strategies(
    block: Block, noise: str, points: list[Any], exact: list[Any], num_repeats: int
) -> dict[str, tuple[float, float]]:
    chosen: Any = getattr(esjax.noise, noise)
    jitted = chosen._replace(icdf=jax.jit(chosen.icdf), score=jax.jit(chosen.score))
    found = {}
    for strategy in strategies.ALL:
        estimate = partial(strategies.jacobian, strategy, block.of_rows, jitted, _SIGMA, _NUM_SAMPLES)
        random = np.random.default_rng(0)
        errors = [
            [measure.relative_error(estimate(random, x), wanted) for _ in range(num_repeats)]
            for x, wanted in zip(points, exact, strict=True)
        ]
        found[strategy.name] = tables.mean_and_error(np.mean(errors, axis=0))
    return found


def _errors(
    estimator: peers.Jacobian, points: list[Any], exact: list[Any], num_repeats: int
) -> tuple[float, float]:
    compiled = jax.jit(estimator)
    errors = [
        measure.relative_errors(compiled, wanted, jnp.asarray(x), num_repeats=num_repeats)
        for x, wanted in zip(points, exact, strict=True)
    ]
    return tables.mean_and_error(np.mean(errors, axis=0))
