"""The weights that have done best on examples held out of training, whose labels are as wrong as the others'.

Which epoch that was is a choice of the run's own data, so that the test set has no say. Single epochs are
noisy, in weights as in what they get right. So the running mean of the weights over a twentieth of the run's
epochs is judged (Polyak and Juditsky 1992; for networks Izmailov et al. 2018, arXiv 1803.05407), by accuracy
smoothed a little: an example that is nearly right counts for something, whereas a few hundred decisions are a
coarse score, whose best epoch may be one by accident.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import esjax
from esjax.train import objectives

Array = jax.Array

_SHARE = 20
"""Weights are averaged over one epoch in so many of the run."""

_ERRORS = 3
"""σ of the score, in units of the greatest lead, is so many times 1 / sqrt(N), the scale of the error of N
decisions: 0.5 for ten classes and 400 examples. Measured on digits, MNIST-5k and Fashion-MNIST, clean and
with random labels. With more, a network that gets surer of what it gets right seems to get better; with
less, decisions are all that counts."""


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
        best: (), the score that they were chosen for.
        mean: the running mean of the weights, which is judged next.
    """

    weights: Weights
    epoch: Array
    best: Array
    mean: Weights


def begin(weights: Weights) -> Kept:
    """Returns the initial weights, as long as there are no others."""
    return Kept(weights, jnp.int32(0), jnp.float32(-jnp.inf), weights)


def with_mean(kept: Kept, weights: Weights, epoch: int, num_epochs: int) -> Kept:
    """Takes the weights at the end of an epoch, from 1 on, into the mean: mₑ = mₑ₋₁ + (w − mₑ₋₁) / min(e, W).

    W is a twentieth of the run's epochs. What is not floating, such as counts, is taken as it is.
    """
    share = 1 / min(epoch, max(num_epochs // _SHARE, 1))

    def moved(mean: Array, newest: Array) -> Array:
        floating = jnp.issubdtype(newest.dtype, jnp.floating)
        return mean + (newest - mean) * jnp.asarray(share, mean.dtype) if floating else newest

    return kept._replace(mean=jax.tree.map(moved, kept.mean, weights))


@jax.jit
def score(logits: Array, labels: Any) -> Array:
    """Returns the smoothed accuracy (), in closed form, of logits (N, K), standardised, for labels (N,).

    σ falls with N, since many decisions are a precise score by themselves. An example counts by its decision
    where its standardised logits are not finite, and of two classes, where they are 1 and −1.
    """
    num_classes, is_right = logits.shape[-1], logits.argmax(-1) == labels
    if num_classes < 3:
        return jnp.mean(is_right, dtype=jnp.float32)
    z = objectives.standardize(logits)
    finite = jnp.isfinite(z).all(-1)
    sigma = min(_ERRORS / len(labels) ** 0.5, 1) * esjax.sigma.for_standardised(num_classes)
    smoothed = esjax.exact.accuracy(jnp.where(finite[:, None], z, 0), labels, sigma)
    return jnp.where(finite, smoothed, is_right).mean()


def with_score(kept: Kept, epoch: int, score: Array) -> Kept:
    """Keeps the mean of the weights if its score is not below the best one so far.

    Args:
        kept: with the mean at the end of the epoch.
        epoch: its number, from 1 on.
        score: of that mean on the held-out examples.
    """
    if not score >= kept.best:  # nor NaN
        return kept
    return Kept(kept.mean, jnp.int32(epoch), jnp.asarray(score, kept.best.dtype), kept.mean)
