"""Metrics of pairs: how often perturbed scores put two items in order, averaged over all pairs of a list.

    P(z_i > z_j) − P(z_i < z_j) = ∫ f(u − s_i) (F(u − s_j) − (1 − F(u − s_j))) du

On a grid of u that all items share, a sum over pairs is a product of sums, or a cumulative sum in the order
of the targets: O(n · nodes) instead of n². Errors are below 1e-5 in float32 and 1e-9 in float64, of the value
and of the gradient in units of its norm, even where nearly all pairs are decided. One list
(n,); use `jax.vmap` over lists.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from esjax._core.arrays import as_floating, as_ordered, check_known, divided, mask_like, same_length
from esjax.exact import _lists
from esjax.exact._batches import long_sum
from esjax.exact._lists import List
from esjax.exact._pair_integrals import expected_sign, of_all, of_those_before
from esjax.noise import Noise, normal

Array = jax.Array


def auc(scores: Any, labels: Any, sigma: Any, *, mask: Any = None, noise: Noise = normal) -> Array:
    """Returns the expected area under the ROC curve of the perturbed scores.

        E AUC = mean over pairs of P(z_i > z_j),   i positive, j negative,   z = scores + σ ε

    (Hanley and McNeil 1982.) For normal noise, P is Φ((s_i − s_j) / (σ √2)); for Gumbel, a sigmoid.

    Args:
        scores: (n,) of the items, floating. Infinite ones are beyond all others, as if finite and perturbed:
            each of two equal ones is above with chance 1/2, as if there were no ties.
        labels: (n,) booleans or 0 and 1, 1 for a positive.
        sigma: σ > 0, the scale of the noise in units of the scores, ().
        mask: (n,) booleans, True for what counts. None: all.
        noise: `esjax.noise.normal`, `esjax.noise.logistic` or `esjax.noise.gumbel`.

    Returns:
        Array (), in the scores' dtype, in [0, 1]; 1/2, which is chance, where a class is missing
        (scikit-learn refuses that).

    Raises:
        ValueError: these are not vectors of one length; scores are not floating, or known and NaN (traced
            ones give NaN); known labels are neither 0 nor 1 (a traced one that is not 1 counts as 0); `sigma`
            is not one number > 0; or there is no closed form for `noise`.

    Examples:
        >>> import jax.numpy as jnp, esjax.exact
        >>> value = esjax.exact.auc(jnp.array([1.0, 0.0]), jnp.array([1, 0]), sigma=1.0)  # Φ(1 / √2)
        >>> print(f"{value:.3f}")
        0.760
    """
    scores, labels = same_length(scores=scores, labels=labels)
    items, dtype = _lists.as_list(scores, sigma, mask, noise)
    check_known("labels", labels, items.mask, lambda c: (c == 0) | (c == 1), "give booleans, or 0 and 1")
    is_positive = as_floating("labels", labels) == 1
    return _lists.computed(partial(_auc, noise), items, is_positive).astype(dtype)


@partial(jax.jit, static_argnums=0)
def _auc(noise: Noise, items: List, positive: Array) -> Array:
    first, second = (
        _shares((chosen & items.mask).astype(items.scores.dtype)) for chosen in (positive, ~positive)
    )
    return (1 + expected_sign(noise, of_all, items, (first, second))) / 2


def concordance(
    scores: Any, times: Any, events: Any, sigma: Any, *, mask: Any = None, noise: Noise = normal
) -> Array:
    """Returns the expectation of Harrell's concordance index of the perturbed scores.

        E = mean over comparable pairs of P(z_i < z_j),   i the one of the shorter time

    A pair is comparable if the one of the shorter time had the event; or, of equal times, exactly one had it,
    and counts as the shorter (Harrell et al. 1982, as lifelines has it).

    Args:
        scores: (n,), higher for a longer expected time: minus a risk; as for `auc`.
        times: (n,) until the event or the end of observation.
        events: (n,) booleans or 0 and 1, whether the event was seen.
        sigma: σ > 0, in units of the scores, ().
        mask: (n,) booleans, True for what counts. None: all.
        noise: `esjax.noise.normal`, `esjax.noise.logistic` or `esjax.noise.gumbel`.

    Returns:
        Array (), in the scores' dtype, in [0, 1]; 1/2, which is chance, where no pair is comparable.

    Raises:
        ValueError: as for `auc`; or known (not traced) events are neither 0 nor 1. A traced event that is not
            1 counts as none.
    """
    scores, times, events = same_length(scores=scores, times=times, events=events)
    items, dtype = _lists.as_list(scores, sigma, mask, noise)
    check_known("events", events, items.mask, lambda e: (e == 0) | (e == 1), "give booleans, or 0 and 1")
    seen = as_floating("events", events) == 1
    times = as_ordered("times", times)
    return _lists.computed(partial(_concordance, noise), items, times, seen).astype(dtype)


@partial(jax.jit, static_argnums=0)
def _concordance(noise: Noise, items: List, times: Array, seen: Array) -> Array:
    """Sorts by falling time, equal ones events last: an event is compared with all before its time's."""
    items = items._replace(mask=items.mask & (times == times))  # as NaN compares with nothing
    order = jnp.lexsort((seen.astype(jnp.int32), _reversed(times), (~items.mask).astype(jnp.int32)))
    items, times, seen = _in_order(items, order), times[order], (seen & items.mask)[order]
    is_new = (times != jnp.roll(times, 1)) | (seen & ~jnp.roll(seen, 1))
    before = _begin(is_new).astype(items.scores.dtype)
    pairs = jnp.where(seen, before, 0).sum()
    first = divided(seen.astype(before.dtype), pairs)
    return (1 - expected_sign(noise, of_those_before, items, (first,), (before,))) / 2


def kendall_tau(scores: Any, targets: Any, sigma: Any, *, mask: Any = None, noise: Noise = normal) -> Array:
    """Returns the expectation of Kendall's τ_b between the perturbed scores and the targets.

        E τ_b = Σ_{i<j} sign(y_i − y_j) E sign(z_i − z_j) / √(T (T − ties in y)),   T = n (n − 1) / 2

    (Kendall 1945; perturbed scores have no ties.)

    Args:
        scores: (n,) of the items, as for `auc`.
        targets: (n,) numbers y, of which only the order counts. An item whose target is NaN does not count.
        sigma: σ > 0, in units of the scores, ().
        mask: (n,) booleans, True for what counts. None: all.
        noise: `esjax.noise.normal`, `esjax.noise.logistic` or `esjax.noise.gumbel`.

    Returns:
        Array (), in the scores' dtype, in [−1, 1]; 0 where all targets that count are equal, or fewer
        than two count (SciPy gives NaN).

    Raises:
        ValueError: as for `auc`, without what concerns labels; or targets are not real numbers.
    """
    items, targets, dtype = _with_targets(scores, targets, sigma, mask, noise)
    return _lists.computed(partial(_kendall_tau, noise), items, targets).astype(dtype)


@partial(jax.jit, static_argnums=0)
def _kendall_tau(noise: Noise, items: List, targets: Array) -> Array:
    items, before, _ = _sorted_by(items, targets)
    counted = items.mask.astype(before.dtype)
    size, pairs = counted.sum(), (before * counted).sum()
    norm = jnp.sqrt(size * (size - 1) / 2) * jnp.sqrt(pairs)
    return expected_sign(noise, of_those_before, items, (divided(counted, norm),), (before,))


def spearman_rho(scores: Any, targets: Any, sigma: Any, *, mask: Any = None, noise: Noise = normal) -> Array:
    """Returns the expectation of Spearman's ρ between the perturbed scores and the targets.

        E ρ = Σ_i (r_i − r̄) E R_i / √(Σ_i (r_i − r̄)² · n (n² − 1) / 12),   E R_i = 1 + Σ_j P(z_j < z_i)

    with average ranks r of the targets (Spearman 1904; perturbed scores have no ties).

    Args:
        scores: (n,) of the items, as for `auc`.
        targets: (n,) numbers, of which only the order counts. An item whose target is NaN does not count.
        sigma: σ > 0, in units of the scores, ().
        mask: (n,) booleans, True for what counts. None: all.
        noise: `esjax.noise.normal`, `esjax.noise.logistic` or `esjax.noise.gumbel`.

    Returns:
        Array (), in the scores' dtype, in [−1, 1]; 0 where all targets that count are equal, or fewer
        than two count (SciPy gives NaN).

    Raises:
        ValueError: as for `kendall_tau`.
    """
    items, targets, dtype = _with_targets(scores, targets, sigma, mask, noise)
    return _lists.computed(partial(_spearman_rho, noise), items, targets).astype(dtype)


@partial(jax.jit, static_argnums=0)
def _spearman_rho(noise: Noise, items: List, targets: Array) -> Array:
    items, before, after = _sorted_by(items, targets)
    counted = items.mask.astype(before.dtype)
    size = counted.sum()
    ranks = counted * ((before + after) - size) / jnp.maximum(size, 1)  # from the mean, in units of n / 2
    spread = jnp.sqrt(long_sum(ranks**2, 0) * jnp.maximum(size, 1) / 3 * (1 - 1 / jnp.maximum(size, 1) ** 2))
    rho = expected_sign(noise, of_all, items, (divided(ranks, spread), _shares(counted)))
    return rho


# --- orders ------------------------------------------------------------------------------------------


def _with_targets(scores: Any, targets: Any, sigma: Any, mask: Any, noise: Noise) -> tuple[List, Array, Any]:
    """Returns the list, without NaN targets; what compares as the targets do; and the dtype of the result."""
    scores, targets = same_length(scores=scores, targets=targets)
    targets = as_ordered("targets", targets)
    counted = mask_like(mask, scores, "scores") & (targets == targets)
    items, dtype = _lists.as_list(scores, sigma, counted, noise)
    return items, targets, dtype


def _shares(weights: Array) -> Array:
    """Returns weights (n,) of sum 1, 0 where there are none."""
    return divided(weights, weights.sum())


def _in_order(items: List, order: Array) -> List:
    return List(items.scores[order], items.sigma, items.mask[order])


def _reversed(x: Array) -> Array:
    """Returns numbers that compare the other way; −x of an integer may wrap."""
    return -x if jnp.issubdtype(x.dtype, jnp.floating) else ~x


def _begin(is_new: Array) -> Array:
    """Returns, for each place (n,) of a sorted list, where the run of equal ones begins."""
    index = jnp.arange(is_new.size, dtype=jnp.int32)
    return jax.lax.cummax(jnp.where(is_new, index, 0))


def _sorted_by(items: List, targets: Array) -> tuple[List, Array, Array]:
    """Returns the items by rising target, and how many targets are below, and at most, each one's.

    Those that do not count come last.
    """
    order = jnp.lexsort((targets, (~items.mask).astype(jnp.int32)))
    items, targets = _in_order(items, order), targets[order]
    is_new = (targets != jnp.roll(targets, 1)) | (items.mask != jnp.roll(items.mask, 1))
    size = targets.size
    before, left = _begin(is_new), _begin(jnp.roll(is_new, -1).at[-1].set(True)[::-1])[::-1]
    dtype = items.scores.dtype
    return items, before.astype(dtype), (size - left).astype(dtype)
