"""The weights that have done best on examples held out of training, whose labels are as wrong as the others'.

Which epoch that was is a choice of the run's own data, so that the test set has no say. Single epochs are
noisy, in weights as in scores. So the running mean of the weights over a twentieth of the run's epochs is
judged (Polyak and Juditsky 1992; for networks Izmailov et al. 2018, arXiv 1803.05407), and the mean of as
many scores decides, the newest of equal ones.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

_SHARE = 20
"""Weights and scores are averaged over one epoch in so many of the run."""


class Weights(NamedTuple):
    """A network's arrays.

    Attributes:
        params: its trainable variables, an `nnx.State`.
        variables: its others, an `nnx.State`.
    """

    params: Any
    variables: Any


class Kept(NamedTuple):
    """The weights that have done best so far, and what the next ones are judged by.

    Attributes:
        weights: the best.
        epoch: () int32, at whose end they were; 0 before the first one.
        best: (), the mean score that they were chosen for.
        mean: the running mean of the weights, which is judged next.
        scores: (W,) of the last W epochs; NaN before the first one.
    """

    weights: Weights
    epoch: Array
    best: Array
    mean: Weights
    scores: Array


def begin(weights: Weights, num_epochs: int) -> Kept:
    """Returns the initial weights, as long as there are no others."""
    window = max(num_epochs // _SHARE, 1)
    return Kept(weights, jnp.int32(0), jnp.float32(-jnp.inf), weights, jnp.full(window, jnp.nan))


def with_mean(kept: Kept, weights: Weights, epoch: int) -> Kept:
    """Takes the weights at the end of an epoch, from 1 on, into the mean: mₑ = mₑ₋₁ + (w − mₑ₋₁) / min(e, W).

    What is not floating, such as counts, is taken as it is.
    """
    share = 1 / min(epoch, len(kept.scores))

    def moved(mean: Array, newest: Array) -> Array:
        floating = jnp.issubdtype(newest.dtype, jnp.floating)
        return mean + (newest - mean) * jnp.asarray(share, mean.dtype) if floating else newest

    return kept._replace(mean=jax.tree.map(moved, kept.mean, weights))


def with_score(kept: Kept, epoch: int, score: float) -> Kept:
    """Keeps the mean of the weights if the mean of the last W scores is not below the best one so far.

    Args:
        kept: with the mean at the end of the epoch.
        epoch: its number, from 1 on.
        score: of that mean on the held-out examples.
    """
    scores = jnp.append(kept.scores[1:], score)
    found = jnp.nanmean(scores)
    if found < kept.best:
        return kept._replace(scores=scores)
    return Kept(kept.mean, jnp.int32(epoch), found, kept.mean, scores)
