"""Running mean and variance of observations, merged over episodes and processes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from esjax.train.episodes import Played

Array = jax.Array

_LEAST = 1e-7
"""Standard deviation below which a number says nothing, and is not looked at (ARS V2's own)."""


class Moments(NamedTuple):
    """What is known of all observations so far; in float32, so that counts beyond 2²⁴ are rounded.

    Attributes:
        count: how many they are ().
        mean: their mean (D,).
        variance: their mean squared deviation from it (D,).
    """

    count: Any
    mean: Any
    variance: Any


def initial(first: Any) -> Moments:
    """Returns moments of no observation, with one (D,) in place of the mean: sums of offsets stay small."""
    return Moments(jnp.zeros(()), jnp.asarray(first), jnp.zeros(len(first)))


def merged(moments: Moments, played: Played, episodes: int) -> Moments:
    """Returns the moments of all observations, those of some more episodes included.

        m' = m + w δ,   v' = (1 − w) v + w v_b + w (1 − w) δ²

    with δ the mean offset from m of the new ones, v_b their variance and w their share of all (Chan, Golub
    and LeVeque 1979, eq. 2.1). As offsets are from m, which is near the new mean, Σ (x − m)² loses little.

    Args:
        moments: of the observations before, whose mean the episodes were played with.
        played: the mean of what the episodes gave.
        episodes: how many they were.
    """
    offset = played.sums / played.count
    variance = played.squares / played.count - offset**2
    count = moments.count + episodes * played.count
    share = episodes * played.count / count
    spread = (1 - share) * moments.variance + share * variance + share * (1 - share) * offset**2
    return Moments(count, moments.mean + share * offset, jnp.maximum(spread, 0))


def scale(moments: Moments) -> Array:
    """Returns what offsets from the mean are divided by (D,): 1 before there are any, ∞ without spread."""
    deviation = jnp.sqrt(moments.variance)
    return jnp.where(moments.count == 0, 1.0, jnp.where(deviation < _LEAST, jnp.inf, deviation))
