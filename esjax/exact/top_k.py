"""What is among the k largest of perturbed scores."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from esjax.exact import _argmax_integrals, _arguments, _top_k_integrals

Array = jax.Array


def top_k_probs(logits: Any, k: int, sigma: Any, *, num_nodes: int | None = None) -> Array:
    """Returns each class's chance of being among the k largest of the perturbed logits, for normal noise.

        p_c = ∫ φ(u − s_c) P(N_c(u) < k) du,   s = logits / σ

    where N_c(u) counts the other classes above u, a sum of independent bits of chance 1 − Φ(u − s_j)
    (Poisson-binomial). The p_c sum to k. Time is O(K · k · nodes).

    Args:
        logits: (..., K), floating, K ≥ 2. A class at −inf is never among them, and one at +inf takes a place;
            where there are more than k of these, they share the places equally.
        k: how many, 1 ≤ k ≤ K.
        sigma: σ > 0, in units of the logits: (), or what broadcasts to (...).
        num_nodes: nodes of the trapezoidal rule, ≥ 8. None: from K, k and the dtype.

    Returns:
        Array (..., K) in the logits' dtype.

    Raises:
        ValueError: as for `argmax_probs`; or `k` is out of range.
    """
    logits, scores, sigma = _arguments.check_scores("logits", logits, sigma, num_nodes, of_classes=True)
    _arguments.check_k(k, scores)
    probs = _arguments.by_example(_top_k_probs, (k, num_nodes), scores, sigma)
    return probs.astype(logits.dtype)


@partial(jax.jit, static_argnums=(0, 1))
def _top_k_probs(k: int, num_nodes: int | None, scores: Array, sigma: Array) -> Array:
    kth = jax.lax.top_k(scores, k)[0][..., -1:]
    s = _arguments.standardized(scores, kth, jnp.isfinite(scores), sigma)
    s = jnp.where(jnp.isposinf(scores), _argmax_integrals.FAR, s)
    return _arguments.share(_top_k_integrals.probs(k, num_nodes, s), scores, k)


def top_k_accuracy(logits: Any, labels: Any, k: int, sigma: Any, *, num_nodes: int | None = None) -> Array:
    """Returns each example's chance that the label is among the k largest perturbed logits, for normal noise.

        p = `top_k_probs(logits, k, sigma)[label]`

    with nodes placed for this label, and without the other classes' probabilities.

    Args:
        logits: (..., K), floating, K ≥ 2, as for `top_k_probs`.
        labels: (...), integers in [0, K).
        k: how many, 1 ≤ k ≤ K.
        sigma: σ > 0, in units of the logits: (), or what broadcasts to (...).
        num_nodes: nodes of the trapezoidal rule, ≥ 8. None: from K, k and the dtype.

    Returns:
        Array (...) in the logits' dtype.

    Raises:
        ValueError: as for `accuracy`; or `k` is out of range.
    """
    logits, scores, sigma = _arguments.check_scores("logits", logits, sigma, num_nodes, of_classes=True)
    labels = _arguments.check_labels(labels, scores)
    _arguments.check_k(k, scores)
    probs = _arguments.by_example(_top_k_accuracy, (k, num_nodes), scores, labels, sigma)
    return probs.astype(logits.dtype)


@partial(jax.jit, static_argnums=(0, 1))
def _top_k_accuracy(k: int, num_nodes: int | None, scores: Array, labels: Array, sigma: Array) -> Array:
    probs = _top_k_integrals.win(k, num_nodes, _arguments.leads(scores, labels, sigma))
    return _arguments.where_valid(_arguments.share_of_label(probs, scores, labels, k), scores, labels)
