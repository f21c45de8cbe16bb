"""Black boxes of which each term reads little of x, with the gradients that errors are measured against."""

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

import esjax
from esjax.benchmarks.problems import Problem
from esjax.tasks import codec

Array = jax.Array
_SIGMA = 0.5


class Local(NamedTuple):
    """A problem, and how its block's values are credited.

    Attributes:
        problem: `fun` is the block, (D,) → () or, where credit is declared, (M,): the values are added up.
        credit: the pattern of its values; None: none is declared, and `smooth`'s default has to find it.
    """

    problem: Problem
    credit: esjax.credit.Credit | None


def _in_closed_form(name: str, fun: Any, smoothed: Any, x: Array) -> Local:
    problem = Problem(f"{name}, D = {x.size:,}", fun, jax.grad(smoothed)(x), x, _SIGMA, 256)
    return Local(problem, None)


def _in_long_run(name: str, fun: Any, x: Array, pattern: Any, num_samples: int) -> Local:
    """The reference is a run with many samples, of the block's values as they are declared."""
    declared = esjax.credit.declared(pattern)
    smoothed = esjax.smooth(fun, sigma=_SIGMA, num_samples=num_samples, credit=declared, chunk_size=256)
    gradient = jax.jit(jax.grad(lambda x: smoothed(jax.random.key(1), x).sum()))(x)
    return Local(Problem(f"{name}, D = {x.size:,}", fun, gradient, x, _SIGMA, 256), declared)


def _point(*shape: int) -> Array:
    return jax.random.normal(jax.random.key(shape[0]), shape)


def median_count(dim: int) -> Local:
    """Share of positive medians of five neighbours: P(at least 3 of 5 are), a sum over 2⁵ outcomes."""
    outcomes = jnp.array([bits for bits in product((0.0, 1.0), repeat=5) if sum(bits) >= 3])

    def neighbours(x: Array) -> Array:
        return jnp.stack([x[start : dim - 4 + start] for start in range(5)], -1)

    def fun(x: Array) -> Array:
        return jnp.mean((jnp.median(neighbours(x), axis=-1) > 0).astype(x.dtype))

    def smoothed(x: Array) -> Array:
        above = neighbours(norm.cdf(x / _SIGMA))[:, None]
        of_outcomes = outcomes[None] * above + (1 - outcomes[None]) * (1 - above)
        return jnp.mean(of_outcomes.prod(-1).sum(-1))

    return _in_closed_form("median of 5 and a threshold", fun, smoothed, _point(dim))


def _over_squares(operation: Callable[..., Array], start: float, image: Array, size: int) -> Array:
    return jax.lax.reduce_window(image, start, operation, (size, size), (1, 1), "VALID")


def erosion(side: int) -> Local:
    """Share of 3 × 3 squares of an image whose least pixel is above 0: each pixel is, independently."""

    def fun(image: Array) -> Array:
        least = _over_squares(jax.lax.min, jnp.inf, image.reshape(side, side), 3)
        return jnp.mean((least > 0).astype(image.dtype))

    def smoothed(image: Array) -> Array:
        log_above = norm.logcdf(image.reshape(side, side) / _SIGMA)
        return jnp.mean(jnp.exp(_over_squares(jax.lax.add, 0.0, log_above, 3)))

    return _in_closed_form(f"erosion 3 × 3 of {side} × {side}", fun, smoothed, _point(side, side).ravel() + 1)


def stencil(side: int) -> Local:
    """Share of 7 × 7 squares of an image with a mean above 0; it is normal with a seventh of σ."""

    def means(image: Array) -> Array:
        return _over_squares(jax.lax.add, 0.0, image.reshape(side, side), 7) / 49

    def fun(image: Array) -> Array:
        return jnp.mean((means(image) > 0).astype(image.dtype))

    def smoothed(image: Array) -> Array:
        return jnp.mean(norm.cdf(means(image) / (_SIGMA / 7)))

    return _in_closed_form(f"stencil 7 × 7 of {side} × {side}", fun, smoothed, _point(side, side).ravel())


def jpeg(blocks: int, num_samples: int) -> Local:
    """Squared error of a picture of blocks of 8 × 8 pixels through JPEG, block by block, on the host."""
    side = 8 * blocks
    wave = 0.5 + 0.3 * np.sin(np.arange(side)[:, None] / 3) * np.cos(np.arange(side)[None] / 5)

    def errors(pixels: Any) -> Any:
        """Returns the error of each block (blocks²,) of pixels (blocks² · 64,), block by block."""
        picture = np.asarray(pixels).reshape(blocks, blocks, 8, 8).swapaxes(1, 2).reshape(side, side)
        decoded, _ = codec.jpeg((0.5 + 0.2 * picture).astype(np.float32), 50)
        apart = ((decoded - wave) ** 2).reshape(blocks, 8, blocks, 8)
        return apart.sum((1, 3)).ravel().astype(np.float32)

    fun = esjax.host.wrap(errors, jnp.zeros(blocks**2))
    centred = (wave - 0.5).reshape(blocks, 8, blocks, 8).swapaxes(1, 2).ravel()
    x = jnp.asarray(5 * centred, jnp.float32) + _point(side**2)
    return _in_long_run(
        f"JPEG of {blocks} × {blocks} squares, on the host", fun, x, esjax.credit.blocks(64), num_samples
    )


def rollout(num_steps: int, num_samples: int, discount: float = 0.99) -> Local:
    """Discounted rewards of a body pushed along a line, 1 near the origin; each reads actions before it."""
    discounts = discount ** jnp.arange(num_steps)

    def fun(actions: Array) -> Array:
        def step(state: tuple[Array, Array], action: Array) -> tuple[tuple[Array, Array], Array]:
            place, speed = state
            speed = 0.9 * speed + 0.1 * jnp.sign(action)
            place = place + 0.1 * speed
            return (place, speed), (jnp.abs(place) < 0.5).astype(actions.dtype)

        still = jnp.zeros((), actions.dtype)
        return jax.lax.scan(step, (still + 1, still), actions)[1] * discounts

    x = _point(num_steps)
    return _in_long_run(f"rollout of {num_steps} steps", fun, x, esjax.credit.causal, num_samples)
