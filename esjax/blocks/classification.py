"""Blocks of classification: one example by its logits, or a batch by its decisions."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.check import as_classes, as_given, check_count
from esjax.blocks._arrays import as_ordered, divided, mask_like

Array = jax.Array


# --- one example, from logits ------------------------------------------------------------------------


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


# --- a batch, from decisions ---------------------------------------------------------------------------

Average = Literal["macro", "micro"]


def f1(
    predicted: Any,
    labels: Any,
    *,
    num_classes: int | None = None,
    average: Average = "macro",
    mask: Any = None,
) -> Array:
    """Returns the F1 of a batch: of classes, of one binary decision each, or of several (multi-label).

        F1_c = 2 tp_c / (predicted_c + actual_c),    0 where the denominator is

    as scikit-learn's `f1_score(..., zero_division=0)` with all `labels` given.

    Args:
        predicted: classes (B,), integers in [0, K), with `num_classes`; without, decisions 0 or 1, or
            booleans: (B,) for one label, (B, L) for several.
        labels: the true ones, of the same shape and kind.
        num_classes: K ≥ 1. None: the decisions are binary.
        average: over classes or labels: "macro", the mean of their F1; or "micro", the F1 of their sums.
        mask: booleans of the same shape, True for what counts. None: all.

    Returns:
        Array (), floating, in [0, 1].

    Raises:
        ValueError: shapes or kinds differ, or are not those above; `average` is unknown; or classes are known
            (not traced) and out of range. A traced class out of range counts as no class, a decision as 0.
    """
    hits, num_predicted, num_actual = _averaged(predicted, labels, num_classes, average, mask)
    return divided(2 * hits, num_predicted + num_actual).mean()


def jaccard(
    predicted: Any,
    labels: Any,
    *,
    num_classes: int | None = None,
    average: Average = "macro",
    mask: Any = None,
) -> Array:
    """Returns the Jaccard index of a batch, intersection over union (IoU), 0 where the union is empty.

        J_c = tp_c / (predicted_c + actual_c − tp_c)

    Arguments, value and errors are those of `f1`.
    """
    hits, num_predicted, num_actual = _averaged(predicted, labels, num_classes, average, mask)
    return divided(hits, num_predicted + num_actual - hits).mean()


def dice(predicted: Any, labels: Any, *, mask: Any = None) -> Array:
    """Returns the Dice coefficient of two sets of pixels, 2 |A ∩ B| / (|A| + |B|), 0 where both are empty.

    Args:
        predicted: which belong to A, booleans or 0 and 1, of any shape: one image; `jax.vmap` over images.
        labels: which belong to B, of the same shape.
        mask: booleans of the same shape, True for what counts. None: all.

    Returns:
        Array (), floating, in [0, 1].

    Raises:
        ValueError: shapes differ, or known (not traced) values are not binary. Traced ones that are not 1
            count as 0.
    """
    predicted, labels = as_given("predicted", predicted), as_given("labels", labels)
    if predicted.shape != labels.shape:
        raise ValueError(
            f"predicted has shape {predicted.shape} and labels {labels.shape}; give both the same shape"
        )
    counted = mask_like(mask, predicted, "predicted")
    pixels = (*_decisions(predicted, labels, counted), counted)
    hits, num_predicted, num_actual = _counts(*(array.reshape(-1) for array in pixels))
    return divided(2 * hits, num_predicted + num_actual)


def matthews(predicted: Any, labels: Any, *, num_classes: int = 2, mask: Any = None) -> Array:
    """Returns Matthews' correlation coefficient of a batch, for two classes or more (Gorodkin 2004).

        (n tr C − Σ_c p_c a_c) / √((n² − Σ_c p_c²) (n² − Σ_c a_c²)),    0 where the denominator is

    with the confusion matrix C of n examples, p_c predicted and a_c actual examples of class c. (The
    differences are summed class by class, n² − Σ_c p_c² = Σ_c p_c (n − p_c), so that none cancel.)

    Args:
        predicted: predicted classes (B,), integers in [0, K).
        labels: true classes (B,), integers in [0, K).
        num_classes: K ≥ 1.
        mask: (B,) booleans, True for what counts. None: all.

    Returns:
        Array (), floating, in [−1, 1]; NaN where a traced class is out of range.

    Raises:
        ValueError: as for `f1`.
    """
    hits, predicted, actual, count = _by_class(predicted, labels, num_classes, mask)
    beyond_chance = (actual * (count - predicted)).sum() - count * (count - hits.sum())
    spread = [(each * (count - each)).sum() for each in (predicted, actual)]
    return divided(beyond_chance, jnp.sqrt(spread[0]) * jnp.sqrt(spread[1]))


def cohen_kappa(predicted: Any, labels: Any, *, num_classes: int = 2, mask: Any = None) -> Array:
    """Returns Cohen's kappa of a batch: agreement beyond that of chance (Cohen 1960).

        κ = (p_o − p_e) / (1 − p_e),    p_o = tr C / n,    p_e = Σ_c p_c a_c / n²,    0 where p_e = 1

    Arguments and errors are those of `matthews`, as are the symbols; it is NaN where `matthews` is. Where
    chance alone explains everything, scikit-learn gives NaN.
    """
    hits, predicted, actual, count = _by_class(predicted, labels, num_classes, mask)
    by_chance = (actual * (count - predicted)).sum()
    return divided(by_chance - count * (count - hits.sum()), by_chance)


def _averaged(
    predicted: Any, labels: Any, num_classes: int | None, average: str, mask: Any
) -> tuple[Array, Array, Array]:
    """Returns tp, predicted and actual counts (C,): of each class or label, or (1,) of all together."""
    if average not in ("macro", "micro"):
        raise ValueError(f"average={average!r} must be 'macro' or 'micro'")
    if num_classes is None:
        hits, num_predicted, num_actual = _counts(*_binary(predicted, labels, mask))
    else:
        hits, num_predicted, num_actual, _ = _by_class(predicted, labels, num_classes, mask)
    if average == "macro":
        return hits, num_predicted, num_actual
    return hits.sum(keepdims=True), num_predicted.sum(keepdims=True), num_actual.sum(keepdims=True)


def _by_class(predicted: Any, labels: Any, num_classes: int, mask: Any) -> tuple[Array, Array, Array, Array]:
    """Returns tp, predicted and actual counts (K,), and how many examples count, NaN if one has no class."""
    check_count("num_classes", num_classes)
    predicted, labels = as_given("predicted", predicted), as_given("labels", labels)
    if predicted.ndim != 1 or predicted.shape != labels.shape:
        raise ValueError(
            f"predicted has shape {predicted.shape} and labels {labels.shape}; give both as (B,), one class "
            "for each example"
        )
    counted = mask_like(mask, predicted, "predicted")
    both = as_classes(num_classes, counted, option="num_classes", predicted=predicted, labels=labels)
    classes = jnp.arange(num_classes, dtype=jnp.int32)[None, :]
    is_predicted, is_actual = (each[:, None] == classes for each in both)
    counts = _counts(is_predicted, is_actual, counted[:, None])
    has_class = is_predicted.any(1) & is_actual.any(1)
    count = counted.sum(dtype=jnp.int32).astype(counts[0].dtype)
    return *counts, jnp.where((has_class | ~counted).all(), count, jnp.nan)


def _binary(predicted: Any, labels: Any, mask: Any) -> tuple[Array, Array, Array]:
    """Returns booleans (B, L) of decisions, labels and what counts."""
    predicted, labels = as_given("predicted", predicted), as_given("labels", labels)
    if predicted.ndim not in (1, 2) or predicted.shape != labels.shape:
        raise ValueError(
            f"predicted has shape {predicted.shape} and labels {labels.shape}; give both as (B,) or (B, L), "
            "binary decisions, or num_classes with classes (B,)"
        )
    counted = mask_like(mask, predicted, "predicted")
    option = "num_classes" if predicted.ndim == 1 else ""
    is_predicted, is_actual = _decisions(predicted, labels, counted, option)
    shape = (predicted.shape[0], -1)
    return is_predicted.reshape(shape), is_actual.reshape(shape), counted.reshape(shape)


def _decisions(predicted: Any, labels: Any, counted: Array, option: str = "") -> tuple[Array, Array]:
    """Returns booleans of the shape of binary decisions, and of labels."""
    integers = [each.astype(np.int32) if each.dtype == bool else each for each in (predicted, labels)]
    classes = as_classes(2, counted, option=option, predicted=integers[0], labels=integers[1])
    return classes[0] == 1, classes[1] == 1


def _counts(is_predicted: Array, is_actual: Array, counted: Array) -> tuple[Array, Array, Array]:
    """Sums booleans (B, ...) over the batch: tp, predicted, actual, each (...) floating."""
    sums = [
        (which & counted).sum(0, dtype=jnp.int32)
        for which in (is_predicted & is_actual, is_predicted, is_actual)
    ]
    hits, num_predicted, num_actual = (each.astype(jnp.result_type(float)) for each in sums)
    return hits, num_predicted, num_actual
