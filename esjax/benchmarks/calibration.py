"""`python -m esjax.benchmarks.calibration`: how good the σ of `esjax.sigma.calibrate` is for training.

Six blocks of different kinds are minimised by Adam with each σ of a grid; the final value with the σ that
`calibrate` chooses at the start is compared with the best of the grid.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import esjax
from esjax.benchmarks.problems import path_cost

Array = jax.Array


class Task(NamedTuple):
    """A block to be minimised.

    Attributes:
        name: for the table.
        fun: (D,) → (), > 0.
        x: (D,) where to start.
    """

    name: str
    fun: Callable[[Array], Array]
    x: Array


def main(num_seeds: int = 8) -> None:
    """Prints the table."""
    print(
        f"jax {jax.__version__}, esjax {esjax.__version__}; 200 steps of Adam, 64 samples, {num_seeds} keys; "
        "the rate is in units of the root mean square of x, and 0.1 is the default of `calibrate`\n"
    )
    print(
        "| block | rate | f at the start | sigma of calibrate | final f | best of the grid | its sigma "
        "| excess | share of the best fall |\n|---|---|---|---|---|---|---|---|---|"
    )
    for make in (sorting, shortest_path, rounding, threshold_count, inventory, noisy_quadratic):
        task = make()
        calibrate = partial(esjax.sigma.calibrate, task.fun, num_samples=64)
        found = jax.jit(calibrate)(jax.random.key(2**20), task.x)
        for rate in (0.1, 0.03):
            print(_row(task, found, rate, num_seeds), flush=True)


def _row(task: Task, found: esjax.sigma.Calibration, rate: float, num_seeds: int) -> str:
    keys = jax.random.split(jax.random.key(0), num_seeds)
    finals = jax.jit(jax.vmap(partial(final_value, task, rate), (0, None)))
    values = np.array([finals(keys, sigma) for sigma in found.sigmas]).mean(1)
    best, chosen = values.argmin(), int(np.argmax(found.sigmas == found.sigma))
    excess = values[chosen] / values[best] - 1
    share = (found.value - values[chosen]) / (found.value - values[best])
    return (
        f"| {task.name} | {rate} | {found.value:.3f} | {found.sigma:.3g} | {values[chosen]:.3f} "
        f"| {values[best]:.3f} | {found.sigmas[best]:.3g} | {excess:.1%} | {share:.1%} |"
    )


def _adam(task: Task, rate: float, num_steps: int) -> optax.GradientTransformation:
    scale = jnp.sqrt(jnp.mean(task.x**2))
    return optax.adam(optax.cosine_decay_schedule(rate * scale, num_steps))


def final_value(task: Task, rate: float, key: Array, sigma: Array, num_steps: int = 200) -> Array:
    """Returns f after Adam, whose rate begins at `rate` of the scale of x and decays along a cosine."""
    smoothed = esjax.smooth(task.fun, sigma=1.0, num_samples=64)
    adam = _adam(task, rate, num_steps)

    def step(carry: Any, key: Array) -> Any:
        x, state = carry
        updates, state = adam.update(jax.grad(smoothed, argnums=1)(key, x, sigma=sigma), state)
        return (optax.apply_updates(x, updates), state), None

    (x, _), _ = jax.lax.scan(step, (task.x, adam.init(task.x)), jax.random.split(key, num_steps))
    return task.fun(x)


# --- the blocks -----------------------------------------------------------------------------------------


def _arrays(seed: int, *shapes: tuple[int, ...]) -> list[Array]:
    random = np.random.RandomState(seed)
    return [jnp.asarray(random.randn(*shape), jnp.float32) for shape in shapes]


def sorting(num_lists: int = 16, length: int = 10, dim: int = 8) -> Task:
    """1 − Spearman's correlation of noisy ranks with those of linear scores; scaling x changes nothing."""
    features, weights, noise, x = _arrays(0, (num_lists, length, dim), (dim,), (num_lists, length), (dim,))
    centre = (length - 1) / 2

    def ranks(scores: Array) -> Array:
        return jnp.argsort(jnp.argsort(scores)).astype(jnp.float32) - centre

    true = ranks(jnp.tanh(features @ weights) + 0.5 * noise)

    def fun(x: Array) -> Array:
        return 1 - jnp.sum(ranks(features @ x) * true) / jnp.sum(true**2)

    return Task("sort", fun, x)


def shortest_path(size: int = 6, dim: int = 5, num_grids: int = 8) -> Task:
    """True cost, over the least, of paths through grids that are shortest by predicted costs."""
    features, weights, noise, x = _arrays(
        2, (num_grids, size, size, dim), (dim,), (num_grids, size, size), (dim,)
    )
    true = jax.nn.softplus(features @ weights + 0.7 * noise) + 0.1
    best = jax.vmap(lambda costs: path_cost(costs, costs))(true)

    def fun(x: Array) -> Array:
        predicted = jax.nn.softplus(features @ x) + 0.01
        return jnp.mean(jax.vmap(path_cost)(predicted, true) / best)

    return Task("shortest path", fun, x)


def rounding(dim: int = 20) -> Task:
    """Relative squared error of an integer least-squares problem."""
    matrix, solution, noise, x = _arrays(4, (2 * dim, dim), (dim,), (2 * dim,), (dim,))
    target = matrix @ (3 * solution) + 2 * noise
    return Task(
        "rounding", lambda x: jnp.sum((matrix @ jnp.round(x) - target) ** 2) / jnp.sum(target**2), 3 * x
    )


def threshold_count(num_examples: int = 400, dim: int = 10) -> Task:
    """Share of wrong signs of a linear classifier, 15 % of the labels flipped; scaling x changes nothing."""
    features, weights, x = _arrays(6, (num_examples, dim), (dim,), (dim,))
    flipped = jax.random.bernoulli(jax.random.key(6), 0.15, (num_examples,))
    labels = jnp.sign(features @ weights) * jnp.where(flipped, -1, 1)
    return Task("threshold count", lambda x: jnp.mean(features @ x * labels <= 0, dtype=jnp.float32), x)


def inventory(num_goods: int = 4, num_days: int = 100) -> Task:
    """Daily cost of ordering up to S when the stock is at most s: simulated by NumPy, on the host."""
    demand = np.random.RandomState(8).poisson(np.array([3.0, 8.0, 15.0, 5.0]), (num_days, num_goods))

    def simulate(x: Any) -> Any:
        low = np.rint(np.asarray(x)[..., :num_goods])
        high = np.maximum(np.rint(np.asarray(x)[..., num_goods:]), low + 1)
        stock, cost = high, np.zeros(high.shape[:-1])
        for sold in demand:
            stock = stock - sold
            order = stock <= low
            cost += np.sum(np.where(stock > 0, 0.2 * stock, -3.0 * stock) + 20.0 * order, -1)
            stock = np.where(order, high, stock)
        return np.asarray(cost / num_days, np.float32)

    def fun(x: Array) -> Array:
        return jax.pure_callback(simulate, jnp.float32(0), x, vmap_method="expand_dims")

    return Task("inventory, on the host", fun, jnp.repeat(jnp.array([10.0, 20.0]), num_goods))


def noisy_quadratic(dim: int = 20) -> Task:
    """A quadratic with condition 100 and ripples of wavelength 1/4; its least value, 0.1, is known."""
    optimum, x = _arrays(9, (dim,), (dim,))
    curvature = jnp.geomspace(0.1, 10.0, dim)

    def fun(x: Array) -> Array:
        away = x - optimum
        return 0.1 + jnp.mean(curvature * away**2) + 0.3 * jnp.mean(1 - jnp.cos(8 * math.pi * away))

    return Task("noisy quadratic", fun, 2 * x)


if __name__ == "__main__":
    main()
