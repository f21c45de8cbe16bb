"""Blocks of classification: one example by its logits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.arrays import as_ordered
from esjax._core.check import as_classes, as_given, check_count

Array = jax.Array


def accuracy(logits: Array, label: Any) -> Array:
    """Returns 1 where the largest logit is the label's, else 0.

        accuracy = isequal(argmax(logits), label)

    Args:
        logits: scores (K,) of one example, floating; of equal ones, the first counts as the largest.
        label: the true class, () integer in [0, K). `jax.vmap` over examples.

    Returns:
        Array (), in the logits' dtype: 0.0 or 1.0. A NaN counts as the largest logit, as in `jnp.argmax`.

    Raises:
        ValueError: `logits` is not a floating vector, `label` is not an integer, or it is known (not traced)
            and out of range. A traced label that is out of range is never right.
    """
    logits, label, dtype = _one_example("accuracy", logits, label)
    return (jnp.argmax(logits).astype(jnp.int32) == label).astype(dtype)


def top_k_accuracy(logits: Array, label: Any, *, k: int) -> Array:
    """Returns 1 where the label's logit is among the k largest, else 0.

        top_k_accuracy = isequal(label ∈ the k indices of the largest logits, true)

    Args:
        logits: scores (K,) of one example, floating; of equal ones, the first count as the largest.
        label: the true class, () integer in [0, K). `jax.vmap` over examples.
        k: how many, 1 ≤ k ≤ K.

    Returns:
        Array (), in the logits' dtype: 0.0 or 1.0.

    Raises:
        ValueError: as for `accuracy`; or `k` is out of range.
    """
    logits, label, dtype = _one_example("top_k_accuracy", logits, label)
    check_count("k", k)
    if k > logits.shape[0]:
        raise ValueError(f"k={k} is more than the {logits.shape[0]} logits; use k <= {logits.shape[0]}")
    logits = jnp.where(logits == 0, jnp.zeros_like(logits), logits)  # top_k puts 0 above −0
    return (jax.lax.top_k(logits, k)[1] == label).any().astype(dtype)


def _one_example(name: str, logits: Any, label: Any) -> tuple[Array, Array, Any]:
    """Returns numbers (K,) in the order of the logits, the label () int32, and the logits' dtype."""
    logits, label = as_given("logits", logits), as_given("label", label, "give one integer class")
    if logits.ndim != 1 or not logits.size:
        raise ValueError(
            f"logits has shape {logits.shape}, and {name} is for one example (K,); use jax.vmap over examples"
        )
    if label.ndim:
        raise ValueError(f"label has shape {label.shape}; give one integer class, shape ()")
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"logits has dtype {logits.dtype}; give floating scores")
    (label,) = as_classes(logits.shape[0], label=label)
    dtype = jnp.result_type(float) if isinstance(logits, np.ndarray) else logits.dtype
    return as_ordered("logits", logits), label, dtype
