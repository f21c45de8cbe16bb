"""Objectives: what a network is trained for, as a loss of a batch of logits."""

from collections.abc import Callable
from typing import Any

import jax
import optax

import esjax

Array = jax.Array
Objective = Callable[[Any, Array, Array], Array]
"""`(key, logits (B, K), labels (B,)) -> loss ()`, to be minimised; `key` may go unused."""


def cross_entropy(key: Any, logits: Array, labels: Array) -> Array:
    """Returns the mean of −log softmax(logits)[label] over the batch; uses no randomness."""
    del key
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def per_example(smoothed: Callable[..., Array]) -> Objective:
    """Makes an objective of a reward of one example, such as `esjax.smooth(block, ...)`.

    Each example is smoothed by itself, with a key of its own: at equal N its gradient has far less
    variance than that of the batch smoothed as a whole, since only the example's own values weight
    its scores.

    Args:
        smoothed: `(key, logits (K,), label ()) -> reward ()`, to be maximised.

    Returns:
        An objective: minus the mean reward of the batch. It raises `ValueError` where the reward is
        not one number.
    """

    def objective(key: Any, logits: Array, labels: Array) -> Array:
        keys = jax.random.split(key, logits.shape[0])
        rewards = jax.vmap(smoothed)(keys, logits, labels)
        if getattr(rewards, "shape", None) != labels.shape:
            raise ValueError(
                f"the rewards of a batch have shape {jax.tree.map(jax.numpy.shape, rewards)} instead of "
                f"{labels.shape}; return one number, shape (), from the block"
            )
        return -rewards.mean()

    return objective


def accuracy(sigma: float | Array, num_samples: int) -> Objective:
    """Makes the objective −(smoothed accuracy), its gradient by evolution strategies.

    Args:
        sigma: σ > 0, in units of the logits; `esjax.sigma.from_logits` suggests one.
        num_samples: N, evaluations of argmax and accuracy per example and step; even, >= 4.

    Raises:
        ValueError: by `esjax.smooth`, for σ or N out of range.
    """
    smoothed = esjax.smooth(
        esjax.blocks.accuracy,
        sigma=sigma,
        num_samples=num_samples,
        sampler=esjax.samplers.antithetic,
    )
    return per_example(smoothed)


PLAIN: dict[str, Objective] = {"cross-entropy": cross_entropy}
"""Objectives with a gradient of their own, by the names that the command line knows."""

SMOOTHED: dict[str, Callable[[float | Array, int], Objective]] = {"accuracy": accuracy}
"""Makers of smoothed objectives, `(sigma, num_samples) -> objective`, by name."""
