"""Ready-made blocks: metrics that people report, for one example, to be smoothed."""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def accuracy(logits: Array, label: Any) -> Array:
    """Returns 1 where the largest logit is the label's, else 0: isequal(argmax(logits), label).

    Args:
        logits: scores (K,) of one example, floating; of equal ones the first is the largest.
        label: the true class, an integer in [0, K). `jax.vmap` over examples.

    Returns:
        Array (), in the logits' dtype: 0.0 or 1.0. A NaN counts as the largest logit, as in `jnp.argmax`.

    Raises:
        ValueError: `logits` is not a vector, `label` is no integer, or it is known (not traced) and
            out of range. A traced label out of range counts as never right.
    """
    logits, label = jnp.asarray(logits), jnp.asarray(label)
    if logits.ndim != 1:
        raise ValueError(
            f"logits has shape {logits.shape}, and accuracy is for one example (K,); "
            "use jax.vmap over examples"
        )
    if not jnp.issubdtype(label.dtype, jnp.integer) or label.ndim:
        raise ValueError(
            f"label has dtype {label.dtype} and shape {label.shape}; give one integer class, shape ()"
        )
    if not isinstance(label, jax.core.Tracer) and not 0 <= int(label) < logits.shape[0]:
        raise ValueError(
            f"label={int(label)} is out of range for {logits.shape[0]} logits; "
            f"use labels 0 to {logits.shape[0] - 1}"
        )
    return (jnp.argmax(logits) == label).astype(logits.dtype)
