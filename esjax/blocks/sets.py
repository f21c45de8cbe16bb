"""Blocks of a batch by its decisions: which examples were put into which class, label or set."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from esjax._core.arrays import divided, how_many, mask_like
from esjax._core.check import as_given, check_positive
from esjax.blocks._counts import averaged_counts, binary_decisions, class_counts, confusion_counts

Array = jax.Array

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
    hits, num_predicted, num_actual = averaged_counts(predicted, labels, num_classes, average, mask)
    return divided(2 * hits, num_predicted + num_actual).mean()


def fbeta(
    predicted: Any,
    labels: Any,
    beta: float,
    *,
    num_classes: int | None = None,
    average: Average = "macro",
    mask: Any = None,
) -> Array:
    """Returns the F-beta of a batch: a weighted harmonic mean of precision and recall (van Rijsbergen 1979).

        F_c = (1 + β²) tp_c / (β² actual_c + predicted_c),    0 where the denominator is

    as scikit-learn's `fbeta_score`. `beta` is one finite number > 0: how many times as much recall counts as
    precision. With 1 this is `f1`.

    Other arguments, and the value, are those of `f1`.

    Raises:
        ValueError: as for `f1`; or `beta` is not one finite number > 0, or is traced.
    """
    check_positive("beta", beta, "its limits at 0 and infinity are precision and recall")
    hits, num_predicted, num_actual = averaged_counts(predicted, labels, num_classes, average, mask)
    inverse = 1 / float(beta)
    weight = 1 / (1 + inverse * inverse)  # β² / (1 + β²), which never overflows
    return divided(hits, weight * num_actual + (1 - weight) * num_predicted).mean()


def precision(
    predicted: Any,
    labels: Any,
    *,
    num_classes: int | None = None,
    average: Average = "macro",
    mask: Any = None,
) -> Array:
    """Returns the precision of a batch, the share of what was predicted that is right; 0 where nothing was.

        precision_c = tp_c / predicted_c

    Arguments, value and errors are those of `f1`.
    """
    hits, num_predicted, _ = averaged_counts(predicted, labels, num_classes, average, mask)
    return divided(hits, num_predicted).mean()


def recall(
    predicted: Any,
    labels: Any,
    *,
    num_classes: int | None = None,
    average: Average = "macro",
    mask: Any = None,
) -> Array:
    """Returns the recall of a batch, the share of what is there that was predicted; 0 where nothing is.

        recall_c = tp_c / actual_c

    Arguments, value and errors are those of `f1`.
    """
    hits, _, num_actual = averaged_counts(predicted, labels, num_classes, average, mask)
    return divided(hits, num_actual).mean()


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
    hits, num_predicted, num_actual = averaged_counts(predicted, labels, num_classes, average, mask)
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
    pixels = (*binary_decisions(predicted, labels, counted), counted)
    hits, num_predicted, num_actual = confusion_counts(*(array.reshape(-1) for array in pixels))
    return divided(2 * hits, num_predicted + num_actual)


def balanced_accuracy(predicted: Any, labels: Any, *, num_classes: int = 2, mask: Any = None) -> Array:
    """Returns the mean recall of the classes that occur in the labels, 0 where none does.

        balanced_accuracy = Σ_c (tp_c / actual_c) / how many c have actual_c > 0

    as scikit-learn's `balanced_accuracy_score`. (The macro-average of `recall` counts absent classes as 0.)

    Args:
        predicted: predicted classes (B,), integers in [0, K).
        labels: true classes (B,), integers in [0, K).
        num_classes: K ≥ 1.
        mask: (B,) booleans, True for what counts. None: all.

    Returns:
        Array (), floating, in [0, 1]. A traced class out of range counts as no class: such a prediction is
        wrong, and such a label does not occur.

    Raises:
        ValueError: as for `f1`.
    """
    hits, _, num_actual, _ = class_counts(predicted, labels, num_classes, mask)
    return divided(divided(hits, num_actual).sum(), how_many(num_actual > 0))


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
    hits, predicted, actual, count = class_counts(predicted, labels, num_classes, mask)
    beyond_chance = (actual * (count - predicted)).sum() - count * (count - hits.sum())
    spread = [(each * (count - each)).sum() for each in (predicted, actual)]
    return divided(beyond_chance, jnp.sqrt(spread[0]) * jnp.sqrt(spread[1]))


def cohen_kappa(predicted: Any, labels: Any, *, num_classes: int = 2, mask: Any = None) -> Array:
    """Returns Cohen's kappa of a batch: agreement beyond that of chance (Cohen 1960).

        κ = (p_o − p_e) / (1 − p_e),    p_o = tr C / n,    p_e = Σ_c p_c a_c / n²,    0 where p_e = 1

    Arguments and errors are those of `matthews`, as are the symbols; it is NaN where `matthews` is. Where
    chance alone explains everything, scikit-learn gives NaN.
    """
    hits, predicted, actual, count = class_counts(predicted, labels, num_classes, mask)
    by_chance = (actual * (count - predicted)).sum()
    return divided(by_chance - count * (count - hits.sum()), by_chance)
