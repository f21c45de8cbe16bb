"""Metrics of a batch from the chances of its decisions, which are independent bits: expectations.

Where the chances come from perturbed scores, the functions of `esjax.exact` compute both. Here they may come
from any model, such as the softmax of logits. One call is one batch: use `jax.vmap` over batches. All are
differentiable in `probs`, to any order, by forward and reverse mode.

Conventions (0 where a denominator is) and masks are those of `esjax.blocks`, and of scikit-learn with
`zero_division=0`. NaN and chances outside [0, 1] are refused where they are known (not traced).
"""

from typing import Any

import jax

from esjax._core.check import check_positive
from esjax.exact import _expected, _labelled
from esjax.exact._counting import Metric
from esjax.exact._labelled import Average

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


def f1(probs: Any, labels: Any, *, average: Average = "macro", mask: Any = None) -> Array:
    """Returns the expected F1 of a batch, of classes, of binary decisions, or of several each (multi-label).

        E[2 tp_c / (predicted_c + actual_c)] = 2 ∫₀¹ s^P_c (Σ_i y_i p_i / (1 − p_i x)) ∏_i (1 − p_i x) ds

    with x = 1 − s, for P_c examples of class c, y_i = 1 for these, by the generating function of a sum of
    independent bits.

    Args:
        probs: chances of classes (B, K), K ≥ 1; or that binary decisions are 1: (B,) for one label, (B, L)
            for several.
        labels: the true ones: integers in [0, K), (B,); or 0 and 1, or booleans, of the shape of `probs`.
        average: over classes or labels: "macro", the mean of their F1; or "micro", the F1 of their sums,
            which for classes is the accuracy.
        mask: booleans of the shape of `labels`, True for what counts. None: all.

    Returns:
        Array (), in the dtype of `probs` (computed in float32 where that is narrower). NaN where a traced
        label that counts is out of range for K classes; traced binary ones other than 1 count as 0.

    Raises:
        ValueError: shapes or kinds do not fit each other; `average` is unknown; chances are known (not
            traced) and not in [0, 1]; or labels are known and out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from esjax.exact import from_probs
        >>> value = from_probs.f1(jnp.array([0.5, 0.5]), jnp.array([1, 0]))  # (0 + 1 + 0 + 2/3) / 4
        >>> print(f"{value:.4f}")
        0.4167
    """
    return _expected.fbeta(_labelled.from_probs(probs, labels, mask), 1.0, average)


def fbeta(probs: Any, labels: Any, beta: float, *, average: Average = "macro", mask: Any = None) -> Array:
    """Returns the expected F-measure of a batch, in which recall is worth β times as much as precision.

        F_c = (1 + β²) tp_c / (predicted_c + β² actual_c),    0 where the denominator is

    `beta` is a finite number > 0, and 1 for F1. Other arguments, value and errors are those of `f1`.
    """
    check_positive("beta", beta, "for β = 0 use precision")
    return _expected.fbeta(_labelled.from_probs(probs, labels, mask), beta, average)


def jaccard(probs: Any, labels: Any, *, average: Average = "macro", mask: Any = None) -> Array:
    """Returns the expected Jaccard index of a batch (IoU), 0 where a union is empty.

        J_c = tp_c / (predicted_c + actual_c − tp_c)

    Arguments, value and errors are those of `f1`.
    """
    return _expected.jaccard(_labelled.from_probs(probs, labels, mask), average)


def precision(probs: Any, labels: Any, *, average: Average = "macro", mask: Any = None) -> Array:
    """Returns the expected precision of a batch, tp_c / predicted_c, 0 where nothing is predicted.

    Arguments, value and errors are those of `f1`.
    """
    return _expected.fbeta(_labelled.from_probs(probs, labels, mask), 0.0, average)


def recall(probs: Any, labels: Any, *, average: Average = "macro", mask: Any = None) -> Array:
    """Returns the expected recall of a batch, tp_c / actual_c, 0 where there is nothing to find.

    Arguments, value and errors are those of `f1`.
    """
    return _expected.recall(_labelled.from_probs(probs, labels, mask), average)


def balanced_accuracy(probs: Any, labels: Any, *, mask: Any = None) -> Array:
    """Returns the expected mean recall of the classes that occur among the labels, 0 where all is masked.

    Binary decisions (B,) are two classes, and there may be no more than one label.

    Arguments and errors are those of `f1`, without `average`.
    """
    return _expected.balanced_accuracy(_labelled.from_probs(probs, labels, mask))


def dice(probs: Any, labels: Any, *, mask: Any = None) -> Array:
    """Returns the expected Dice coefficient of two sets of pixels, 0 where both are empty.

        2 |A ∩ B| / (|A| + |B|)

    It is the F1 of all pixels together, for `probs` and `labels` of one shape, whichever: one image.

    Arguments and errors are those of `f1`, without `average`.
    """
    return _expected.dice(_labelled.from_probs(probs, labels, mask))


# --- metrics that need the law of a count ------------------------------------------------------------------


def matthews(probs: Any, labels: Any, *, mask: Any = None) -> Array:
    """Returns the expected correlation coefficient of Matthews of binary decisions (B,).

        E[(N TP − S P) / √(S (N − S) P (N − P))],    0 where the denominator is

    of S = TP + FP ones among N decisions, P of them positives. Given S, that is linear in TP, so that the law
    of S is all that it takes, O(B).

    Arguments and errors are those of `f1`, without `average`; `probs` of several labels or classes raise.
    """
    return _expected.matthews(_labelled.from_probs(probs, labels, mask))


def cohen_kappa(probs: Any, labels: Any, *, mask: Any = None) -> Array:
    """Returns the expected kappa of Cohen of binary decisions (B,).

        E[2 (N TP − S P) / (S (N − P) + (N − S) P)],    0 where the denominator is

    Arguments, symbols and errors are those of `matthews`.
    """
    return _expected.cohen_kappa(_labelled.from_probs(probs, labels, mask))


def of_confusion(metric: Metric, probs: Any, labels: Any, *, mask: Any = None) -> Array:
    """Returns the expected value of any metric of the four counts of binary decisions (B,).

        Σ_ab P(TP = a) P(FP = b) metric(a, b, P − a, N − P − b),    N decisions, P positives

    on the counts that have a chance: some (5 to 16 standard deviations)² of them, a block at a time.

    `metric` takes four floating numbers () tp, fp, fn, tn and returns one. It may close over arrays, and the
    value is differentiable in these, too. Where it is NaN and the chance of that is 0 to rounding, it counts
    as 0. Other arguments are those of `matthews`.

    Returns:
        Array (), in the dtype of `probs`.

    Raises:
        ValueError: `metric` does not return one floating number; or as for `matthews`.
    """
    return _expected.of_confusion(metric, _labelled.from_probs(probs, labels, mask))


def count_probs(probs: Any, *, mask: Any = None) -> Array:
    """Returns the chance of each number of ones among independent bits (Poisson-binomial), for 0 to B.

    By the characteristic function (Hong 2013) at 46 frequencies or fewer, on the window that has the mass, so
    that it takes O(B); beyond it, the chances are 0. Errors are below 1e-6 of the largest chance in float32,
    and 1e-12 in float64, so that small ones may come out negative.

    Args:
        probs: chances (B,).
        mask: (B,) booleans, True for what counts. None: all.

    Returns:
        Array (B + 1,) in the dtype of `probs`.

    Raises:
        ValueError: as for `f1`.
    """
    return _expected.count_probs(_labelled.bits_from_probs(probs, mask))
