"""How the integrals of `exact` are computed: log Φ, windows outside which integrands are negligible, nodes.

The trapezoidal rule on such a window converges exponentially. Every integral here is over u, the place of a
score; its integrand is made of products of Φ(z) over classes, z = u − t, and of the hazard
r(z) = φ(z) / Φ(z) = d log Φ / dz. Scores are in units of σ, measured from the label's or from the largest.
"""

import math
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.products import matmul
from esjax._core.rules import with_rule

Array = jax.Array

_POLYNOMIAL_DEGREE = {np.dtype(np.float32): 9, np.dtype(np.float64): 24}
_LOG_TOLERANCE = {np.dtype(np.float32): 15.0, np.dtype(np.float64): 25.0}
"""An integrand below exp(−15) or exp(−25) of its peak is left out."""
_STEP = {np.dtype(np.float32): 0.95, np.dtype(np.float64): 0.75}
_SHARED_STEP = {np.dtype(np.float32): 0.6, np.dtype(np.float64): 0.42}
"""Spacing of nodes, in units of the scale on which integrands vary: chosen by measurement, so that
relative errors stay below 1e-5 and 1e-9 (the worst seen are 5e-6 and 2e-11)."""
SCOUTED = 12
"""From this many classes on, it pays to look first for where the integrands live."""


# --- log Φ and its slope -----------------------------------------------------------------------------

_MIDDLE = 3.0
"""Where the variable (a − 3) / (a + 3) of the polynomial for Φ(−a), a in [0, ∞), is 0."""


@lru_cache
def _mills_coefficients(degree: int) -> tuple[float, ...]:
    """Returns, highest power first, P with exp(a²/2) Φ(−a) = P((a − 3) / (a + 3)) / (a + 3)."""
    from scipy import special  # here and below, because it takes longer to import than all of esjax

    x = np.polynomial.chebyshev.chebpts1(degree + 1)
    a = _MIDDLE * (1 + x) / (1 - x)
    target = special.erfcx(a / math.sqrt(2)) / 2 * (a + _MIDDLE)
    series = np.polynomial.chebyshev.chebfit(x, target, degree)
    return tuple(np.polynomial.chebyshev.cheb2poly(series)[::-1].tolist())


def _parts(z: Array) -> tuple[Array, Array, Array, Array]:
    """Returns exp(−z²/2), exp(a²/2) Φ(−a) with a = |z|, whether z < 0, and P(ε beyond a) = Φ(−a)."""
    inverse = 1 / (jnp.abs(z) + _MIDDLE)
    x = 1 - 2 * _MIDDLE * inverse
    polynomial = jnp.zeros_like(z)
    for coefficient in _mills_coefficients(_POLYNOMIAL_DEGREE[z.dtype]):
        polynomial = polynomial * x + coefficient
    mills = polynomial * inverse
    exponential = jnp.exp(-0.5 * z * z)
    return exponential, mills, z < 0, exponential * mills


def log_cdf_and_hazard(z: Array) -> tuple[Array, Array]:
    """Returns log Φ(z) and r(z) = φ(z) / Φ(z), elementwise, with small *relative* errors at every z.

    (Relative, because 10⁵ classes of log Φ = −10⁻⁶ are summed.)
    """
    log_cdf, hazard = _log_cdf_and_hazard(jax.lax.stop_gradient(z))
    return with_rule(log_cdf, _log_cdf_dot, (z, hazard)), _with_slope(z, hazard)


def best_and_hazard(z: Array) -> tuple[Array, Array]:
    """Returns ∏ Φ(z) over the last axis (...), which may underflow, and r(z) (..., K)."""
    best, hazard = _best_and_hazard(jax.lax.stop_gradient(z))
    return _best_of(z, best, hazard), _with_slope(z, hazard)


def _log_cdf_and_hazard(z: Array) -> tuple[Array, Array]:
    exponential, mills, below, tail = _parts(z)
    kept = jnp.where(below, mills, 1 - tail)
    scale = 1 / kept
    lost = jnp.where(below, 0, (1 - kept) - tail)  # what the rounding of 1 − tail took away
    log_cdf = jnp.where(below, -0.5 * z * z, 0) + (jnp.log(kept) + lost * scale)
    return log_cdf, jnp.where(below, 1, exponential) * scale * (1 / math.sqrt(2 * math.pi))


def _best_and_hazard(z: Array) -> tuple[Array, Array]:
    if z.shape[-1] >= SCOUTED:
        log_cdf, hazard = _log_cdf_and_hazard(z)
        return jnp.exp(log_cdf.sum(-1)), hazard
    exponential, mills, below, tail = _parts(z)  # of few, a product of rounded 1 − tail is as good
    kept = 1 - tail
    hazard = jnp.where(below, 1, exponential) / jnp.where(below, mills, kept) * (1 / math.sqrt(2 * math.pi))
    return jnp.where(below, tail, kept).prod(-1), hazard


def _log_cdf_dot(inputs: Any, tangents: Any) -> Array:
    (z, hazard), (z_dot, _) = inputs, tangents
    return _with_slope(z, hazard) * z_dot


def _with_slope(z: Array, hazard: Array) -> Array:
    """Returns r(z), whose derivative is −r (z + r)."""
    return with_rule(hazard, _hazard_dot, (z, hazard))


def _hazard_dot(inputs: Any, tangents: Any) -> Array:
    (z, hazard), (z_dot, _) = inputs, tangents
    hazard = _with_slope(z, hazard)
    return -hazard * (z + hazard) * z_dot


def _best_of(z: Array, best: Array, hazard: Array) -> Array:
    """Returns ∏ Φ(z), whose derivative is ∏ Φ(z) r(z)."""
    return with_rule(best, _best_dot, (z, best, hazard))


def _best_dot(inputs: Any, tangents: Any) -> Array:
    (z, best, hazard), (z_dot, *_) = inputs, tangents
    return _best_of(z, best, hazard) * (_with_slope(z, hazard) * z_dot).sum(-1)


def log_pdf(u: Array) -> Array:
    """Returns log φ(u), elementwise."""
    return -0.5 * u * u - 0.5 * math.log(2 * math.pi)


def cdf(u: Array) -> Array:
    """Returns Φ(u), elementwise."""
    return jnp.exp(log_cdf_and_hazard(u)[0])


# --- nodes -------------------------------------------------------------------------------------------

LEADS = np.linspace(-30, 30, 121)
_SCOUTS = {np.dtype(np.float32): (8, 16), np.dtype(np.float64): (14, 16)}
"""Scouts over a window, and points of the fine grid for each."""


@lru_cache
def windows(num_classes: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of a window for each lead in `LEADS` of the best rival over a label at 0.

    With that lead there may be one rival, or all of them. These two cases bound where the integrands
    φ(u) g(u), φ(u) G(u) and Φ(u) g(u) live, G and g being distribution and density of the best rival.
    """
    from scipy import special

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

    That of the slopes always matters; of the value's two, that of the smaller of win and lose, or both.
    """
    log_below, log_at = log_normal
    win, lose, slopes = log_at + log_best, log_below + log_best + log_hazard, log_at + log_best + log_hazard
    peaks = [integrand.max(-1, keepdims=True) for integrand in (win, lose, slopes)]
    total_win, total_lose = (
        numpy.exp(integrand - peak).sum(-1, keepdims=True)
        for integrand, peak in zip((win, lose), peaks, strict=False)
    )
    lead = peaks[0] - peaks[1] + numpy.log(total_win) - numpy.log(total_lose)
    return (
        (slopes > peaks[2] - tolerance)
        | ((win > peaks[0] - tolerance) & (lead < 0.5))
        | ((lose > peaks[1] - tolerance) & (lead > -0.5))
    )


def window(lead: Array, num_classes: int) -> Array:
    """Returns the ends (..., 2) of a window for a label at 0 and rivals that lead by `lead` (...) at most."""
    ends = jnp.asarray(np.stack(windows(num_classes, np.dtype(lead.dtype)), -1), lead.dtype)
    place = (jnp.clip(lead, LEADS[0], LEADS[-1]) - LEADS[0]) / (LEADS[1] - LEADS[0])
    before = jnp.minimum(place.astype(jnp.int32), LEADS.size - 2)
    beyond = (place - before.astype(lead.dtype))[..., None]
    return ends[before] * (1 - beyond) + ends[before + 1] * beyond


def label_window(t: Array) -> Array:
    """Returns where to integrate (B, 2), for a label at 0 and rivals at t (B, K).

    Scouts, a few nodes over the whole window, see the hazard of the best rival, Σ r. Its logarithm is
    smooth enough for a spline between them, its integral from the right is −log G, and the two tell where
    the integrands really live.
    """
    ends = window(t.max(-1), t.shape[-1])
    if t.shape[-1] < SCOUTED:
        return ends
    count, per_scout = _SCOUTS[np.dtype(t.dtype)]
    scouts, _ = trapezoid(ends, count)
    _, hazard = log_cdf_and_hazard(scouts[..., None] - t[:, None, :])
    fine, spacing = trapezoid(ends, (count - 1) * per_scout + 1)
    spline = jnp.asarray(_spline(count, per_scout), t.dtype)
    log_hazard = matmul(jnp.log(jnp.maximum(hazard.sum(-1), 1e-30)), spline)
    total = jnp.exp(log_hazard)
    log_best = -(jax.lax.cumsum(total, 1, reverse=True) - total / 2) * spacing[:, None]
    log_normal = log_cdf_and_hazard(fine)[0], log_pdf(fine)
    alive = _alive(jnp, log_normal, log_best, log_hazard, _LOG_TOLERANCE[np.dtype(t.dtype)])
    return jnp.stack([jnp.where(alive, fine, jnp.inf).min(-1), jnp.where(alive, fine, -jnp.inf).max(-1)], -1)


@lru_cache
def _spline(count: int, per_scout: int) -> np.ndarray:
    """Returns the matrix (scouts, fine grid) of cubic spline interpolation."""
    from scipy import interpolate

    scouts = np.arange(count)
    fine = np.arange((count - 1) * per_scout + 1) / per_scout
    return interpolate.CubicSpline(scouts, np.eye(count))(fine).T


def num_nodes_over(width: float, sharpness: float, dtype: Any) -> int:
    """Returns how many nodes a window takes if the integrands vary there on a scale of √sharpness⁻¹."""
    return max(math.ceil(width * math.sqrt(sharpness) / _STEP[np.dtype(dtype)]), 8)


def _sharpness(num_classes: int) -> float:
    """Returns the sharpness of the best of K scores, whose spread is about √(2 log K)⁻¹."""
    return 1 + 2 * math.log(num_classes)


def num_scouts(num_classes: int, dtype: Any) -> int:
    """Returns at how many nodes `label_window` looks at all classes."""
    return _SCOUTS[np.dtype(dtype)][0] if num_classes >= SCOUTED else 1


def num_label_nodes(num_classes: int, dtype: Any) -> int:
    if num_classes < SCOUTED:
        lower, upper = windows(num_classes, np.dtype(dtype))
        near = abs(LEADS) < 9
        return num_nodes_over((upper - lower)[near].max(), _sharpness(num_classes), dtype)
    first, growth = (6, 8.2) if dtype == np.float32 else (8, 20)
    return math.ceil(first + growth * math.sqrt(math.log(num_classes)))


def shared_nodes(s: Array, num_nodes: int) -> tuple[Array, Array]:
    """Returns nodes (nodes,) and spacing () for all classes of s (..., K) together; the largest is at 0."""
    return trapezoid(jnp.asarray(_shared_window(s.shape[-1], s.dtype), s.dtype), num_nodes)


def num_shared_nodes(num_classes: int, dtype: Any) -> int:
    """Returns how many nodes the probabilities of all classes together take."""
    first, last = _shared_window(num_classes, dtype)
    return math.ceil((last - first) * math.sqrt(_sharpness(num_classes)) / _SHARED_STEP[np.dtype(dtype)])


def _shared_window(num_classes: int, dtype: Any) -> tuple[float, float]:
    """Returns the ends. A class of probability 1e-20 is at −13.7; its integrand lives halfway to 0."""
    lower, _ = windows(2, np.dtype(dtype))
    _, upper = windows(num_classes, np.dtype(dtype))
    return float(lower[LEADS.searchsorted(-14)]), float(upper[LEADS.searchsorted(0)])


def trapezoid(ends: Array, num_nodes: int) -> tuple[Array, Array]:
    """Returns nodes (..., nodes) between `ends` (..., 2), and their spacing (...)."""
    first, last = ends[..., 0], ends[..., 1]
    spacing = (last - first) / (num_nodes - 1)
    steps = jnp.arange(num_nodes, dtype=first.dtype).reshape((1,) * first.ndim + (num_nodes,))
    return first[..., None] + spacing[..., None] * steps, spacing
