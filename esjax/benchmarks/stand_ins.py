"""Black boxes with differentiable stand-ins, by hand: sharp where all noise counts, gentle with credit."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.stats import norm
from sklearn.datasets import load_digits

import esjax
from esjax.benchmarks import problems
from esjax.benchmarks.problems import Problem

Array = jax.Array


class StandIn(NamedTuple):
    """A problem and what stands in for its block.

    Attributes:
        problem: the block.
        control: `(D,) -> ()`, differentiable.
        with_credit: another one, for where a coordinate's gradient needs few terms; None: there are none.
    """

    problem: Problem
    control: Callable[[Array], Array]
    with_credit: Callable[[Array], Array] | None = None


def stairs(x: Array, width: float) -> Array:
    """`round`, with ramps of a width below 1 in place of its steps."""
    below = jnp.floor(x)
    return below + jnp.clip((x - below - 0.5) / width + 0.5, 0, 1)


def rounding(dim: int) -> StandIn:
    """Narrow ramps for steps; with credit no steps at all."""
    return StandIn(
        problems.rounding(dim),
        lambda x: jnp.mean((stairs(x, 0.15) - 0.3) ** 2),
        lambda x: jnp.mean((x - 0.3) ** 2),
    )


def threshold_count(dim: int) -> StandIn:
    """A ramp for a step."""
    return StandIn(
        problems.threshold_count(dim),
        lambda x: jnp.mean(jnp.clip(x / 0.25 + 0.5, 0, 1)),
        lambda x: jnp.mean(jnp.clip(x / 1.2 + 0.5, 0, 1)),
    )


def rank_correlation(dim: int) -> StandIn:
    """Ranks as if x were normal, from its mean and spread: D numbers, where comparisons would be D²."""
    target = jnp.linspace(-1.0, 1.0, dim)
    scale = jnp.linalg.norm(jnp.arange(dim) - (dim - 1) / 2) * jnp.linalg.norm(target)

    def control(x: Array) -> Array:
        return dim * norm.cdf((x - x.mean()) / jnp.std(x)) @ target / scale

    return StandIn(problems.rank_correlation(dim), control)


def argmax_accuracy(num_classes: int = 1000, sigma: float = 1.0, width: float = 0.1) -> StandIn:
    """Whether the label, second of the logits, is first: a sigmoid of its lead over the largest other one."""
    x = jax.random.normal(jax.random.key(3), (num_classes,))
    label = int(jnp.argsort(x)[-2])
    is_other = jnp.arange(num_classes) != label
    gradient = jax.grad(lambda x: esjax.exact.argmax_probs(x, sigma)[label])(x)

    def control(x: Array) -> Array:
        return jax.nn.sigmoid((x[label] - jnp.where(is_other, x, -jnp.inf).max()) / width)

    def fun(x: Array) -> Array:
        return (x.argmax() == label).astype(x.dtype)

    return StandIn(
        Problem(f"argmax accuracy, {num_classes:,} classes", fun, gradient, x, sigma, 256), control
    )


# --- a solver and a network --------------------------------------------------------------------------


def shortest_path(size: int, long_run: int, temperature: float = 0.04) -> StandIn:
    """True cost of a random walk to the goal that prefers short paths: a soft distance's slope in costs."""
    problem = problems.shortest_path(size, long_run=long_run)
    true = jax.nn.softplus(jax.random.normal(jax.random.key(0), (size, size))) + 0.1
    least = problems.path_cost(true, true)
    is_goal = jnp.zeros((size, size), bool).at[-1, -1].set(True)

    def distance(costs: Array) -> Array:
        def relax(distances: Array, _: Any) -> tuple[Array, None]:
            d = jnp.pad(distances, 1, constant_values=1e3)
            near = jnp.stack([d[:-2, 1:-1], d[2:, 1:-1], d[1:-1, :-2], d[1:-1, 2:]])
            nearest = -temperature * jax.nn.logsumexp(-near / temperature, axis=0)
            return costs + jnp.where(is_goal, 0, nearest), None

        start = jnp.where(is_goal, costs, 50.0)
        return jax.lax.scan(relax, start, length=3 * size)[0][0, 0]

    def control(x: Array) -> Array:
        costs = jax.nn.softplus(x).reshape(size, size)
        return jax.jvp(distance, (costs,), (true,))[1] / least

    return StandIn(problem, control)


def quantised_network(long_run: int, hidden: int = 32, step: float = 0.1) -> StandIn:
    """Cross-entropy of 64 digits by an MLP whose weights are rounded to steps; ramps for the steps."""
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images[:64] / 16, jnp.float32), jnp.asarray(labels[:64])
    keys = jax.random.split(jax.random.key(0), 2)
    sizes = [(64, hidden), (hidden, 10)]
    weights = [1.4 * jax.random.normal(k, s) / s[0] ** 0.5 for k, s in zip(keys, sizes, strict=True)]
    x, unravel = ravel_pytree(weights)

    def loss(x: Array) -> Array:
        first, second = unravel(x)
        logits = jax.nn.relu(images @ first) @ second
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(64), labels])

    def fun(x: Array) -> Array:
        return loss(step * jnp.round(x / step))

    sigma, num_at_once = step / 2, 512

    def add(total: Array, key: Any) -> tuple[Array, None]:
        eps = jax.random.normal(key, (num_at_once, x.size))
        up, down = (jax.vmap(fun)(x + sign * sigma * eps) for sign in (1, -1))
        return total + (up - down) @ eps / (2 * sigma), None

    keys = jax.random.split(jax.random.key(9), long_run // num_at_once)
    gradient = jax.jit(lambda: jax.lax.scan(add, jnp.zeros_like(x), keys)[0])() / len(keys) / num_at_once
    problem = Problem(f"quantised network, D = {x.size:,}", fun, gradient, x, sigma, 256)
    return StandIn(problem, lambda x: loss(step * stairs(x / step, 0.3)))


# --- a program on the host ---------------------------------------------------------------------------


class Queue(NamedTuple):
    """A simulation of a queue, with the gradient of its smoothed result.

    Attributes:
        problem: its block is the same program in JAX, for the reference and for errors.
        on_host: the program in Python, `(D,) -> ()`.
    """

    problem: Problem
    on_host: Callable[[Any], Any]


def queue(long_run: int, num_customers: int = 500, sigma: float = 0.1) -> Queue:
    """Mean wait of customers who come every 10 ticks, and are served in 10 exp(x) ticks, rounded up."""
    noise = jax.random.normal(jax.random.key(1), (num_customers,))
    x = jnp.log(0.85) + 0.2 * noise

    def fun(x: Array) -> Array:
        def serve(wait: Array, service: Array) -> tuple[Array, Array]:
            return jnp.maximum(wait + service - 10, 0), wait

        return jax.lax.scan(serve, jnp.float32(0), jnp.ceil(10 * jnp.exp(x)))[1].mean()

    def add(total: Array, key: Any) -> tuple[Array, None]:
        eps = jax.random.normal(key, (512, num_customers))
        up, down = (jax.vmap(fun)(x + sign * sigma * eps) for sign in (1, -1))
        return total + (up - down) @ eps / (2 * sigma), None

    keys = jax.random.split(jax.random.key(2), long_run // 512)
    gradient = jax.jit(lambda: jax.lax.scan(add, jnp.zeros_like(x), keys)[0])() / len(keys) / 512
    name = f"queue, D = {num_customers}"
    return Queue(Problem(name, fun, gradient, x, sigma, 64), _mean_wait)


def _mean_wait(x: Any) -> Any:
    wait, total = 0.0, 0.0
    for service in np.ceil(10 * np.exp(x)).tolist():
        total += wait
        wait = max(wait + service - 10, 0.0)
    return np.float32(total / len(x))
