"""What is chosen among perturbed scores: the largest, a label that is the largest, all above a threshold."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.check import known
from esjax.exact import _argmax_integrals, _arguments
from esjax.exact._noise_values import pdf_cdf_tail
from esjax.noise import Noise, gumbel, normal

Array = jax.Array

_DECIDED = 1024.0
"""So many σ beyond a threshold, the chance and its slope are 0 or 1 in any dtype, whichever the noise."""


def argmax_probs(logits: Any, sigma: Any, *, noise: Noise = normal, num_nodes: int | None = None) -> Array:
    """Returns each class's chance of being the largest of the perturbed logits.

        p_c = P(argmax(logits + σ ε) = c)
            = ∫ φ(u − s_c) ∏_{j≠c} Φ(u − s_j) du,  s = logits / σ    for normal noise
            = softmax(logits / σ)_c                                  for Gumbel noise

    (Thurstone 1927, case V, and Yellott 1977: the two best-known models of choice.) All classes share the
    product in the integrand, so that all of them together take O(K · nodes).

    Args:
        logits: (..., K), floating, K ≥ 2. −inf masks a class: p_c = 0, gradient 0. +inf wins; several of
            them share the 1.
        sigma: σ > 0, the scale of the noise in units of the logits: (), or what broadcasts to (...).
        noise: `esjax.noise.normal` or `esjax.noise.gumbel`.
        num_nodes: nodes of the trapezoidal rule, ≥ 8, for normal noise. None: from K and the dtype.

    Returns:
        Array (..., K) in the logits' dtype (computed in float32 where that is narrower).

    Raises:
        ValueError: an argument is out of range; or known logits hold NaN, or nothing but −inf for one
            example (traced ones give that example NaN).

    Examples:
        >>> import jax.numpy as jnp, esjax.exact
        >>> probs = esjax.exact.argmax_probs(jnp.array([1.0, 0.0]), sigma=1.0)  # Φ(1 / √2) = 0.7602...
        >>> print(f"{probs[0]:.3f}")
        0.760
    """
    return chances_of_largest("logits", logits, sigma, noise, num_nodes)


def chances_of_largest(name: str, logits: Any, sigma: Any, noise: Noise, num_nodes: int | None) -> Array:
    """Returns `argmax_probs` of logits by another name."""
    logits, scores, sigma = _arguments.check_scores(name, logits, sigma, num_nodes, of_classes=True)
    _arguments.check_noise(noise, ("normal", "gumbel"))
    probs = _arguments.by_example(_argmax_probs, (noise, num_nodes), scores, sigma)
    return probs.astype(logits.dtype)


@partial(jax.jit, static_argnums=(0, 1))
def _argmax_probs(noise: Noise, num_nodes: int | None, scores: Array, sigma: Array) -> Array:
    finite = jnp.isfinite(scores)
    largest = jnp.where(finite, scores, -jnp.inf).max(-1, keepdims=True)
    s = _arguments.standardized(scores, largest, finite, sigma)
    if noise == gumbel:
        has_none = ~finite.any(-1, keepdims=True)
        probs = _argmax_integrals.softmax(jnp.where(finite | has_none, s, -jnp.inf))
    else:
        probs = _argmax_integrals.argmax_probs(num_nodes, s)
    return _arguments.share(probs, scores, 1)


def accuracy(
    logits: Any,
    labels: Any,
    sigma: Any,
    *,
    noise: Noise = normal,
    num_nodes: int | None = None,
) -> Array:
    """Returns each example's chance that the label's perturbed logit is the largest: what training maximises.

        p = P(argmax(logits + σ ε) = label) = `argmax_probs(logits, sigma)[label]`

    with nodes placed where this label's integrand lives, so that value and gradient keep their relative
    precision even for a label 13 σ behind the leader. The gradient comes with the value, without a second
    pass over the classes. Memory is O(K) for each example.

    Args:
        logits: (..., K), floating, K ≥ 2, as for `argmax_probs`.
        labels: (...), integers in [0, K).
        sigma: σ > 0, in units of the logits: (), or what broadcasts to (...).
        noise: `esjax.noise.normal` or `esjax.noise.gumbel`.
        num_nodes: nodes of the trapezoidal rule, ≥ 8, for normal noise. None: from K and the dtype.

    Returns:
        Array (...) in the logits' dtype. Its mean is the smoothed accuracy of the batch.

    Raises:
        ValueError: as for `argmax_probs`; or labels are not integers (...), or known and out of range.
    """
    logits, scores, sigma = _arguments.check_scores("logits", logits, sigma, num_nodes, of_classes=True)
    _arguments.check_noise(noise, ("normal", "gumbel"))
    labels = _arguments.check_labels(labels, scores)
    probs = _arguments.by_example(_accuracy, (noise, num_nodes), scores, labels, sigma)
    return probs.astype(logits.dtype)


@partial(jax.jit, static_argnums=(0, 1))
def _accuracy(noise: Noise, num_nodes: int | None, scores: Array, labels: Array, sigma: Array) -> Array:
    if noise == gumbel:
        probs = _arguments.own(_argmax_probs(noise, None, scores, sigma), labels)
    else:
        probs = _argmax_integrals.win(num_nodes, _arguments.leads(scores, labels, sigma))
        probs = _arguments.share_of_label(probs, scores, labels, 1)
    return _arguments.where_valid(probs, scores, labels)


def threshold_probs(x: Any, sigma: Any, *, threshold: Any = 0.0, noise: Noise = normal) -> Array:
    """Returns P(x + σ ε > threshold), elementwise: the smoothed step.

        Φ(a) for normal noise, 1 / (1 + exp(−a)) for logistic, 1 − exp(−exp(a − γ)) for (centred) Gumbel,
        a = (x − threshold) / σ,  γ = 0.577...

    Args:
        x: (...), floating; ±inf give 1 and 0 with gradient 0.
        sigma: σ > 0, in units of x: (), or what broadcasts to (...).
        threshold: in units of x, (), or what broadcasts to (...); finite.
        noise: `esjax.noise.normal`, `esjax.noise.logistic` or `esjax.noise.gumbel`.

    Returns:
        Array (...) in the dtype of x.

    Raises:
        ValueError: an argument is out of range, or known x holds NaN (traced ones give NaN).
    """
    return chances_above("x", x, sigma, threshold, noise)


def chances_above(name: str, x: Any, sigma: Any, threshold: Any, noise: Noise) -> Array:
    """Returns `threshold_probs` of an x by another name."""
    x, scores, sigma = _arguments.check_scores(name, x, sigma)
    _arguments.check_noise(noise, ("normal", "logistic", "gumbel"))
    threshold = _arguments.broadcast("threshold", threshold, scores.shape, scores.dtype)
    values = known(threshold)
    if values is not None and not np.isfinite(values).all():
        wrong = values[~np.isfinite(values)].flat[0]
        raise ValueError(f"threshold={wrong} must be finite; use a number in the units of {name}")
    finite = jnp.isfinite(scores)
    a = jnp.where(finite, scores - threshold, 0)
    a = _arguments.in_units(a, sigma, _DECIDED)
    probs = jax.scipy.special.ndtr(a) if noise == normal else pdf_cdf_tail(noise, -a)[2]
    probs = jnp.where(finite, probs, (scores > 0).astype(scores.dtype))
    return _arguments.nan_unless(~jnp.isnan(scores), probs, scores).astype(x.dtype)
