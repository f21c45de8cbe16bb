"""How often a batch was decided right: counts of each class, or of each label."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.arrays import mask_like
from esjax._core.check import as_classes, as_given, check_count

Array = jax.Array


def averaged_counts(
    predicted: Any, labels: Any, num_classes: int | None, average: str, mask: Any
) -> tuple[Array, Array, Array]:
    """Returns tp, predicted and actual counts (C,): of each class or label, or (1,) of all together."""
    if average not in ("macro", "micro"):
        raise ValueError(f"average={average!r} must be 'macro' or 'micro'")
    if num_classes is None:
        hits, num_predicted, num_actual = confusion_counts(*_binary(predicted, labels, mask))
    else:
        hits, num_predicted, num_actual, _ = class_counts(predicted, labels, num_classes, mask)
    if average == "macro":
        return hits, num_predicted, num_actual
    return hits.sum(keepdims=True), num_predicted.sum(keepdims=True), num_actual.sum(keepdims=True)


def class_counts(
    predicted: Any, labels: Any, num_classes: int, mask: Any
) -> tuple[Array, Array, Array, Array]:
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
    counts = confusion_counts(is_predicted, is_actual, counted[:, None])
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
    is_predicted, is_actual = binary_decisions(predicted, labels, counted, option)
    shape = (predicted.shape[0], -1)
    return is_predicted.reshape(shape), is_actual.reshape(shape), counted.reshape(shape)


def binary_decisions(predicted: Any, labels: Any, counted: Array, option: str = "") -> tuple[Array, Array]:
    """Returns booleans of the shape of binary decisions, and of labels."""
    integers = [each.astype(np.int32) if each.dtype == bool else each for each in (predicted, labels)]
    classes = as_classes(2, counted, option=option, predicted=integers[0], labels=integers[1])
    return classes[0] == 1, classes[1] == 1


def confusion_counts(is_predicted: Array, is_actual: Array, counted: Array) -> tuple[Array, Array, Array]:
    """Sums booleans (B, ...) over the batch: tp, predicted, actual, each (...) floating."""
    sums = [
        (which & counted).sum(0, dtype=jnp.int32)
        for which in (is_predicted & is_actual, is_predicted, is_actual)
    ]
    hits, num_predicted, num_actual = (each.astype(jnp.result_type(float)) for each in sums)
    return hits, num_predicted, num_actual
