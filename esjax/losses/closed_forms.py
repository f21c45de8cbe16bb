"""Fenchel–Young losses of choices whose chances are known: exact, without samples and without a key.

In units of σ, with top the best answer without noise, a loss is a gap and what noise adds to it,

    E[max_y' ⟨z, y'⟩] − ⟨s, y⟩ = ⟨s, top − y⟩ + E[max_y' ⟨z, y' − top⟩],   z = s + ε

neither of which is negative. The second is an integral over one number, which no label changes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from esjax import exact
from esjax._core.check import as_array
from esjax._core.rules import with_rule
from esjax.losses import _excess, _refusals
from esjax.noise import Noise, gumbel, normal

Array = jax.Array


def fenchel_young_argmax(logits: Any, target: Any, sigma: Any, *, noise: Noise = normal) -> Array:
    """Returns each example's loss of an argmax, whose gradient is `exact.argmax_probs` − target.

        L = E[max(logits + σ ε)] − ⟨logits, target⟩
          = σ logsumexp(logits / σ) − ⟨logits, target⟩        for Gumbel noise: σ times cross-entropy

    (Blondel et al. 2020, table 1; Berthet et al. 2020, sec. 4.) What `fenchel_young` samples for a solver
    that marks the largest. 0 at best for a one-hot target; for others the best is above 0, with Gumbel noise
    σ times the target's entropy.

    Args:
        logits: (..., K), floating, K ≥ 2. −inf masks a class, whose target is then 0.
        target: (..., K), ≥ 0, with sum 1: for labels `jax.nn.one_hot(labels, K)`.
        sigma: σ > 0, the scale of the noise in units of the logits: (), or what broadcasts to (...).
        noise: `esjax.noise.normal` or `esjax.noise.gumbel`.

    Returns:
        Array (...) in the logits' dtype, in units of the logits. Differentiable in all of them, to any order.

    Raises:
        ValueError: as for `exact.argmax_probs`; or target has another shape, or is known and not such a
            distribution.

    Examples:
        >>> import jax, jax.numpy as jnp, esjax
        >>> logits, target = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
        >>> loss = esjax.losses.fenchel_young_argmax(logits, target, 1.0, noise=esjax.noise.gumbel)
        >>> print(f"{loss:.3f}, {jax.nn.softplus(1.0):.3f}")
        1.313, 1.313
    """
    probs_of = partial(exact.argmax_probs, noise=noise)
    beyond = _excess.beyond_the_first_gumbel if noise == gumbel else _excess.beyond_the_first
    return _of_the_best(logits, target, 1, sigma, probs_of, beyond)


def fenchel_young_top_k(logits: Any, target: Any, k: int, sigma: Any) -> Array:
    """Returns each example's loss of the k largest, whose gradient is `exact.top_k_probs` − target.

        L = E[sum of the k largest of logits + σ ε] − ⟨logits, target⟩        normal noise

    (Berthet et al. 2020, sec. 4.) What `fenchel_young` samples for a solver that marks the k largest. 0 at
    best for a target of k ones. Time is O(K · k · nodes).

    Args:
        logits: (..., K), floating, K ≥ 2. −inf masks a class, whose target is then 0.
        target: (..., K), in [0, 1], with sum k.
        k: how many, 1 ≤ k ≤ K.
        sigma: σ > 0, in units of the logits: (), or what broadcasts to (...).

    Returns:
        Array (...) in the logits' dtype, in units of the logits. Differentiable in all of them, to any order.

    Raises:
        ValueError: as for `exact.top_k_probs`; or target has another shape, or is known and out of range.
    """

    def probs_of(logits: Any, sigma: Any) -> Array:
        return exact.top_k_probs(logits, k, sigma)

    return _of_the_best(logits, target, k, sigma, probs_of, partial(_excess.beyond_the_top, k))


def fenchel_young_threshold(
    x: Any, target: Any, sigma: Any, *, threshold: Any = 0.0, noise: Noise = normal
) -> Array:
    """Returns the loss of x > threshold, elementwise, whose gradient is `exact.threshold_probs` − target.

        L = E[max(z, 0)] − (x − threshold) target,   z = x − threshold + σ ε
          = σ (softplus(a) − a target),  a = (x − threshold) / σ         for logistic noise
          = σ (φ(a) + a Φ(a) − a target)                                 for normal noise

    Its sum is what `fenchel_young` samples for the solver `lambda z: z > 0` at x − threshold; with logistic
    noise it is σ times binary cross-entropy. 0 at best for a target of 0 or 1.

    Args:
        x: (...), finite, floating.
        target: (...), in [0, 1].
        sigma: σ > 0, in units of x: (), or what broadcasts to (...).
        threshold: in units of x, (), or what broadcasts to (...); finite.
        noise: `esjax.noise.normal`, `esjax.noise.logistic` or `esjax.noise.gumbel`.

    Returns:
        Array (...) in the dtype of x, in units of x. Differentiable in all of them, to any order.

    Raises:
        ValueError: as for `exact.threshold_probs`; or target has another shape, or is known and out of range.
    """
    probs = exact.threshold_probs(x, sigma, threshold=threshold, noise=noise)  # refuses what is out of range
    x = as_array("x", x)
    target = _refusals.as_target(target, x, "x", None)
    wide = jax.lax.stop_gradient(probs.astype(target.dtype))
    sigma, threshold = (as_array("", each).astype(wide.dtype) for each in (sigma, threshold))
    scale = jnp.broadcast_to(sigma, x.shape)
    a = (x.astype(wide.dtype) - jnp.broadcast_to(threshold, x.shape)) / scale
    held, known_target = jax.lax.stop_gradient((a, target))
    value = (1 - known_target) * _excess.above(noise, held) + known_target * _excess.below(noise, held)
    probs_of = partial(exact.threshold_probs, sigma=1.0, noise=noise)
    return (scale * _with_slopes(value, wide, probs_of, a, target, _alone)).astype(x.dtype)


# --- the value and its derivatives -------------------------------------------------------------------


def _of_the_best(
    logits: Any,
    target: Any,
    k: int,
    sigma: Any,
    probs_of: Callable[..., Array],
    beyond: Callable[[Array], Array],
) -> Array:
    """Returns σ times the loss of s = logits / σ; `beyond(s)` is what noise adds, (..., K) -> (...)."""
    probs = jax.lax.stop_gradient(probs_of(logits, sigma))  # refuses what is out of range
    given = as_array("logits", logits)
    target = _refusals.as_target(target, given, "logits", k)
    scale = jnp.broadcast_to(as_array("sigma", sigma).astype(target.dtype), given.shape[:-1])
    s = given.astype(target.dtype) / scale[..., None]
    held, known_target = jax.lax.stop_gradient((s, target))
    best = jnp.put_along_axis(
        jnp.zeros_like(held), jax.lax.top_k(held, k)[1], jnp.ones((), held.dtype), -1, inplace=False
    )
    gap = jnp.where(best == known_target, 0, held * (best - known_target)).sum(-1)
    value = gap + beyond(held)
    found = _with_slopes(value, probs.astype(s.dtype), partial(probs_of, sigma=1.0), s, target, _summed)
    return (scale * found).astype(given.dtype)


def _summed(terms: Array) -> Array:
    return terms.sum(-1)


def _alone(terms: Array) -> Array:
    return terms


def _with_slopes(
    value: Array,
    probs: Array,
    probs_of: Callable[[Array], Array],
    s: Array,
    target: Array,
    reduced: Callable[[Array], Array],
) -> Array:
    """Returns `value`, whose derivative is ⟨probs(s) − target, ṡ⟩ − ⟨s, target's⟩."""

    def probs_dot(s: Array, s_dot: Array) -> Array:
        return jax.jvp(probs_of, (s,), (s_dot,))[1]

    def value_dot(inputs: Any, tangents: Any) -> Array:
        (s, target, probs), (s_dot, target_dot, _) = inputs, tangents
        terms = jnp.zeros_like(s)
        if s_dot is not None:
            terms = terms + (with_rule(probs, probs_dot, s) - target) * s_dot
        if target_dot is not None:
            terms = terms - jnp.where(jnp.isneginf(s), 0, s) * target_dot
        return reduced(terms)

    return with_rule(value, value_dot, (s, target, probs))
