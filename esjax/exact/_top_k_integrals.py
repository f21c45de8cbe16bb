"""Quadrature behind the top-k functions of `exact`: how many of the classes exceed a place u.

The number N(u) of perturbed scores above u is a sum of independent bits (Poisson-binomial). Their chances
are multiplied as polynomials, pair by pair, cut to degree k − 1 and scaled at each step, so that neither
10⁵ classes of small chance nor products below the smallest float lose digits.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.products import einsum
from esjax.exact._batches import by_rows
from esjax.exact._quadrature import log_cdf_and_hazard, log_pdf, num_nodes_over, trapezoid, window

Array = jax.Array

_REACH = 13.0
"""Classes farther than this from the k-th largest, in σ, are in or out, with an error of 10⁻²⁰."""


def _bits(z: Array) -> tuple[Array, Array, Array]:
    """Returns a, b, c, elementwise, with P(below) = a exp(c) and P(above) = b exp(c), where a = 1 or c = 0.

    b holds odds (a = 1) where a class is more likely below: sums of odds keep small chances precise.
    """
    log_below, _ = log_cdf_and_hazard(z)
    log_above, _ = log_cdf_and_hazard(-z)
    likely = z > 0
    below = jnp.where(likely, 1, jnp.exp(log_below))
    above = jnp.exp(jnp.where(likely, log_above - log_below, log_above))
    return below, above, jnp.where(likely, log_below, 0)


def _log_fewer_than(k: int, below: Array, above: Array) -> Array:
    """Returns log P(N < k) (...) for bits whose factors are `below` + `above` · x, each (..., K)."""
    polynomials = jnp.stack([below, above][: min(k, 2)])
    log_scale = jnp.zeros(below.shape[:-1], below.dtype)
    negligible = math.exp(-20 if below.dtype == np.float32 else -35)
    while polynomials.shape[-1] > 1:
        if polynomials.shape[-1] % 2:
            one = jnp.zeros_like(polynomials[..., :1]).at[0].set(1)
            polynomials = jnp.concatenate([polynomials, one], -1)
        polynomials = _product(k, polynomials[..., ::2], polynomials[..., 1::2])
        total = polynomials.sum(0, keepdims=True)
        alive = total > negligible  # else N ≥ k for certain, and derivatives of log 0 are kept out
        scale = jnp.where(alive, total, 1)
        polynomials = jnp.where(alive, polynomials / scale, 0)
        log_scale = log_scale + jnp.log(scale[0]).sum(-1)
    total = polynomials.sum(0)[..., 0]
    return jnp.where(total > 0, log_scale + jnp.log(jnp.where(total > 0, total, 1)), -jnp.inf)


def _product(k: int, left: Array, right: Array) -> Array:
    """Returns the products of polynomials, coefficients along axis 0, without the powers ≥ k."""
    size = min(k, left.shape[0] + right.shape[0] - 1)
    powers = np.arange(size)[:, None] - np.arange(left.shape[0])
    known = (powers >= 0) & (powers < right.shape[0])
    shifted = right[np.where(known, powers, 0)] * jnp.asarray(
        known.reshape(known.shape + (1,) * (right.ndim - 1)), right.dtype
    )
    return einsum("i...,ni...->n...", left, shifted)


def _count(k: int, num_classes: int, width: float, dtype: np.dtype) -> int:
    """Returns how many nodes: the k-th largest of K scores varies on a scale of √(2 k log(K / k))⁻¹."""
    middle = min(k, num_classes - k)
    sharpness = max(math.log(num_classes), middle * math.log(num_classes / max(middle, 1)))
    return num_nodes_over(width, 1 + 2 * sharpness, dtype)


def _trapezoid(first: Array, last: Array, num_nodes: int) -> tuple[Array, Array]:
    return trapezoid(jax.lax.stop_gradient(jnp.stack([first, last], -1)), num_nodes)


# --- one label ---------------------------------------------------------------------------------------


def win(k: int, num_nodes: int | None, t: Array) -> Array:
    """Returns the chance (...) that fewer than k rivals at t (..., K) exceed a label at 0.

    ∫ φ(u) P(N(u) < k) du, on a window from where it would begin if the k-th best rival were the only one, to
    where it would end if all rivals were at its place. The label's own entry in t is −FAR.
    """
    dtype = np.dtype(t.dtype)
    count = num_nodes or _count(k, t.shape[-1], _REACH + 6, dtype)
    rows = jax.checkpoint(partial(_win_rows, k, count))
    return by_rows(rows, count * t.shape[-1] * min(k, 8), t)


def _win_rows(k: int, num_nodes: int, t: Array) -> Array:
    rival = jax.lax.top_k(t, k)[0][:, -1]
    margin = math.sqrt(math.log(k)) if k > 1 else 0.0
    first, last = jnp.moveaxis(window(rival, t.shape[-1]), -1, 0)
    u, spacing = _trapezoid(first - margin, jnp.maximum(last, -_least(t.dtype)), num_nodes)
    below, above, log_scale = _bits(u[..., None] - t[:, None, :])
    log_fewer = _log_fewer_than(k, below, above) + log_scale.sum(-1)
    return jnp.exp(log_pdf(u) + log_fewer).sum(-1) * spacing


def _least(dtype: np.dtype) -> float:
    """Returns a place below which φ leaves nothing that the dtype can see."""
    return -6.0 if dtype == np.float32 else -8.0


# --- all classes -------------------------------------------------------------------------------------


def probs(k: int, num_nodes: int | None, s: Array) -> Array:
    """Returns the chance (..., K) that each class is among the k largest; the k-th largest of s is 0.

        p_c = ∫ φ(u − s_c) P(N_{−c}(u) < k) du

    P(N < k) is linear in each class's chance of being below u, and its derivative there is what the other
    classes alone give: one backward pass through the product finds it for all classes.
    """
    dtype, size = np.dtype(s.dtype), s.shape[-1]
    count = num_nodes or _count(k, size, _REACH + 2 * 7.0, dtype)
    rows = jax.checkpoint(partial(_probs_rows, k, count))
    return by_rows(rows, count * size * min(k, 8), jnp.clip(s, -_REACH, _REACH))


def _probs_rows(k: int, num_nodes: int, s: Array) -> Array:
    rest = math.sqrt(2 * math.log(s.shape[-1]))
    first = jnp.full(s.shape[:-1], _least(s.dtype) - 0.5, s.dtype)
    last = jnp.maximum(s.max(-1), rest) - _least(s.dtype)
    u, spacing = _trapezoid(first, last, num_nodes)
    z = u[..., None] - s[:, None, :]
    below, above, log_scale = _bits(z)
    log_fewer, pull = jax.vjp(lambda below: _log_fewer_than(k, below, above), below)
    (others,) = pull(jnp.ones_like(log_fewer))
    log_others = log_fewer + log_scale.sum(-1)
    # P(N_{−c} < k) / P(N < k) = others_c / exp(log_scale_c): where it is small, log_scale is 0
    densities = others * jnp.exp(log_pdf(z) - log_scale + log_others[..., None])
    return densities.sum(1) * spacing[:, None]
