"""What `from_probs` and `sets` ask of chances, scores, labels and masks."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.arrays import mask_like
from esjax._core.check import as_array, as_classes, as_given, known
from esjax._core.trees import widen
from esjax.exact import choices
from esjax.noise import Noise, normal

Array = jax.Array
Average = Literal["macro", "micro"]

_BEYOND_ONE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-9}
"""By how much a chance may exceed 1: the rounding of what computed it."""


class Batch(NamedTuple):
    """Chances of decisions, and what they ought to be.

    Attributes:
        name: of the argument that they come from.
        probs: (B, K) of classes, or of the labels' shape; in at least float32.
        labels: int32, (B,) classes, or 0 and 1 of any shape.
        counted: booleans of the labels' shape.
        dtype: of the value.
    """

    name: str
    probs: Array
    labels: Array
    counted: Array
    dtype: Any


# --- chances ---------------------------------------------------------------------------------------------


def from_probs(probs: Any, labels: Any, mask: Any) -> Batch:
    """Returns the batch of `probs`, whichever of the two kinds it is.

    Raises:
        ValueError: an argument is out of range, or does not fit the others.
    """
    given = check_floating("probs", probs)
    labels, counted = _check_labels("probs", given, labels, mask)
    check_chances(given, _over(given, counted))
    return Batch("probs", widen(given), labels, counted, given.dtype)


def check_floating(name: str, value: Any) -> Array:
    given = as_array(name, value)
    if not jnp.issubdtype(given.dtype, jnp.floating):
        raise ValueError(f"{name} has dtype {given.dtype}; convert it with .astype(jnp.float32)")
    return given


def check_chances(probs: Array, counted: Array) -> None:
    """Raises `ValueError` for a chance that counts and is known not to be in [0, 1]."""
    values = known(probs, counted)
    if values is None:
        return
    most = 1 + _BEYOND_ONE[np.dtype(widen(probs).dtype)]
    wrong = values[~((values >= 0) & (values <= most))]
    if wrong.size:
        raise ValueError(
            f"probs holds {wrong.flat[0]}; give chances in [0, 1], as esjax.exact.argmax_probs does"
        )


# --- scores ----------------------------------------------------------------------------------------------


def from_scores(
    scores: Any, labels: Any, sigma: Any, threshold: Any = 0.0, mask: Any = None, noise: Noise = normal
) -> Batch:
    """Returns the batch of decisions on perturbed scores: the largest, or all above the threshold.

    Raises:
        ValueError: an argument is out of range, or does not fit the others.
    """
    given = check_floating("scores", scores)
    labels, counted = _check_labels("scores", given, labels, mask)
    wide = widen(given)
    if mask is not None:
        with jax.ensure_compile_time_eval():
            wide = jnp.where(_over(given, counted), wide, 0)
    if given.ndim == labels.ndim:
        probs = choices.chances_above("scores", wide, sigma, threshold, noise)
    else:
        value = known(as_array("threshold", threshold))
        if value is None or value.shape or value != 0:
            raise ValueError(
                f"threshold={threshold} is for binary scores, of the labels' shape; of classes the largest "
                "is chosen: leave it out"
            )
        probs = choices.chances_of_largest("scores", wide, sigma, noise, None)
    return Batch("scores", probs, labels, counted, given.dtype)


# --- without labels --------------------------------------------------------------------------------------


def bits_from_probs(probs: Any, mask: Any) -> Batch:
    """Returns the batch of binary decisions, as if all were to be 0."""
    return from_probs(probs, _zeros("probs", probs), mask)


def bits_from_scores(scores: Any, sigma: Any, threshold: Any, mask: Any, noise: Noise) -> Batch:
    return from_scores(scores, _zeros("scores", scores), sigma, threshold, mask, noise)


def _zeros(name: str, given: Any) -> np.ndarray:
    return np.zeros(as_array(name, given).shape, np.int32)


# --- what goes with both ---------------------------------------------------------------------------------


def _check_labels(name: str, given: Array, labels: Any, mask: Any) -> tuple[Array, Array]:
    """Returns labels as int32, and which of them count."""
    labels = as_given("labels", labels)
    of_classes = labels.shape == given.shape[:-1] and given.ndim > 0
    if not of_classes and labels.shape != given.shape:
        raise ValueError(
            f"labels has shape {labels.shape}, and {name} has {given.shape}; give both the same shape, "
            "binary, or (B, K) with one integer class for each example (B,)"
        )
    counted = mask_like(mask, labels, "labels")
    if labels.dtype == bool and not of_classes:
        labels = labels.astype(np.int32)
    return as_classes(given.shape[-1] if of_classes else 2, counted, labels=labels)[0], counted


def _over(given: Array, counted: Array) -> Array:
    """Returns what counts, of the shape of the chances or scores."""
    if given.ndim == counted.ndim:
        return counted
    with jax.ensure_compile_time_eval():
        return jnp.broadcast_to(counted[..., None], given.shape)
