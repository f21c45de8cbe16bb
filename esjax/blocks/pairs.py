"""Blocks of pairs: whether scores order two items as their labels, times or targets do."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.arrays import (
    as_floating,
    as_ordered,
    check_known,
    divided,
    how_many,
    mask_like,
    same_length,
)

Array = jax.Array


def concordance(scores: Any, times: Any, events: Any, *, mask: Any = None) -> Array:
    """Returns Harrell's concordance index: the share of comparable pairs that the scores put in order.

    A pair is comparable if the one with the shorter time had the event; or, if their times are equal, exactly
    one had it, which then counts as the shorter. Equal scores count one half (Harrell et al. 1982, as in
    lifelines). It takes n² comparisons.

    Args:
        scores: (n,), higher for a longer expected time: minus a risk.
        times: (n,) until the event or the end of observation.
        events: (n,) booleans or 0 and 1, whether the event was seen.
        mask: (n,) booleans, True for what counts. None: all.

    Returns:
        Array (), floating, in [0, 1]; 1/2, which is chance, where no pair is comparable.

    Raises:
        ValueError: these are not vectors of one length, or known (not traced) events are neither 0 nor 1. A
            traced event that is not 1 counts as none.
    """
    scores, times, events = same_length(scores=scores, times=times, events=events)
    mask = mask_like(mask, scores, "scores")
    scores, times = as_ordered("scores", scores), as_ordered("times", times)
    seen = (as_floating("events", events) == 1) & mask
    check_known("events", events, mask, lambda e: (e == 0) | (e == 1), "give booleans, or 0 and 1")
    first, second = times[:, None], times[None, :]
    sooner = (first < second) | ((first == second) & ~seen[None, :])
    comparable = seen[:, None] & mask[None, :] & sooner
    ordered = scores[:, None] < scores[None, :]
    tied = scores[:, None] == scores[None, :]
    dtype = jnp.result_type(float)
    concordant = (comparable & ordered).sum(dtype=dtype) + 0.5 * (comparable & tied).sum(dtype=dtype)
    return divided(concordant, comparable.sum(dtype=dtype), otherwise=0.5)


def auc(scores: Any, labels: Any, *, mask: Any = None) -> Array:
    """Returns the area under the ROC curve: the share of pairs of both classes that the scores put in order.

        auc = mean of [scores_i > scores_j] + ½ [scores_i = scores_j] over i with label 1 and j with label 0

    as scikit-learn's `roc_auc_score` (Hanley and McNeil 1982). It takes a sort, O(n log n).

    Args:
        scores: (n,), higher for label 1. A NaN is neither above nor equal to any other: its pairs count 0.
        labels: (n,) booleans or 0 and 1.
        mask: (n,) booleans, True for what counts. None: all.

    Returns:
        Array (), floating, in [0, 1]; 1/2, which is chance, where there is no pair of both classes.

    Raises:
        ValueError: these are not vectors of one length, or known (not traced) labels are neither 0 nor 1. A
            traced label that is not 1 counts as 0.
    """
    scores, labels = same_length(scores=scores, labels=labels)
    mask = mask_like(mask, scores, "scores")
    scores = as_ordered("scores", scores)
    is_one = as_floating("labels", labels) == 1
    check_known("labels", labels, mask, lambda c: (c == 0) | (c == 1), "give booleans, or 0 and 1")
    positive, negative = is_one & mask, ~is_one & mask
    below, up_to = _below_and_up_to(scores, negative)
    in_order = 0.5 * (below + up_to).astype(jnp.result_type(float))
    wins = jnp.where(positive & ~jnp.isnan(scores), in_order, 0).sum()
    return divided(wins, how_many(positive) * how_many(negative), otherwise=0.5)


def kendall_tau(scores: Any, targets: Any, *, mask: Any = None) -> Array:
    """Returns Kendall's τ_b, the rank correlation that counts pairs: those in order less those in reverse.

        kendall_tau = Σ_ij sgn(scores_i − scores_j) sgn(targets_i − targets_j) / √(P_scores P_targets)

    with P how many of the pairs are not tied (Kendall 1945, as SciPy's `kendalltau`). It takes n²
    comparisons.

    Args:
        scores: (n,). A NaN is tied with all others.
        targets: (n,) numbers to correlate with. An item whose target is NaN does not count.
        mask: (n,) booleans, True for what counts. None: all.

    Returns:
        Array (), floating, in [−1, 1]; 0 where the scores or the targets that count are constant, or fewer
        than two count. SciPy gives NaN there.

    Raises:
        ValueError: these are not vectors of one length, or not real numbers.
    """
    scores, targets, counted = _compared(scores, targets, mask)
    signs = [_signs(each, counted) for each in (scores, targets)]

    def total(of_pairs: Array) -> Array:
        return of_pairs.sum(1, dtype=jnp.int32).astype(jnp.result_type(float)).sum()

    untied = [jnp.sqrt(total(jnp.abs(each))) for each in signs]
    return divided(total(signs[0] * signs[1]), untied[0] * untied[1])


def spearman_rho(scores: Any, targets: Any, *, mask: Any = None) -> Array:
    """Returns Spearman's ρ, the correlation of the ranks, where equal numbers share the mean of theirs.

        spearman_rho = Σ_i r_i q_i / √(Σ_i r_i² Σ_i q_i²)

    with r and q the ranks of scores and targets less their means (Spearman 1904, as SciPy's `spearmanr`):
    half of how many are less than i, less half of how many are greater. It takes sorts, O(n log n).

    Arguments, value and errors are those of `kendall_tau`. The rank of a NaN score is the mean of all.
    """
    scores, targets, counted = _compared(scores, targets, mask)
    of_scores, of_targets = (_centered_ranks(each, counted) for each in (scores, targets))
    spread = [jnp.sqrt((each * each).sum()) for each in (of_scores, of_targets)]
    return divided((of_scores * of_targets).sum(), spread[0] * spread[1])


def _compared(scores: Any, targets: Any, mask: Any) -> tuple[Array, Array, Array]:
    """Returns scores and targets (n,) that compare as the given ones do, and which items count."""
    scores, targets = same_length(scores=scores, targets=targets)
    mask = mask_like(mask, scores, "scores")
    scores, targets = as_ordered("scores", scores), as_ordered("targets", targets)
    return scores, targets, mask & ~jnp.isnan(targets)


def _signs(values: Array, counted: Array) -> Array:
    """Returns sgn(values_i − values_j) (n, n) as int8, 0 where one of the two is NaN or does not count."""
    first, second = values[:, None], values[None, :]
    signs = (first > second).astype(jnp.int8) - (first < second).astype(jnp.int8)
    return jnp.where(counted[:, None] & counted[None, :], signs, 0)


def _centered_ranks(values: Array, counted: Array) -> Array:
    """Returns Σ_j sgn(values_i − values_j) / 2 (n,), 0 for a NaN and for what does not count."""
    is_ranked = counted & ~jnp.isnan(values)
    below, up_to = _below_and_up_to(values, is_ranked)
    twice = below + up_to - is_ranked.sum(dtype=jnp.int32)
    return jnp.where(is_ranked, 0.5 * twice.astype(jnp.result_type(float)), 0)


def _below_and_up_to(values: Array, among: Array) -> tuple[Array, Array]:
    """Returns how many `among` the values (n,) are less than each, and how many are less or equal; int32.

    No NaN is counted; the counts of a NaN itself are left open.
    """
    among = among & ~jnp.isnan(values)
    is_floating = jnp.issubdtype(values.dtype, jnp.floating)
    highest = jnp.array(jnp.inf if is_floating else np.iinfo(values.dtype).max, values.dtype)
    ascending = jnp.sort(jnp.where(among, values, highest))  # the rest, as the highest, are below none
    below, up_to = (
        jnp.searchsorted(ascending, values, side=side).astype(jnp.int32) for side in ("left", "right")
    )
    return below, jnp.minimum(up_to, among.sum(dtype=jnp.int32))  # the highest may be a value, too
