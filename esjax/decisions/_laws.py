"""Laws of decisions: how they are drawn, how likely they are, and what they become if one of them changes.

A law is made for one x and σ, whose tracers its functions close over; what they return is differentiable
in both, except for draws. This file imports `exact` for closed forms, and knows nothing of the block.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esjax import exact
from esjax._core import random
from esjax.noise import Noise, gumbel

Array = jax.Array
Outcome = Any  # what a law draws: arrays that no derivative goes through

_FEW = 16
"""Up to this many alternatives, all are read: the derivative of looking one up is a scatter."""

_LOW, _HIGH = -10.0, 60.0
"""Where the Gumbel distribution function is 0 and 1 even in float64."""


class Law(NamedTuple):
    """The distribution of decisions, made by C coordinates that are independent of each other.

    Each coordinate has A alternatives. They are counted from the one that was drawn, which is 0; `flip`
    moves a coordinate on by 1 to A − 1.

    Attributes:
        num_coordinates: C.
        num_alternatives: A.
        log_num_outcomes: logarithm of the number of different decisions.
        draw: `key -> outcome`.
        decisions: `outcome -> decisions`, an integer array: what the block sees.
        prob: `decisions -> p(decisions | x, σ)` ().
        log_prob: its logarithm, with derivatives for decisions that can occur, p > 0.
        probs: `outcome -> (C, A − 1)`, chances of a coordinate's alternatives 1 to A − 1, given the others.
        log_likelihood: `outcome -> ()`, log density of what was drawn, up to a constant.
        flip: `(outcome, coordinate (), steps ()) -> decisions` with only that coordinate moved on.
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
        return _looked_up(table, decisions.reshape(count, 1))

    def log_prob(decisions: Array) -> Array:
        return _log(chances(decisions)).sum()  # of these alone: log p has no slope where p = 0

    def other_probs(decisions: Array) -> Array:
        others = (decisions.reshape(count, 1) + jnp.arange(1, size, dtype=jnp.int32)[None]) % size
        return jnp.take_along_axis(table, others, 1)

    def flip(decisions: Array, coordinate: Array, steps: Array) -> Array:
        flat = decisions.reshape(count)
        return flat.at[coordinate].set((flat[coordinate] + steps) % size).reshape(shape)

    def outcomes() -> np.ndarray:
        return _combinations(size, count).astype(np.int32).reshape(-1, *shape)

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


def _looked_up(table: Array, choices: Array) -> Array:
    """Returns each row's entry, (C,) or (C, 1), of a table (C, A) at the choices (C, 1)."""
    size = table.shape[1]
    if size > _FEW:
        return jnp.take_along_axis(table, choices, 1)
    return jnp.where(choices == jnp.arange(size, dtype=jnp.int32)[None], table, 0).sum(1)


def _combinations(size: int, count: int) -> np.ndarray:
    """Returns every combination of `count` numbers in [0, size), (size^count, count)."""
    return np.stack(np.unravel_index(np.arange(size**count), (size,) * count), -1)


def _up_to(probs: Array) -> Array:
    """Returns P(d ≤ a) (C, A) of chances p (C, A). Whatever the rounding, it rises only where p(a) > 0."""
    return jax.lax.cummax(jnp.where(probs > 0, jnp.cumsum(probs, 1), 0), axis=1)


def _log(probs: Array) -> Array:
    """Returns log p, −∞ where p = 0, NaN where it is NaN."""
    return jnp.where(probs == 0, -jnp.inf, jnp.log(jnp.where(probs == 0, 1, probs)))


def both(x: Array, sigma: Array, noise: Noise) -> Array:
    """Returns P(x + σ ε ≤ 0) and P(x + σ ε > 0) (..., 2), each with a small relative error."""
    above = exact.threshold_probs(x, sigma, noise=noise)
    if noise.symmetric:
        below = exact.threshold_probs(-x, sigma, noise=noise)
    else:
        below = jnp.where(jnp.isnan(x), x, _chance_below(-x, jnp.zeros_like(x), sigma))
    return jnp.stack([below, above], -1)


# --- rankings ----------------------------------------------------------------------------------------


def plackett_luce(x: Array, sigma: Array, k: int) -> Law:
    """Returns the law of the k best items (..., k), best first, by scores x + σ ε with Gumbel ε.

    x is (..., n), σ (...). Its coordinates are the items' perturbed scores z: given those of the others, an
    item's chances of each place among them follow from its own distribution function. An outcome is
    (z, order), both (B, n).
    """
    size, shape = x.shape[-1], (*x.shape[:-1], k)
    scores, scale = x.reshape(-1, size), sigma.reshape(-1, 1)
    count = scores.shape[0]

    def draw(key: Any) -> tuple[Array, Array]:
        eps = gumbel.sample(key, scores.shape, scores.dtype)
        z = jax.lax.stop_gradient(scores + scale * eps)
        return z, jnp.argsort(z, axis=-1, descending=True).astype(jnp.int32)

    def log_prob(order: Array) -> Array:
        return _log_prob_of_best(scores / scale, order.reshape(count, k))

    def log_likelihood(outcome: tuple[Array, Array]) -> Array:
        return _log_density(outcome[0], scores, scale).sum()

    def probs(outcome: tuple[Array, Array]) -> Array:
        return jax.vmap(_place_probs)(scores, scale[:, 0], *outcome).reshape(count * size, size - 1)

    def flip(outcome: tuple[Array, Array], coordinate: Array, steps: Array) -> Array:
        _, order = outcome
        row, item = coordinate // size, coordinate % size
        return order.at[row].set(_moved(order[row], item, steps))[:, :k].reshape(shape)

    def outcomes() -> np.ndarray:
        orders = np.array(list(itertools.permutations(range(size), k)), np.int32)
        return orders[_combinations(len(orders), count)].reshape(-1, *shape)

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


def _log_prob_of_best(s: Array, best: Array) -> Array:
    """Returns log p () of the k best items (B, k), best first, by scores s (B, n) in units of σ."""
    (count, size), k = s.shape, best.shape[1]
    found = jnp.take_along_axis(s, best, 1)
    left = found  # what the winner of each place has won against, from the last place on
    if k < size:
        is_best = jnp.zeros(s.shape, bool).at[jnp.arange(count)[:, None], best].set(True)
        others = jax.nn.logsumexp(jnp.where(is_best, -jnp.inf, s), axis=1, keepdims=True)
        left = jnp.concatenate([found, others], 1)
    return (found - jax.lax.cumlogsumexp(left, axis=1, reverse=True)[:, :k]).sum()


def _moved(order: Array, item: Array, steps: Array) -> Array:
    """Returns the order (n,) with one item moved by `steps` places (cyclic), the others as they were."""
    size = order.shape[0]
    places = jnp.arange(size, dtype=jnp.int32)
    place = jnp.argmax(order == item).astype(jnp.int32)
    new = (place + steps) % size
    of_rest = places - (places > new).astype(jnp.int32)
    source = of_rest + (of_rest >= place).astype(jnp.int32)
    return jnp.where(places == new, item, order[jnp.minimum(source, size - 1)])


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
    """Returns P(x + σ ε < bound), elementwise, for Gumbel ε; bounds may be infinite."""
    finite = jnp.isfinite(bound)
    gap = (jnp.where(finite, bound, 0) - x) / sigma
    return _gumbel_cdf(jnp.where(finite, gap, jnp.where(bound > 0, _HIGH, _LOW)))


def _log_density(z: Array, x: Array, sigma: Array) -> Array:
    """Returns the log density of x + σ ε at z, elementwise, for Gumbel ε, up to a constant."""
    gap = (z - x) / sigma
    return -gap - jnp.exp(-gap - np.euler_gamma) - jnp.log(sigma)


def _gumbel_cdf(gap: Array) -> Array:
    return jnp.exp(-jnp.exp(-jnp.clip(gap, _LOW, _HIGH) - np.euler_gamma))
