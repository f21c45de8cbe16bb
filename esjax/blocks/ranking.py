"""Blocks of ranking: one list of items by their scores, the highest first."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.arrays import (
    as_floating,
    as_ordered,
    as_positive,
    check_known,
    divided,
    exponential_gains,
    how_many,
    mask_like,
    same_length,
)
from esjax._core.check import check_count
from esjax._core.products import matmul

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
    gains = grades if gain == "linear" else exponential_gains(grades)
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
    in_order = _relevant_in_order(scores, relevant, mask)
    rank = 1 + in_order.argmax().astype(jnp.int32)
    return jnp.where(in_order.any(), 1 / rank.astype(jnp.result_type(float)), 0)


def precision_at_k(scores: Any, relevant: Any, *, k: int, mask: Any = None) -> Array:
    """Returns the share of relevant items among the first k of a list.

        precision_at_k = (relevant items at ranks r ≤ k) / k

    It divides by k also where fewer than k items count, as TREC's evaluations do; rax divides by how many do.

    Args:
        scores: (n,) of the items; of equal ones the first counts as the highest.
        relevant: (n,) booleans or numbers, > 0 for a relevant item.
        k: ranks that count, ≥ 1; it may exceed n.
        mask: (n,) booleans, True for what counts. None: all.

    Returns:
        Array (), floating, in [0, 1]; 0 where nothing is relevant.

    Raises:
        ValueError: these are not vectors of one length, or `k` is not a whole number ≥ 1.
    """
    in_order = _relevant_in_order(scores, relevant, mask)
    return how_many(in_order[: check_count("k", k)]) / float(k)


def recall_at_k(scores: Any, relevant: Any, *, k: int, mask: Any = None) -> Array:
    """Returns the share of a list's relevant items that are among its first k, 0 where nothing is relevant.

        recall_at_k = (relevant items at ranks r ≤ k) / (relevant items)

    Arguments, value and errors are those of `precision_at_k`.
    """
    in_order = _relevant_in_order(scores, relevant, mask)
    return divided(how_many(in_order[: check_count("k", k)]), how_many(in_order))


def average_precision(scores: Any, relevant: Any, *, mask: Any = None) -> Array:
    """Returns the average precision of a list: the mean, over relevant items, of the precision down to them.

    Items of equal scores come together, as in scikit-learn's `average_precision_score` (Buckley and
    Voorhees 2000).

    Args:
        scores: (n,) of the items.
        relevant: (n,) booleans or numbers, > 0 for a relevant item.
        mask: (n,) booleans, True for what counts. None: all.

    Returns:
        Array (), floating, in [0, 1]; 0 where nothing is relevant. A NaN is the lowest score.

    Raises:
        ValueError: these are not vectors of one length.
    """
    scores, relevant = same_length(scores=scores, relevant=relevant)
    mask = mask_like(mask, scores, "scores")
    scores = as_ordered("scores", scores)
    lowest = -jnp.inf if jnp.issubdtype(scores.dtype, jnp.floating) else np.iinfo(scores.dtype).min
    scores = jnp.where(mask & ~jnp.isnan(scores), scores, lowest)
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


def _relevant_in_order(scores: Any, relevant: Any, mask: Any) -> Array:
    """Returns which items (n,) are relevant and count, the highest score first."""
    scores, relevant = same_length(scores=scores, relevant=relevant)
    mask = mask_like(mask, scores, "scores")
    return (as_positive("relevant", relevant) & mask)[_best_first(scores, mask)]


def _best_first(scores: Any, mask: Array) -> Array:
    """Returns the indices (n,) of items by falling score, with those that do not count last."""
    scores = as_ordered("scores", scores)
    falling = -scores if jnp.issubdtype(scores.dtype, jnp.floating) else ~scores  # −x of an integer may wrap
    return jnp.lexsort((falling, (~mask).astype(scores.dtype)))
