"""Blocks of ranking: one list of items by their scores, the highest first."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.check import check_count
from esjax._core.products import matmul
from esjax.blocks._arrays import (
    as_floating,
    as_ordered,
    as_positive,
    check_known,
    divided,
    mask_like,
    same_length,
)

Array = jax.Array


def ndcg(
    scores: Any,
    relevance: Any,
    *,
    k: int | None = None,
    gain: Literal["exponential", "linear"] = "exponential",
    mask: Any = None,
) -> Array:
    """Returns the normalised discounted cumulative gain of a list (Järvelin and Kekäläinen 2002).

        DCG = Σ_{r ≤ k} g(relevance of the item at rank r) / log₂(1 + r),    NDCG = DCG / its largest value

    Args:
        scores: (n,) of the items; of equal ones the first counts as the highest.
        relevance: (n,) ≥ 0.
        k: ranks that count, ≥ 1. None: all.
        gain: "exponential", g = 2^relevance − 1 (Burges et al. 2005); or "linear", g = relevance.
        mask: (n,) booleans, True for what counts. None: all.

    Returns:
        Array (), floating, in [0, 1]; 0 where nothing is relevant.

    Raises:
        ValueError: these are not vectors of one length; `k` or `gain` is out of range; or known (not traced)
            relevance is negative.
    """
    scores, relevance = same_length(scores=scores, relevance=relevance)
    if gain not in ("exponential", "linear"):
        raise ValueError(f"gain={gain!r} must be 'exponential' or 'linear'")
    count = relevance.size if k is None else min(check_count("k", k), relevance.size)
    mask = mask_like(mask, scores, "scores")
    grades = jnp.where(mask, as_floating("relevance", relevance), 0)
    check_known("relevance", relevance, mask, lambda r: ~(r < 0), "give numbers >= 0")
    gains = grades if gain == "linear" else _exponential(grades)
    discounts = 1 / jnp.log2(jnp.arange(2, 2 + count, dtype=gains.dtype))
    found = matmul(gains[_best_first(scores, mask)][:count], discounts)
    return divided(found, matmul(jnp.sort(gains, descending=True)[:count], discounts))


def reciprocal_rank(scores: Any, relevant: Any, *, mask: Any = None) -> Array:
    """Returns 1 over the rank of the first relevant item, 0 if none is. Its mean over lists is the MRR.

    (Voorhees 1999.)

    Args:
        scores: (n,) of the items; of equal ones the first counts as the highest.
        relevant: (n,) booleans or numbers, > 0 for a relevant item.
        mask: (n,) booleans, True for what counts. None: all.

    Returns:
        Array (), floating, in [0, 1].

    Raises:
        ValueError: these are not vectors of one length.
    """
    scores, relevant = same_length(scores=scores, relevant=relevant)
    mask = mask_like(mask, scores, "scores")
    in_order = (as_positive("relevant", relevant) & mask)[_best_first(scores, mask)]
    rank = 1 + in_order.argmax().astype(jnp.int32)
    return jnp.where(in_order.any(), 1 / rank.astype(jnp.result_type(float)), 0)


def average_precision(scores: Any, relevant: Any, *, mask: Any = None) -> Array:
    """Returns the average precision of a list: the mean, over relevant items, of the precision down to them.

    Items of equal scores come together, as in scikit-learn's `average_precision_score` (Buckley and
    Voorhees 2000).

    Args:
        scores: (n,) of the items.
        relevant: (n,) booleans or numbers, > 0 for a relevant item.
        mask: (n,) booleans, True for what counts. None: all.

    Returns:
        Array (), floating, in [0, 1]; 0 where nothing is relevant.

    Raises:
        ValueError: these are not vectors of one length.
    """
    scores, relevant = same_length(scores=scores, relevant=relevant)
    mask = mask_like(mask, scores, "scores")
    scores = as_ordered("scores", scores)
    lowest = -jnp.inf if jnp.issubdtype(scores.dtype, jnp.floating) else np.iinfo(scores.dtype).min
    scores = jnp.where(mask, scores, lowest)
    relevant = as_positive("relevant", relevant) & mask
    dtype = jnp.result_type(float)

    def at_least(among: Array) -> Array:
        """Returns for each item how many `among` them have at least its score."""
        ascending = jnp.sort(jnp.where(among, scores, lowest))
        below = jnp.searchsorted(ascending, scores, side="left").astype(jnp.int32)
        count = jnp.minimum(scores.size - below, among.sum(dtype=jnp.int32))  # the lowest may be a score, too
        return count.astype(dtype)

    precision = jnp.where(relevant, divided(at_least(relevant), at_least(mask)), 0)
    return divided(precision.sum(), relevant.sum(dtype=jnp.int32).astype(dtype))


def concordance(scores: Any, times: Any, events: Any, *, mask: Any = None) -> Array:
    """Returns Harrell's concordance index: the share of comparable pairs that the scores put in order.

    A pair is comparable if the one with the shorter time had the event; or, if their times are equal, exactly
    one had it, which then counts as the shorter. Equal scores count one half (Harrell et al. 1982, as in
    lifelines).
    It takes n² comparisons.

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


def _exponential(grades: Array) -> Array:
    """Returns 2^grade − 1 (n,), in units of a power of 2 where the largest would overflow."""
    excess = jnp.maximum(grades.max() - 64, 0)
    return 2.0 ** (grades - excess) - 2.0**-excess


def _best_first(scores: Any, mask: Array) -> Array:
    """Returns the indices (n,) of items by falling score, with those that do not count last."""
    scores = as_ordered("scores", scores)
    falling = -scores if jnp.issubdtype(scores.dtype, jnp.floating) else ~scores  # −x of an integer may wrap
    return jnp.lexsort((falling, (~mask).astype(scores.dtype)))
