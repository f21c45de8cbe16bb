"""Laws of decisions: how they are drawn, how likely they are, and what would be if one of them changed.

A law is made for one x and σ, whose tracers its functions close over; what they return is differentiable
in both, except for draws. It imports `exact` for closed forms, and knows nothing of the block.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esjax import exact
from esjax import noise as _noise
from esjax._core import random

Array = jax.Array
Outcome = Any  # what a law draws: arrays that no derivative goes through

_FEW = 16
"""Of so many alternatives all are looked at, rather than one looked up, whose derivative is a scatter."""

_LOW, _HIGH = -10.0, 60.0
"""Where a Gumbel distribution function is 0 and 1 even in float64."""


class Law(NamedTuple):
    """The distribution of decisions, made by C coordinates that are independent of each other.

    Each coordinate has A alternatives. They are counted from the one that was drawn, which is 0; `flip`
    moves a coordinate on by 1 to A − 1.

    Attributes:
        num_coordinates: C.
        num_alternatives: A.
        log_num_outcomes: logarithm of how many different decisions there are.
        draw: `key -> outcome`.
        decisions: `outcome -> decisions`, an integer array: what the block sees.
        prob: `decisions -> p(decisions | x, σ)` ().
        log_prob: its logarithm; derivatives are those of decisions that can be, p > 0.
        probs: `outcome -> (C, A − 1)`, chances of a coordinate's alternatives 1 to A − 1, given the others.
        log_likelihood: `outcome -> ()`, log density of what was drawn, up to a constant.
        flip: `(outcome, coordinate (), steps ()) -> decisions` with that coordinate alone moved on.
        outcomes: `() -> decisions` of all outcomes, stacked, a NumPy array.
    """

    num_coordinates: int
    num_alternatives: int
    log_num_outcomes: float
    draw: Callable[[Any], Outcome]
    decisions: Callable[[Outcome], Array]
    prob: Callable[[Array], Array]
    log_prob: Callable[[Array], Array]
    probs: Callable[[Outcome], Array]
    log_likelihood: Callable[[Outcome], Array]
    flip: Callable[[Outcome, Array, Array], Array]
    outcomes: Callable[[], np.ndarray]


# --- independent choices -----------------------------------------------------------------------------


def categorical(probs: Array) -> Law:
    """Returns the law of independent choices d (...) with chances `probs` (..., A)."""
    shape, size = probs.shape[:-1], probs.shape[-1]
    table = probs.reshape(-1, size)
    count = table.shape[0]
    up_to = _up_to(jax.lax.stop_gradient(table))

    def draw(key: Any) -> Array:
        u = random.uniform(key, (count, 1), table.dtype) * up_to[:, -1:]
        return (u >= up_to[:, :-1]).sum(1, dtype=jnp.int32).reshape(shape)

    def chances(decisions: Array) -> Array:
        if size > _FEW:
            return jnp.take_along_axis(table, decisions.reshape(count, 1), 1)
        is_decided = decisions.reshape(count, 1) == jnp.arange(size, dtype=jnp.int32)[None]
        return jnp.where(is_decided, table, 0).sum(1)

    def log_prob(decisions: Array) -> Array:
        return _log(chances(decisions)).sum()  # of these alone: the slope of log p is infinite at others' 0

    def other_probs(decisions: Array) -> Array:
        others = (decisions.reshape(count, 1) + jnp.arange(1, size, dtype=jnp.int32)[None]) % size
        return jnp.take_along_axis(table, others, 1)

    def flip(decisions: Array, coordinate: Array, steps: Array) -> Array:
        flat = decisions.reshape(count)
        return flat.at[coordinate].set((flat[coordinate] + steps) % size).reshape(shape)

    def outcomes() -> np.ndarray:
        grid = np.unravel_index(np.arange(size**count), (size,) * count)
        return np.stack(grid, -1).astype(np.int32).reshape(-1, *shape)

    return Law(
        num_coordinates=count,
        num_alternatives=size,
        log_num_outcomes=count * math.log(size),
        draw=draw,
        decisions=lambda decisions: decisions,
        prob=lambda decisions: chances(decisions).prod(),
        log_prob=log_prob,
        probs=other_probs,
        log_likelihood=log_prob,
        flip=flip,
        outcomes=outcomes,
    )


def _up_to(probs: Array) -> Array:
    """Returns P(d ≤ a) (C, A) of chances p (C, A). Whatever the rounding, it rises only where p(a) > 0."""
    return jax.lax.cummax(jnp.where(probs > 0, jnp.cumsum(probs, 1), 0), axis=1)


def _log(probs: Array) -> Array:
    """Returns log p, −∞ where p = 0, NaN where it is NaN."""
    return jnp.where(probs == 0, -jnp.inf, jnp.log(jnp.where(probs == 0, 1, probs)))


def both(x: Array, sigma: Array, noise: _noise.Noise) -> Array:
    """Returns P(x + σ ε ≤ 0) and P(x + σ ε > 0) (..., 2), each with a small relative error."""
    above = exact.threshold_probs(x, sigma, noise=noise)
    if noise.symmetric:
        below = exact.threshold_probs(-x, sigma, noise=noise)
    else:
        below = jnp.where(jnp.isnan(x), x, _chance_below(-x, jnp.zeros_like(x), sigma))
    return jnp.stack([below, above], -1)


# --- rankings ----------------------------------------------------------------------------------------


def plackett_luce(x: Array, sigma: Array, k: int) -> Law:
    """Returns the law of the k best of the items (..., k), best first, by scores x + σ ε, Gumbel ε.

    x is (..., n), σ (...). Its coordinates are the items' perturbed scores z: given those of the others, an
    item's place among them has chances that its own distribution function knows. An outcome is
    (z, order), both (B, n).
    """
    size = x.shape[-1]
    shape = (*x.shape[:-1], k)
    scores = x.reshape(-1, size)
    scale = sigma.reshape(-1, 1)
    count = scores.shape[0]
    places = jnp.arange(size, dtype=jnp.int32)

    def draw(key: Any) -> tuple[Array, Array]:
        eps = _noise.gumbel.sample(key, scores.shape, scores.dtype)
        z = jax.lax.stop_gradient(scores + scale * eps)
        return z, jnp.argsort(z, axis=-1, descending=True).astype(jnp.int32)

    def log_prob(order: Array) -> Array:
        s, best = scores / scale, order.reshape(count, k)
        found = jnp.take_along_axis(s, best, 1)
        left = found  # what the winner of each place has won against, from the last place on
        if k < size:
            is_best = jnp.zeros(s.shape, bool).at[jnp.arange(count)[:, None], best].set(True)
            others = jax.nn.logsumexp(jnp.where(is_best, -jnp.inf, s), axis=1, keepdims=True)
            left = jnp.concatenate([found, others], 1)
        return (found - jax.lax.cumlogsumexp(left, axis=1, reverse=True)[:, :k]).sum()

    def log_likelihood(outcome: tuple[Array, Array]) -> Array:
        gap = (outcome[0] - scores) / scale
        return (-gap - jnp.exp(-gap - np.euler_gamma) - jnp.log(scale)).sum()

    def probs(outcome: tuple[Array, Array]) -> Array:
        return jax.vmap(_place_probs)(scores, scale[:, 0], *outcome).reshape(count * size, size - 1)

    def flip(outcome: tuple[Array, Array], coordinate: Array, steps: Array) -> Array:
        _, order = outcome
        row, item = coordinate // size, coordinate % size
        place = jnp.argmax(order[row] == item).astype(jnp.int32)
        new = (place + steps) % size
        of_rest = places - (places > new).astype(jnp.int32)
        source = of_rest + (of_rest >= place).astype(jnp.int32)
        moved = jnp.where(places == new, item, order[row][jnp.minimum(source, size - 1)])
        return order.at[row].set(moved)[:, :k].reshape(shape)

    def outcomes() -> np.ndarray:
        orders = np.array(list(itertools.permutations(range(size), k)), np.int32)
        grid = np.unravel_index(np.arange(len(orders) ** count), (len(orders),) * count)
        return orders[np.stack(grid, -1)].reshape(-1, *shape)

    return Law(
        num_coordinates=count * size,
        num_alternatives=size,
        log_num_outcomes=count * (math.lgamma(size + 1) - math.lgamma(size - k + 1)),
        draw=draw,
        decisions=lambda outcome: outcome[1][:, :k].reshape(shape),
        prob=lambda order: jnp.exp(log_prob(order)),
        log_prob=log_prob,
        probs=probs,
        log_likelihood=log_likelihood,
        flip=flip,
        outcomes=outcomes,
    )


def _place_probs(x: Array, sigma: Array, z: Array, order: Array) -> Array:
    """Returns for each item, given the others, the chances (n, n − 1) of the places after its own (cyclic).

    P(place r) = F((upper − x_i) / σ) − F((lower − x_i) / σ): z_i between its neighbours-to-be.
    """
    size = x.shape[0]
    ranks = jnp.argsort(order).astype(jnp.int32)[:, None]
    ends = jnp.full(1, jnp.inf, z.dtype)
    sorted_z = jnp.concatenate([ends, z[order], -ends])
    place = (ranks + jnp.arange(1, size, dtype=jnp.int32)[None]) % size
    upper = sorted_z[place + (place > ranks).astype(jnp.int32)]
    lower = sorted_z[place + 1 + (place >= ranks).astype(jnp.int32)]
    return _chance_below(upper, x[:, None], sigma) - _chance_below(lower, x[:, None], sigma)


def _chance_below(bound: Array, x: Array, sigma: Array) -> Array:
    """Returns P(x + σ ε < bound), elementwise, Gumbel ε; bounds may be infinite."""
    finite = jnp.isfinite(bound)
    gap = (jnp.where(finite, bound, 0) - x) / sigma
    return _gumbel_cdf(jnp.where(finite, gap, jnp.where(bound > 0, _HIGH, _LOW)))


def _gumbel_cdf(gap: Array) -> Array:
    return jnp.exp(-jnp.exp(-jnp.clip(gap, _LOW, _HIGH) - np.euler_gamma))
