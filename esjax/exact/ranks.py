"""Metrics of a ranking: what a list is worth on average, sorted by its perturbed scores.

Each item's place is 1 + N, where N counts the items with a higher perturbed score. Given the item's own one,
these are independent, so that a metric is an integral over one number, however many items there are. Errors
are below 1e-5 in float32 and 1e-9 in float64, of the value and of the gradient in units of its norm. Without
a cutoff that holds even where nearly all places are decided. With one, some 1e-7 / σ of rounding (1e-16 / σ
in float64) is left in the gradient, however small it is: where all places are decided, it is nothing else.
One list (n,); use `jax.vmap` over lists.
"""

import math
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.arrays import (
    as_floating,
    as_positive,
    check_known,
    divided,
    exponential_gains,
    how_many,
    same_length,
)
from esjax._core.check import check_count
from esjax._core.products import matmul
from esjax.exact import _discounts, _grid, _lists, _places
from esjax.exact._lists import List
from esjax.noise import Noise, normal

Array = jax.Array


def ndcg(
    scores: Any,
    relevance: Any,
    sigma: Any,
    *,
    k: int | None = None,
    gain: Literal["exponential", "linear"] = "exponential",
    mask: Any = None,
    noise: Noise = normal,
) -> Array:
    """Returns the expected normalised discounted cumulative gain of the perturbed scores.

        E NDCG = Σ_c g_c E[D(1 + N_c)] / largest DCG,   D(r) = 1 / log₂(1 + r) for r ≤ k, else 0
        E[D(1 + N_c)] = ∫ f(u − s_c) E[D(1 + N_c) | z_c = u] du,   s = scores / σ

    (Taylor et al. 2008, SoftRank, with the law of places exact instead of n² pairs.) Time is O(n k · nodes),
    and O(n log n · nodes) without a cutoff.

    Args:
        scores: (n,) of the items, floating. Infinite ones are beyond all others, as if finite and perturbed:
            of equal ones each order has its chance, where `esjax.blocks.ndcg` would keep theirs.
        relevance: (n,) ≥ 0, finite (a traced one that is not gives NaN).
        sigma: σ > 0, the scale of the noise in units of the scores, ().
        k: ranks that count, ≥ 1. None: all.
        gain: "exponential", g = 2^relevance − 1 (Burges et al. 2005); or "linear", g = relevance.
        mask: (n,) booleans, True for what counts. None: all.
        noise: `esjax.noise.normal`, `esjax.noise.logistic` or `esjax.noise.gumbel`.

    Returns:
        Array (), in the scores' dtype, in [0, 1]; 0 where nothing is relevant.

    Raises:
        ValueError: as for `esjax.blocks.ndcg`; scores are not floating, or known and NaN (traced ones give
            NaN); `sigma` is not one number > 0; or there is no closed form for `noise`.

    Examples:
        >>> import jax.numpy as jnp, esjax.exact
        >>> value = esjax.exact.ndcg(jnp.array([1.0, 0.0]), jnp.array([1, 0]), sigma=1.0)
        >>> print(f"{value:.3f}")  # Φ(1 / √2) + (1 − Φ(1 / √2)) / log₂ 3
        0.912
    """
    scores, relevance = same_length(scores=scores, relevance=relevance)
    if gain not in ("exponential", "linear"):
        raise ValueError(f"gain={gain!r} must be 'exponential' or 'linear'")
    count = relevance.size if k is None else min(check_count("k", k), relevance.size)
    items, dtype = _lists.as_list(scores, sigma, mask, noise)
    largest = float(np.finfo(np.dtype(items.scores.dtype)).max)
    remedy = f"give numbers >= 0 that are finite in {items.scores.dtype}"
    check_known("relevance", relevance, items.mask, lambda r: (r >= 0) & (r <= largest), remedy)
    grades = as_floating("relevance", relevance).astype(items.scores.dtype)
    return _lists.computed(partial(_ndcg, noise, count, gain), items, grades).astype(dtype)


def _linear_gains(grades: Array) -> Array:
    """Returns the grades (n,), in units of a power of 2 where the sum of large ones might overflow."""
    return grades * jnp.where(grades.max() > 2.0**64, 2.0**-64, 1).astype(grades.dtype)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _ndcg(noise: Noise, k: int, gain: str, items: List, grades: Array) -> Array:
    grades = jnp.where(items.mask, grades, 0)
    valid = jnp.isfinite(grades).all()
    gains = _linear_gains(grades) if gain == "linear" else exponential_gains(grades)
    discounts = 1 / jnp.log2(jnp.arange(2, 2 + k, dtype=gains.dtype))
    gains = divided(gains, matmul(jnp.sort(gains, descending=True)[:k], discounts))
    if k < gains.size:
        value = _up_to(noise, tuple(discounts_of(k)), items, gains)
    else:
        value = _everywhere(noise, partial(_discounts.everywhere, noise), items, gains > 0, (gains,))
    return _lists.where_valid(value, items, valid)


def precision_at_k(
    scores: Any, relevant: Any, sigma: Any, *, k: int, mask: Any = None, noise: Noise = normal
) -> Array:
    """Returns the expected share of relevant items among the k first of the perturbed scores.

        E = Σ_{c relevant} P(N_c < k) / k

    Args:
        scores: (n,) of the items, as for `ndcg`.
        relevant: (n,) booleans or numbers, > 0 for a relevant item.
        sigma: σ > 0, in units of the scores, ().
        k: how many, ≥ 1; places beyond the end of the list count as not relevant.
        mask: (n,) booleans, True for what counts. None: all.
        noise: `esjax.noise.normal`, `esjax.noise.logistic` or `esjax.noise.gumbel`.

    Returns:
        Array (), in the scores' dtype, in [0, 1].

    Raises:
        ValueError: as for `ndcg`.
    """
    items, relevant, dtype = _checked(scores, relevant, sigma, mask, noise)
    hits = _lists.computed(partial(_hits, noise, check_count("k", k)), items, relevant)
    return (hits / k).astype(dtype)


def recall_at_k(
    scores: Any, relevant: Any, sigma: Any, *, k: int, mask: Any = None, noise: Noise = normal
) -> Array:
    """Returns the expected share of the relevant items that are among the k first of the perturbed scores.

        E = Σ_{c relevant} P(N_c < k) / number of relevant items

    Args and errors are those of `precision_at_k`.

    Returns:
        Array (), in the scores' dtype, in [0, 1]; 0 where nothing is relevant.
    """
    items, relevant, dtype = _checked(scores, relevant, sigma, mask, noise)
    found = _lists.computed(partial(_hits, noise, check_count("k", k)), items, relevant)
    return divided(found, how_many(relevant).astype(found.dtype)).astype(dtype)


@partial(jax.jit, static_argnums=(0, 1))
def _hits(noise: Noise, k: int, items: List, relevant: Array) -> Array:
    gains = relevant.astype(items.scores.dtype)
    if k >= gains.size:
        return _lists.where_valid(gains.sum(), items)
    return _up_to(noise, (1.0,) * k, items, gains)


def reciprocal_rank(
    scores: Any, relevant: Any, sigma: Any, *, mask: Any = None, noise: Noise = normal
) -> Array:
    """Returns the expectation of 1 over the rank of the first relevant item of the perturbed scores.

        E = Σ_{c relevant} ∫ f(u − s_c) ∏_{j relevant, j≠c} F(u − s_j) E[1 / (1 + B(u))] du

    where B counts the other items above u. Time is O(n log n · nodes).

    Args:
        scores: (n,) of the items, as for `ndcg`.
        relevant: (n,) booleans or numbers, > 0 for a relevant item.
        sigma: σ > 0, in units of the scores, ().
        mask: (n,) booleans, True for what counts. None: all.
        noise: `esjax.noise.normal`, `esjax.noise.logistic` or `esjax.noise.gumbel`.

    Returns:
        Array (), in the scores' dtype, in [0, 1]; 0 where nothing is relevant.

    Raises:
        ValueError: as for `ndcg`.
    """
    items, relevant, dtype = _checked(scores, relevant, sigma, mask, noise)
    return _lists.computed(partial(_reciprocal_rank, noise), items, relevant).astype(dtype)


@partial(jax.jit, static_argnums=0)
def _reciprocal_rank(noise: Noise, items: List, relevant: Array) -> Array:
    ones = relevant.astype(items.scores.dtype)
    return _everywhere(noise, partial(_discounts.first_relevant, noise), items, relevant, (), (ones,))


def average_precision(
    scores: Any, relevant: Any, sigma: Any, *, mask: Any = None, noise: Noise = normal
) -> Array:
    """Returns the expected average precision of the perturbed scores.

        E = mean over relevant c of ∫ f(u − s_c) E[(1 + A(u)) / (1 + A(u) + B(u))] du

    where A counts the relevant, and B the other items above u, without c. Time is O(n log n · nodes).

    Args:
        scores: (n,) of the items, as for `ndcg`.
        relevant: (n,) booleans or numbers, > 0 for a relevant item.
        sigma: σ > 0, in units of the scores, ().
        mask: (n,) booleans, True for what counts. None: all.
        noise: `esjax.noise.normal`, `esjax.noise.logistic` or `esjax.noise.gumbel`.

    Returns:
        Array (), in the scores' dtype, in [0, 1]; 0 where nothing is relevant.

    Raises:
        ValueError: as for `ndcg`.
    """
    items, relevant, dtype = _checked(scores, relevant, sigma, mask, noise)
    return _lists.computed(partial(_average_precision, noise), items, relevant).astype(dtype)


@partial(jax.jit, static_argnums=0)
def _average_precision(noise: Noise, items: List, relevant: Array) -> Array:
    ones = relevant.astype(items.scores.dtype)
    total = _everywhere(noise, partial(_discounts.precisions, noise), items, relevant, (), (ones,))
    return divided(total, ones.sum())


def rank_probs(
    scores: Any, sigma: Any, k: int | None = None, *, mask: Any = None, noise: Noise = normal
) -> Array:
    """Returns each item's chance of each of the first k places of the perturbed scores.

        probs_cr = P(N_c = r − 1) = ∫ f(u − s_c) P(N_c(u) = r − 1) du

    Time is O(n k log n · nodes). For Gumbel noise, it is the law of Plackett and Luce.

    Args:
        scores: (n,) of the items, as for `ndcg`.
        sigma: σ > 0, in units of the scores, ().
        k: places, 1 ≤ k ≤ n. None: all.
        mask: (n,) booleans, True for what counts. None: all. The row of others is 0.
        noise: `esjax.noise.normal`, `esjax.noise.logistic` or `esjax.noise.gumbel`.

    Returns:
        Array (n, k) in the scores' dtype.

    Raises:
        ValueError: as for `ndcg`; or `k` is out of range.
    """
    (scores,) = same_length(scores=scores)
    places = scores.size if k is None else check_count("k", k)
    if places > scores.size:
        raise ValueError(f"k={k} is more than the {scores.size} items; use k <= {scores.size}")
    items, dtype = _lists.as_list(scores, sigma, mask, noise)
    return _lists.computed(partial(_rank_probs, noise, places), items).astype(dtype)


@partial(jax.jit, static_argnums=(0, 1))
def _rank_probs(noise: Noise, k: int, items: List) -> Array:
    found = _lists.places_of(noise, items)
    return _lists.where_valid(_places.probs(noise, k, found, items.mask), items)


# --- what they share ---------------------------------------------------------------------------------


def _checked(scores: Any, relevant: Any, sigma: Any, mask: Any, noise: Noise) -> tuple[List, Array, Any]:
    """Returns the list, which of its items are relevant and count, and the dtype of the result."""
    scores, relevant = same_length(scores=scores, relevant=relevant)
    items, dtype = _lists.as_list(scores, sigma, mask, noise)
    return items, as_positive("relevant", relevant) & items.mask, dtype


def discounts_of(k: int) -> list[float]:
    """Returns 1 / log₂(1 + r) for r ≤ k."""
    return [1 / math.log2(1 + rank) for rank in range(1, k + 1)]


def _up_to(noise: Noise, discounts: tuple[float, ...], items: List, gains: Array) -> Array:
    """Returns Σ_c g_c E[D(1 + N_c)] for discounts of the first k places."""
    k = len(discounts)
    found = _lists.places_of(noise, items)
    grid = _places.grid(noise, k, gains.size, k, gains.dtype)
    nodes = _places.nodes(grid, k, found, gains > 0)
    value = _grid.integral(grid, partial(_places.up_to, noise, discounts), found, nodes, (gains,))
    return _lists.where_valid(value, items)


def _everywhere(
    noise: Noise,
    integrand: _grid.Integrand,
    items: List,
    needed: Array,
    weights: tuple[Array, ...],
    constants: tuple[Array, ...] = (),
) -> Array:
    """Returns the integral for discounts that no cutoff ends; items (n,) that are `needed` have a gain."""
    found = _lists.places_of(noise, items)
    grid = _places.grid(noise, None, needed.size, 1, items.scores.dtype)
    nodes = _places.nodes(grid, None, found, needed)
    value = _grid.integral(grid, integrand, found, nodes, weights, constants)
    return _lists.where_valid(value, items)
