"""Shortest paths across hills of which only the shade is seen: the Jacksboro model, shipped in matplotlib.

A network predicts the cost of each cell of a 10 × 10 grid from the shade around it. Dijkstra's algorithm
finds the cheapest route between two corners; its regret is its true cost over the least, minus 1.
Baselines are two-stage: the same network trained on the squared error of costs, and of their logarithms.
Ours: on the regret itself, or on the Fenchel–Young loss of the best routes, from where the second baseline
ends, plus a share of that baseline's loss. Each method chooses among four options on a strip of the training
area.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import esjax
from esjax.tasks import frame, models, terrain

Array = jax.Array

_BATCH = 32
_HIDDEN = 16
_NUM_TILES = 8000  # to train on, at random
_STEP = 4  # pixels from one tile to the next, elsewhere
_TWO_STAGE = frame.grid(num_steps=(2000, 6000), rate=(0.003, 0.01))
_REGRET_STEPS = 400
_REGRET = frame.grid(share=(0.1, 0.5), sigma=(0.05, 0.1))
_ROUTES = frame.grid(share=(0.1, 0.5), sigma=(0.1, 0.3))
_KEPT = 20_000  # routes that are known to be best


def task() -> frame.Task:
    """Returns the task."""
    return frame.Task(
        title="regret of routes across Jacksboro",
        baseline="two-stage, costs",
        ours="regret itself",
        higher_is_better=False,
        seeds=2 * terrain.NUM_STRIPS,
        test_over_train=1 / (terrain.NUM_STRIPS - 1),
        compare=compare,
        fits=2 * (len(_TWO_STAGE) + 1) + 1 + len(_REGRET) + 1 + len(_ROUTES) + 1,
    )


def compare(seed: int, on_fit: Callable[[], None] = frame.nothing) -> dict[str, float]:
    """Returns the mean regret on the test strip of each method; see `frame.Task`."""
    areas, rng = terrain.strips(seed), np.random.default_rng(seed)
    train, both = (
        terrain.cut(rng.choice(terrain.corners(parts, 1), _NUM_TILES, replace=False))
        for parts in (areas["training"], areas["training"] + areas["validation"])
    )
    validation, test = (terrain.cut(terrain.corners(areas[name], _STEP)) for name in ("validation", "test"))
    start = models.init(jax.random.key(seed), terrain.PATCH**2, 1, _HIDDEN)

    def fitted(loss: models.Loss, first: models.Params, tiles: terrain.Tiles, **how: Any) -> models.Params:
        params = _fit(loss, first, seed, tiles, **how)
        on_fit()
        return params

    def two_stage(loss: models.Loss, tiles: terrain.Tiles, options: dict[str, Any]) -> models.Params:
        return fitted(loss, start, tiles, **options)

    def on_regret(first: models.Params, tiles: terrain.Tiles, options: dict[str, Any]) -> models.Params:
        return fitted(_regret_loss(**options), first, tiles, num_steps=_REGRET_STEPS, rate=0.001)

    def on_routes(first: models.Params, tiles: terrain.Tiles, options: dict[str, Any]) -> models.Params:
        return fitted(_routes_loss(**options), first, tiles, num_steps=_REGRET_STEPS, rate=0.001)

    def chosen(candidates: Sequence[dict[str, Any]], fit: Callable[..., models.Params], how: Any) -> Any:
        return min(candidates, key=lambda options: regret(fit(how, train, options), validation))

    costs = two_stage(_squared_error, both, chosen(_TWO_STAGE, two_stage, _squared_error))
    options = chosen(_TWO_STAGE, two_stage, _squared_error_of_logarithms)
    first, logarithms = (two_stage(_squared_error_of_logarithms, tiles, options) for tiles in (train, both))
    ours = on_regret(logarithms, both, chosen(_REGRET, on_regret, first))
    routes = on_routes(logarithms, both, chosen(_ROUTES, on_routes, first))
    found = {
        "two-stage, costs": costs,
        "two-stage, logarithms": logarithms,
        "regret itself": ours,
        "Fenchel–Young": routes,
    }
    return {name: regret(params, test) for name, params in found.items()}


def predict(params: models.Params, shade: Any) -> Array:
    """Returns the costs (..., 100) of the cells in windows of shade (..., 28, 28)."""
    pixels = np.arange(terrain.WINDOW**2).reshape(terrain.WINDOW, terrain.WINDOW)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (terrain.PATCH, terrain.PATCH))
    patches = windows[:: terrain.CELL, :: terrain.CELL]
    seen = shade.reshape(*shade.shape[:-2], -1)[..., patches.reshape(terrain.SIZE**2, -1)]
    return jnp.exp(models.scores(params, seen)[..., 0])


def regret(params: models.Params, tiles: terrain.Tiles) -> float:
    """Returns how much more the routes cost than the best ones, as a mean share of the latter."""
    routes = np.stack([terrain.shortest_route(costs) for costs in np.asarray(predict(params, tiles.shade))])
    return float(((routes * tiles.costs).sum(1) / tiles.best - 1).mean())


def _fit(
    loss: models.Loss, params: models.Params, seed: int, tiles: terrain.Tiles, **how: Any
) -> models.Params:
    data = tuple(jnp.asarray(array) for array in tiles)
    return models.fit(loss, params, jax.random.key(seed), data, decay=0.0, **how)


def _batch(key: Any, data: tuple[Array, ...]) -> tuple[Array, ...]:
    rows = jax.random.randint(key, (_BATCH,), 0, len(data[0]))
    return tuple(array[rows] for array in data)


def _squared_error(params: models.Params, key: Any, data: tuple[Array, ...]) -> Array:
    shade, costs, _ = _batch(key, data)
    return ((predict(params, shade) - costs) ** 2).mean()


def _squared_error_of_logarithms(params: models.Params, key: Any, data: tuple[Array, ...]) -> Array:
    shade, costs, _ = _batch(key, data)
    return ((jnp.log(predict(params, shade)) - jnp.log(costs)) ** 2).mean()


@cache
def _regret_loss(sigma: float, share: float) -> models.Loss:
    smoothed = smooth_cost(sigma, num_samples=8)

    def loss(params: models.Params, key: Any, data: tuple[Array, ...]) -> Array:
        batch_key, smooth_key, other_key = jax.random.split(key, 3)
        shade, costs, best = _batch(batch_key, data)
        predicted = _scaled(predict(params, shade), costs)
        paid = jax.vmap(smoothed)(jax.random.split(smooth_key, len(best)), predicted, costs)
        return (paid / best - 1).mean() + share * _squared_error_of_logarithms(params, other_key, data)

    return loss


@cache
def _routes_loss(sigma: float, share: float) -> models.Loss:
    of_one = esjax.losses.fenchel_young(
        lambda theta: _route(-theta),
        sigma=sigma,
        num_samples=8,
        perturbation=esjax.losses.multiplicative,
        sampler=esjax.samplers.antithetic,
    )

    def loss(params: models.Params, key: Any, data: tuple[Array, ...]) -> Array:
        batch_key, noise_key, other_key = jax.random.split(key, 3)
        shade, costs, best = _batch(batch_key, data)
        predicted = _scaled(predict(params, shade), costs)
        lost = jax.vmap(of_one)(
            jax.random.split(noise_key, len(best)), -predicted, jax.vmap(_best_route)(costs)
        )
        return (lost / best).mean() + share * _squared_error_of_logarithms(params, other_key, data)

    return loss


def _scaled(predicted: Array, costs: Array) -> Array:
    """Returns predicted costs with the mean of the true ones (B, 100): scale does not change a route."""
    return predicted * (costs.mean(1) / predicted.mean(1))[:, None]


_route = esjax.host.wrap(terrain.shortest_route, np.zeros(terrain.SIZE**2, np.float32))
_best_route = esjax.host.wrap(terrain.shortest_route, np.zeros(terrain.SIZE**2, np.float32), cache_size=_KEPT)
"""The route under true costs: the same in every epoch and for every option, and so looked up."""


def smooth_cost(sigma: float, *, num_samples: int) -> Callable[[Any, Array, Array], Array]:
    """Makes `(key, predicted, true) -> F`: what the predicted route costs in truth, smoothed; all (n²,).

        V(h) = least Σ (predicted + h true) of all routes      F = d/dh E[V(h + σ ε)] at h = 0

    with normal ε. V's derivative in h is the true cost of the route, so F is its mean where the predicted
    costs are perturbed along the true ones. V's derivative in the predicted costs is the route itself, so
    the gradient of F is how routes change with h: one number to perturb, however many cells there are.
    (Pogančić et al. 2020, eq. 2, look along this direction, too.)
    """

    def least(h: Array, predicted: Array, true: Array) -> Array:
        costs = jnp.maximum(predicted + h * true, 1e-3)
        return (_route(jax.lax.stop_gradient(costs)) * costs).sum()

    smoothed = esjax.smooth(least, sigma=sigma, num_samples=num_samples, sampler=esjax.samplers.antithetic)
    slope = jax.grad(smoothed, argnums=1)
    return lambda key, predicted, true: slope(key, 0.0, predicted, true)
