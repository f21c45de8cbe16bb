"""Where and how the integrals of `exact` are taken: log Φ, windows outside of which nothing lives, nodes.

A trapezoid on such a window converges exponentially. Every integral here is one over u, the place of a
score, of products over classes of Φ(z) with z = u − t, and of its hazard r(z) = φ(z) / Φ(z) = d log Φ / dz.
Scores are in units of σ, measured from the label's or from the largest.
"""

import math
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

Array = jax.Array

_POLYNOMIAL_DEGREE = {np.dtype(np.float32): 9, np.dtype(np.float64): 24}
_LOG_TOLERANCE = {np.dtype(np.float32): 15.0, np.dtype(np.float64): 25.0}
"""An integrand below exp(−15) or exp(−25) of its peak is left out."""
_STEP = {np.dtype(np.float32): 1.05, np.dtype(np.float64): 0.8}
_SHARED_STEP = {np.dtype(np.float32): 0.6, np.dtype(np.float64): 0.45}
"""Spacing of nodes, in units of the scale on which integrands vary: measured, errors of 1e-6 and 1e-10."""
_SCOUTED = 16
"""The number of classes from which it pays to look first where the integrands live."""


# --- log Φ and its slope -----------------------------------------------------------------------------

_MIDDLE = 3.0
"""Where the variable (a − 3) / (a + 3) of the polynomial for Φ(−a), a in [0, ∞), is 0."""


@lru_cache
def _mills_coefficients(degree: int) -> tuple[float, ...]:
    """Returns, highest power first, P with exp(a²/2) Φ(−a) = P((a − 3) / (a + 3)) / (a + 3)."""
    x = np.polynomial.chebyshev.chebpts1(degree + 1)
    a = _MIDDLE * (1 + x) / (1 - x)
    target = special.erfcx(a / math.sqrt(2)) / 2 * (a + _MIDDLE)
    series = np.polynomial.chebyshev.chebfit(x, target, degree)
    return tuple(np.polynomial.chebyshev.cheb2poly(series)[::-1].tolist())


@jax.custom_jvp
def log_cdf_and_hazard(z: Array) -> tuple[Array, Array]:
    """Returns log Φ(z) and φ(z) / Φ(z), elementwise, each with a small *relative* error at every z.

    (Relative, because 10⁵ classes of log Φ = −10⁻⁶ are summed.) One exponential and one logarithm.
    """
    dtype = z.dtype
    a = jnp.abs(z)
    inverse = 1 / (a + _MIDDLE)
    x = 1 - 2 * _MIDDLE * inverse
    polynomial = jnp.zeros_like(z)
    for coefficient in _mills_coefficients(_POLYNOMIAL_DEGREE[dtype]):
        polynomial = polynomial * x + coefficient
    mills = polynomial * inverse
    exponential = jnp.exp(-0.5 * z * z)
    tail = exponential * mills
    below = z < 0
    kept = jnp.where(below, mills, 1 - tail)
    scale = 1 / kept
    lost = jnp.where(below, 0, (1 - kept) - tail)  # what the rounding of 1 − tail took away
    log_cdf = jnp.where(below, -0.5 * z * z, 0) + (jnp.log(kept) + lost * scale)
    hazard = jnp.where(below, 1, exponential) * scale * (1 / math.sqrt(2 * math.pi))
    return log_cdf, hazard


@log_cdf_and_hazard.defjvp
def _log_cdf_and_hazard_jvp(primals: Any, tangents: Any) -> Any:
    (z,), (z_dot,) = primals, tangents
    log_cdf, hazard = log_cdf_and_hazard(z)
    return (log_cdf, hazard), (hazard * z_dot, -hazard * (z + hazard) * z_dot)


def log_pdf(u: Array) -> Array:
    return -0.5 * u * u - 0.5 * math.log(2 * math.pi)


# --- nodes -------------------------------------------------------------------------------------------

LEADS = np.linspace(-30, 30, 121)
_NUM_SCOUTS, _PER_SCOUT = 8, 8


@lru_cache
def windows(num_classes: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of a window for each of `LEADS`, of the best rival over a label at 0.

    With one rival there, or all of them: these two bound the place where the integrands
    φ(u) g(u), φ(u) G(u) and Φ(u) g(u) live, G and g being distribution and density of the best rival.
    """
    u = np.linspace(-40, 45, 6801)
    log_normal = special.log_ndtr(u), -u * u / 2 - math.log(2 * math.pi) / 2
    ends = []
    for lead in LEADS:
        z = u - lead
        alive = np.zeros(u.shape, bool)
        for rivals in (1, num_classes - 1):
            log_best = rivals * special.log_ndtr(z)
            log_hazard = -z * z / 2 - math.log(2 * math.pi) / 2 - special.log_ndtr(z) + math.log(rivals)
            alive |= _alive(np, log_normal, log_best, log_hazard, _LOG_TOLERANCE[dtype])
        ends.append((u[alive][0], u[alive][-1]))
    lower, upper = np.array(ends).T
    return lower, upper


def _alive(numpy: Any, log_normal: Any, log_best: Any, log_hazard: Any, tolerance: float) -> Any:
    """Returns where, on a uniform grid (..., u), one of the integrands that matter is not negligible.

    The slopes' always is; of the value's two, the one of the smaller of win and lose, or both.
    """
    log_cdf, log_pdf = log_normal
    win, lose, slopes = log_pdf + log_best, log_cdf + log_best + log_hazard, log_pdf + log_best + log_hazard
    peaks = [integrand.max(-1, keepdims=True) for integrand in (win, lose, slopes)]
    total_win, total_lose = (
        numpy.exp(integrand - peak).sum(-1, keepdims=True)
        for integrand, peak in zip((win, lose), peaks, strict=False)
    )
    lead = peaks[0] - peaks[1] + numpy.log(total_win) - numpy.log(total_lose)
    return (
        (slopes > peaks[2] - tolerance)
        | ((win > peaks[0] - tolerance) & (lead < 3))
        | ((lose > peaks[1] - tolerance) & (lead > -3))
    )


def window(lead: Array, num_classes: int) -> tuple[Array, Array]:
    """Returns the ends (...) of a window for a label at 0 and rivals that lead by `lead` (...) at most."""
    leads, lower, upper = (
        jnp.asarray(ends, lead.dtype) for ends in (LEADS, *windows(num_classes, lead.dtype))
    )
    return jnp.interp(lead, leads, lower), jnp.interp(lead, leads, upper)


def label_nodes(t: Array, num_nodes: int) -> tuple[Array, Array]:
    """Returns nodes u (B, nodes) and their spacing (B,), for a label at 0 and rivals at t (B, K).

    Scouts, a few nodes over all of the window, see how the best rival is distributed; log Σ r and
    log(−log G) between them are nearly straight, and say where the integrands really live.
    """
    ends = window(t.max(-1), t.shape[-1])
    if t.shape[-1] < _SCOUTED:
        return trapezoid(*ends, num_nodes)
    scouts, _ = trapezoid(*ends, _NUM_SCOUTS)
    log_cdf, hazard = log_cdf_and_hazard(scouts[..., None] - t[:, None, :])
    fine, _ = trapezoid(*ends, (_NUM_SCOUTS - 1) * _PER_SCOUT + 1)
    offsets = np.arange(fine.shape[-1]) / _PER_SCOUT - np.arange(_NUM_SCOUTS)[:, None]
    straight = jnp.asarray(np.maximum(1 - abs(offsets), 0), t.dtype)
    log_best = -jnp.exp(jnp.log(jnp.maximum(-log_cdf.sum(-1), 1e-30)) @ straight)
    log_hazard = jnp.log(jnp.maximum(hazard.sum(-1), 1e-30)) @ straight
    log_normal = log_cdf_and_hazard(fine)[0], log_pdf(fine)
    alive = _alive(jnp, log_normal, log_best, log_hazard, _LOG_TOLERANCE[np.dtype(t.dtype)])
    first = jnp.where(alive, fine, jnp.inf).min(-1)
    last = jnp.where(alive, fine, -jnp.inf).max(-1)
    return trapezoid(first, last, num_nodes)


def num_nodes_over(width: float, sharpness: float, dtype: Any) -> int:
    """Returns how many nodes a window takes if the integrands vary there on a scale of √sharpness⁻¹."""
    return max(math.ceil(width * math.sqrt(sharpness) / _STEP[np.dtype(dtype)]), 8)


def _sharpness(num_classes: int) -> float:
    """Returns that of the best of K scores, whose spread is about √(2 log K)⁻¹."""
    return 1 + 2 * math.log(num_classes)


def num_label_nodes(num_classes: int, dtype: Any) -> int:
    if num_classes < _SCOUTED:
        lower, upper = windows(num_classes, np.dtype(dtype))
        near = abs(LEADS) < 9
        return num_nodes_over((upper - lower)[near].max(), _sharpness(num_classes), dtype)
    first, growth = (6, 8.2) if dtype == np.float32 else (8, 20)
    return math.ceil(first + growth * math.sqrt(math.log(num_classes)))


def shared_nodes(s: Array, num_nodes: int | None) -> tuple[Array, Array]:
    """Returns nodes (nodes,) and spacing () for all classes of s (..., K) together.

    The largest is 0, and a class of probability 1e-20 is at −13.7: its integrand lives halfway between.
    """
    dtype, num_classes = np.dtype(s.dtype), s.shape[-1]
    first = windows(2, dtype)[0][LEADS.searchsorted(-13.7)]
    last = windows(num_classes, dtype)[1][LEADS.searchsorted(0)]
    step = _SHARED_STEP[dtype] / math.sqrt(_sharpness(num_classes))
    count = num_nodes or math.ceil((last - first) / step)
    return trapezoid(jnp.asarray(first, dtype), jnp.asarray(last, dtype), count)


def trapezoid(first: Array, last: Array, num_nodes: int) -> tuple[Array, Array]:
    """Returns nodes (..., nodes) from `first` (...) to `last` (...), and their spacing (...)."""
    first, last = jax.lax.stop_gradient((first, last))
    spacing = (last - first) / (num_nodes - 1)
    steps = jnp.arange(num_nodes, dtype=first.dtype).reshape((1,) * first.ndim + (num_nodes,))
    return first[..., None] + spacing[..., None] * steps, spacing
