"""Smoothed metrics of a batch, of the set of decisions that perturbed scores make, with no key.

What `esjax.smooth_decisions` samples of the blocks of these names, these functions integrate: over the
perturbed scores to chances, and over counts to the metric. One call is one batch: use `jax.vmap` over
batches. All functions are differentiable in the scores and in σ, to any order, by forward and reverse mode.

Conventions (0 where a denominator is) and masks are those of `esjax.blocks`, and of scikit-learn with
`zero_division=0`.
"""

from typing import Any

import jax

from esjax._core.check import check_positive
from esjax.exact import _expected, _labelled
from esjax.exact._counting import Metric
from esjax.exact._labelled import Average
from esjax.noise import Noise, normal

__all__ = [
    "balanced_accuracy",
    "cohen_kappa",
    "count_probs",
    "dice",
    "f1",
    "fbeta",
    "jaccard",
    "matthews",
    "of_confusion",
    "precision",
    "recall",
]

Array = jax.Array


# --- ratios ----------------------------------------------------------------------------------------------


def f1(
    scores: Any,
    labels: Any,
    sigma: Any,
    *,
    threshold: Any = 0.0,
    average: Average = "macro",
    mask: Any = None,
    noise: Noise = normal,
) -> Array:
    """Returns the smoothed F1 of a batch, of classes, of binary decisions, or of several each (multi-label).

        f1 = E[F1(argmax(scores + σ ε), labels)]      for classes
        f1 = E[F1(scores + σ ε > threshold, labels)]  for binary and multi-label decisions

    an integral over one number of the decisions' chances (`esjax.exact.from_probs.f1`).

    Args:
        scores: of classes (B, K), K ≥ 2, −inf masks a class; or of binary decisions: (B,) for one label,
            (B, L) for several.
        labels: the true ones: integers in [0, K), (B,); or 0 and 1, or booleans, of the scores' shape.
        sigma: σ > 0, the scale of the noise in units of the scores: (), or what broadcasts to (B,) for
            classes, else to the scores' shape.
        threshold: of binary decisions, in units of the scores: (), or what broadcasts to their shape. Finite.
        average: over classes or labels: "macro", the mean of their F1; or "micro", the F1 of their sums,
            which for classes is the accuracy.
        mask: booleans of the shape of `labels`, True for what counts. None: all.
        noise: `esjax.noise.normal`, `esjax.noise.gumbel`, or for binary decisions `esjax.noise.logistic`.

    Returns:
        Array (), in the scores' dtype (computed in float32 where that is narrower). NaN where a traced label
        that counts is out of range for K classes; traced binary ones other than 1 count as 0.

    Raises:
        ValueError: shapes or kinds do not fit each other; `average` is unknown; another argument is out of
            range; or scores or labels are known (not traced), and NaN or out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from esjax import exact
        >>> value = exact.f1(jnp.zeros(2), jnp.array([1, 0]), sigma=1.0)  # (0 + 1 + 0 + 2/3) / 4
        >>> print(f"{value:.4f}")
        0.4167
    """
    return _expected.fbeta(_labelled.from_scores(scores, labels, sigma, threshold, mask, noise), 1.0, average)


def fbeta(
    scores: Any,
    labels: Any,
    beta: float,
    sigma: Any,
    *,
    threshold: Any = 0.0,
    average: Average = "macro",
    mask: Any = None,
    noise: Noise = normal,
) -> Array:
    """Returns the smoothed F-measure of a batch, in which recall is worth β times as much as precision.

        F_beta = E[(1 + β²) tp / (predicted + β² actual)],    0 where the denominator is

    `beta` is a finite number β > 0, and 1 for F1. Other arguments, value and errors are those of `f1`.
    """
    check_positive("beta", beta, "for β = 0 use precision")
    return _expected.fbeta(
        _labelled.from_scores(scores, labels, sigma, threshold, mask, noise), beta, average
    )


def jaccard(
    scores: Any,
    labels: Any,
    sigma: Any,
    *,
    threshold: Any = 0.0,
    average: Average = "macro",
    mask: Any = None,
    noise: Noise = normal,
) -> Array:
    """Returns the smoothed Jaccard index of a batch (IoU), 0 where a union is empty.

        jaccard = E[tp / (predicted + actual − tp)]

    Arguments, value and errors are those of `f1`.
    """
    return _expected.jaccard(_labelled.from_scores(scores, labels, sigma, threshold, mask, noise), average)


def precision(
    scores: Any,
    labels: Any,
    sigma: Any,
    *,
    threshold: Any = 0.0,
    average: Average = "macro",
    mask: Any = None,
    noise: Noise = normal,
) -> Array:
    """Returns the smoothed precision of a batch, tp_c / predicted_c, 0 where nothing is predicted.

        precision = E[tp / predicted]

    Arguments, value and errors are those of `f1`.
    """
    return _expected.fbeta(_labelled.from_scores(scores, labels, sigma, threshold, mask, noise), 0.0, average)


def recall(
    scores: Any,
    labels: Any,
    sigma: Any,
    *,
    threshold: Any = 0.0,
    average: Average = "macro",
    mask: Any = None,
    noise: Noise = normal,
) -> Array:
    """Returns the smoothed recall of a batch, tp_c / actual_c, 0 where there is nothing to find.

        recall = E[tp] / actual

    Arguments, value and errors are those of `f1`.
    """
    return _expected.recall(_labelled.from_scores(scores, labels, sigma, threshold, mask, noise), average)


def balanced_accuracy(
    scores: Any, labels: Any, sigma: Any, *, threshold: Any = 0.0, mask: Any = None, noise: Noise = normal
) -> Array:
    """Returns the smoothed mean recall of the classes that occur among the labels, 0 where all is masked.

        balanced_accuracy = mean over classes c of E[tp_c] / actual_c

    Binary decisions (B,) are two classes, and there may be no more than one label.

    Arguments and errors are those of `f1`, without `average`.
    """
    return _expected.balanced_accuracy(_labelled.from_scores(scores, labels, sigma, threshold, mask, noise))


def dice(
    scores: Any, labels: Any, sigma: Any, *, threshold: Any = 0.0, mask: Any = None, noise: Noise = normal
) -> Array:
    """Returns the smoothed Dice coefficient of two sets of pixels, 0 where both are empty.

        dice = E[2 |A ∩ B| / (|A| + |B|)]

    It is the F1 of all pixels together, for `scores` and `labels` of one shape, whichever: one image.

    Arguments and errors are those of `f1`, without `average`.
    """
    return _expected.dice(_labelled.from_scores(scores, labels, sigma, threshold, mask, noise))


# --- metrics that need the law of a count ------------------------------------------------------------------


def matthews(
    scores: Any, labels: Any, sigma: Any, *, threshold: Any = 0.0, mask: Any = None, noise: Noise = normal
) -> Array:
    """Returns the smoothed correlation coefficient of Matthews of binary decisions (B,).

        matthews = E[(N TP − S P) / √(S (N − S) P (N − P))],    0 where the denominator is

    of S = TP + FP ones among N decisions, P of them positives. Given S, that is linear in TP, so that the law
    of S is all that it takes, O(B).

    Arguments and errors are those of `f1`, without `average`; `scores` of several labels or classes raise.
    """
    return _expected.matthews(_labelled.from_scores(scores, labels, sigma, threshold, mask, noise))


def cohen_kappa(
    scores: Any, labels: Any, sigma: Any, *, threshold: Any = 0.0, mask: Any = None, noise: Noise = normal
) -> Array:
    """Returns the smoothed kappa of Cohen of binary decisions (B,).

        cohen_kappa = E[2 (N TP − S P) / (S (N − P) + (N − S) P)],    0 where the denominator is

    with the symbols of `matthews`. Arguments and errors are those of `f1`, without `average`.
    """
    return _expected.cohen_kappa(_labelled.from_scores(scores, labels, sigma, threshold, mask, noise))


def of_confusion(
    metric: Metric,
    scores: Any,
    labels: Any,
    sigma: Any,
    *,
    threshold: Any = 0.0,
    mask: Any = None,
    noise: Noise = normal,
) -> Array:
    """Returns the smoothed value of any metric of the four counts of binary decisions (B,).

        E[metric] = Σ_ab P(TP = a) P(FP = b) metric(a, b, P − a, N − P − b)

    of N decisions, P of them positives, on the counts that have a chance: some (5 to 16 standard deviations)²
    of them, a block at a time.

    `metric` takes four floating numbers () tp, fp, fn, tn and returns one. It may close over arrays, and the
    value is differentiable in these, too. Where it is NaN and the chance of that is 0 to rounding, it counts
    as 0. Raises `ValueError` if `metric` does not return one floating number, and for `scores` of several
    labels or classes. Other arguments and errors are those of `f1`, without `average`.
    """
    return _expected.of_confusion(
        metric, _labelled.from_scores(scores, labels, sigma, threshold, mask, noise)
    )


def count_probs(
    scores: Any, sigma: Any, *, threshold: Any = 0.0, mask: Any = None, noise: Noise = normal
) -> Array:
    """Returns the chance of each number, 0 to B, of perturbed scores above the threshold: (B + 1,).

        probs_k = P(k of the scores + σ ε > threshold)

    by the characteristic function (Hong 2013), as `esjax.exact.from_probs.count_probs`. Arguments are those
    of `f1` for binary scores (B,), without labels, and errors are those of `f1`.
    """
    return _expected.count_probs(_labelled.bits_from_scores(scores, sigma, threshold, mask, noise))
