"""Ready-made blocks: metrics that people report, to be smoothed.

Those that score one example take its logits, for `esjax.smooth` and `jax.vmap` over examples. Those that
score a batch take its predicted classes, for `esjax.smooth_decisions`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from esjax._check import check_classes, check_count

Array = jax.Array


# --- one example, from logits ------------------------------------------------------------------------


def accuracy(logits: Array, label: Any) -> Array:
    """Returns 1 where the largest logit is the label's, else 0: isequal(argmax(logits), label).

    Args:
        logits: scores (K,) of one example, floating; of equal ones the first is the largest.
        label: the true class, an integer in [0, K). `jax.vmap` over examples.

    Returns:
        Array (), in the logits' dtype: 0.0 or 1.0. A NaN counts as the largest logit, as in `jnp.argmax`.

    Raises:
        ValueError: `logits` is no floating vector, `label` is no integer, or it is known (not traced) and
            out of range. A traced label out of range counts as never right.
    """
    logits, label = _one_example("accuracy", logits, label)
    return (jnp.argmax(logits).astype(jnp.int32) == label).astype(logits.dtype)


def top_k_accuracy(logits: Array, label: Any, *, k: int) -> Array:
    """Returns 1 where the label's logit is among the k largest, else 0.

    Args:
        logits: scores (K,) of one example, floating; of equal ones the first are the largest.
        label: the true class, an integer in [0, K). `jax.vmap` over examples.
        k: how many, 1 ≤ k ≤ K.

    Returns:
        Array (), in the logits' dtype: 0.0 or 1.0.

    Raises:
        ValueError: as for `accuracy`; or `k` is out of range.
    """
    logits, label = _one_example("top_k_accuracy", logits, label)
    check_count("k", k)
    if k > logits.shape[0]:
        raise ValueError(f"k={k} is more than the {logits.shape[0]} logits; use k <= {logits.shape[0]}")
    return (jax.lax.top_k(logits, k)[1] == label).any().astype(logits.dtype)


def _one_example(name: str, logits: Any, label: Any) -> tuple[Array, Array]:
    logits, label = jnp.asarray(logits), jnp.asarray(label)
    if logits.ndim != 1:
        raise ValueError(
            f"logits has shape {logits.shape}, and {name} is for one example (K,); use jax.vmap over examples"
        )
    if label.ndim:
        raise ValueError(f"label has shape {label.shape}; give one integer class, shape ()")
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"logits has dtype {logits.dtype}; give floating scores")
    check_classes("label", label, logits.shape[0])
    return logits, label.astype(jnp.int32)


# --- a batch, from predicted classes -----------------------------------------------------------------


def f1(predicted: Array, labels: Any, *, num_classes: int) -> Array:
    """Returns the macro-averaged F1 of a batch: the mean over classes of each class's F1.

        F1_c = 2 tp_c / (predicted_c + actual_c),    0 for a class that is neither predicted nor present

    as scikit-learn's `f1_score(..., labels=range(K), average="macro", zero_division=0)`.

    Args:
        predicted: predicted classes (B,), integers in [0, K).
        labels: true classes (B,), integers in [0, K).
        num_classes: K ≥ 1.

    Returns:
        Array (), floating, in [0, 1].

    Raises:
        ValueError: they are not integers of one shape (B,), or are known (not traced) and out of range. A
            traced class out of range counts as no class.
    """
    check_count("num_classes", num_classes)
    predicted, labels = jnp.asarray(predicted), jnp.asarray(labels)
    if predicted.ndim != 1 or predicted.shape != labels.shape:
        raise ValueError(
            f"predicted has shape {predicted.shape} and labels {labels.shape}; give both as (B,), one class "
            "for each example"
        )
    for name, array in (("predicted", predicted), ("labels", labels)):
        check_classes(name, array, num_classes)
    classes = jnp.arange(num_classes, dtype=jnp.int32)[None, :]
    is_predicted = predicted[:, None].astype(jnp.int32) == classes
    is_actual = labels[:, None].astype(jnp.int32) == classes
    counts = [x.sum(0, dtype=jnp.int32) for x in (is_predicted & is_actual, is_predicted, is_actual)]
    hits, num_predicted, num_actual = (count.astype(jnp.result_type(float)) for count in counts)
    return (2 * hits / jnp.maximum(num_predicted + num_actual, 1)).mean()
