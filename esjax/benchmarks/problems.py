"""Black boxes with a known smoothed value under normal noise, so that errors have an exact reference."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

Array = jax.Array


class Problem(NamedTuple):
    """A block to differentiate at x.

    Attributes:
        name: for the table.
        fun: the block, (D,) → ().
        smoothed: E[fun(x + σ ε)] in closed form, (D,) → (), differentiable.
        x: (D,) float32.
        sigma: σ.
    """

    name: str
    fun: Callable[[Array], Array]
    smoothed: Callable[[Array], Array]
    x: Array
    sigma: float


def rank_correlation(dim: int, sigma: float = 0.5) -> Problem:
    """Spearman's correlation of x with fixed ranks: E[rank_i] = Σ_{j≠i} Φ((x_i − x_j) / (σ √2))."""
    target = jnp.linspace(-1.0, 1.0, dim)
    centre = (dim - 1) / 2
    scale = jnp.linalg.norm(jnp.arange(dim) - centre) * jnp.linalg.norm(target)

    def fun(x: Array) -> Array:
        ranks = jnp.argsort(jnp.argsort(x)).astype(x.dtype)
        return (ranks - centre) @ target / scale

    def smoothed(x: Array) -> Array:
        ranks = norm.cdf((x[:, None] - x[None, :]) / (sigma * 2**0.5)).sum(1) - 0.5
        return (ranks - centre) @ target / scale

    return Problem(f"rank correlation, D = {dim}", fun, smoothed, _point(dim), sigma)


def rounding(dim: int, sigma: float = 0.5, target: float = 0.3) -> Problem:
    """Mean squared distance of the rounded x from a target off the grid, a sum of steps between integers."""
    steps = jnp.arange(-20.0, 20.0)

    def fun(x: Array) -> Array:
        return jnp.mean((jnp.round(x) - target) ** 2)

    def smoothed(x: Array) -> Array:
        heights = (steps + 1 - target) ** 2 - (steps - target) ** 2
        above = norm.cdf((x[:, None] - steps[None, :] - 0.5) / sigma)
        return jnp.mean(above @ heights) + (steps[0] - target) ** 2

    return Problem(f"rounding, D = {dim}", fun, smoothed, 2 * _point(dim), sigma)


def threshold_count(dim: int, sigma: float = 0.5) -> Problem:
    """Share of x above 0."""

    def fun(x: Array) -> Array:
        return jnp.mean((x > 0).astype(x.dtype))

    def smoothed(x: Array) -> Array:
        return jnp.mean(norm.cdf(x / sigma))

    return Problem(f"threshold count, D = {dim}", fun, smoothed, _point(dim), sigma)


def _point(dim: int) -> Array:
    return jax.random.normal(jax.random.key(dim), (dim,))


class Labelled(NamedTuple):
    """A batch of logits, to be scored against labels.

    Attributes:
        logits: (B, K) float32.
        labels: (B,) int32.
        sigma: σ.
    """

    logits: Array
    labels: Array
    sigma: float


def labelled(num_examples: int, num_classes: int, lead: float = 0.0, sigma: float = 1.0) -> Labelled:
    """Standard normal logits, that of the label higher by `lead`."""
    label_key, logit_key = jax.random.split(jax.random.key(num_classes))
    labels = jax.random.randint(label_key, (num_examples,), 0, num_classes)
    logits = jax.random.normal(logit_key, (num_examples, num_classes))
    return Labelled(logits + lead * jax.nn.one_hot(labels, num_classes), labels, sigma)
