"""The law of how many of independent bits are 1 (Poisson-binomial), by its transform (Hong 2013).

    P(S = s) = 1/M Σ_k φ(w_k) exp(−i w_k s),    w_k = 2πk / M,    φ(w) = ∏_i (1 − p_i + p_i exp(iw))

The law has almost all of its mass on a window of a few standard deviations, so that it may be taken modulo
an M not much larger; and |φ(w)| ≤ exp(−Var(S) (1 − cos w)), so that a few frequencies w are enough for any
number of bits. Phases are measured from those of the mean, and without cancellation, in float32 too.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.chunks import varying_like
from esjax._core.products import einsum
from esjax._core.rules import with_rule
from esjax.exact._batches import long_sum

Array = jax.Array

_LOG_TOLERANCE = {np.dtype(np.float32): 17.0, np.dtype(np.float64): 30.0}
"""What is below exp(−17) or exp(−30) of a peak is left out, of the law and of its transform."""
_NUM_FREQUENCIES = {np.dtype(np.float32): 26, np.dtype(np.float64): 46}
"""What these tolerances ask for at the worst variance, about half of them, where |φ| lives up to w = π."""
_SINE_TERMS = {np.dtype(np.float32): 9, np.dtype(np.float64): 14}
_BLOCK_FLOATS = 2**17
"""Bits × frequencies held at once."""


class Law(NamedTuple):
    """A law on consecutive places, 0 at all others.

    Attributes:
        places: (W,) int32.
        probs: P(S = place), (W,).
        weighted: E[Σ_i v_i b_i; S = place], (W,), of bits b and the weights v that were asked for.
    """

    places: Array
    probs: Array
    weighted: Array


class _Window(NamedTuple):
    """Where a law is computed: a mean, of n bits, and the half width h of a window around a centre.

    Attributes:
        mean: the integer next to the mean, () int32.
        beyond: the mean less this integer, ().
        centre: of the window, () int32: `mean`, or what keeps it among 0..n.
        half_width: () int32.
    """

    mean: Array
    beyond: Array
    centre: Array
    half_width: Array


# --- where the law lives -----------------------------------------------------------------------------


def _half_width(variance: Any, dtype: Any, numpy: Any) -> Any:
    """Returns h with P(|S − E[S]| > h) ≤ 2 exp(−L), L the tolerance.

    (Bernstein: h² = 2 L (variance + h / 3).)
    """
    third = _LOG_TOLERANCE[np.dtype(dtype)] / 3
    return numpy.ceil(third + numpy.sqrt(third * third + 6 * third * variance)) + 1


def _widest(num_bits: int, dtype: Any) -> int:
    """Returns the largest half width that n bits may need."""
    return min(int(_half_width(num_bits / 4, dtype, np)), (num_bits + 1) // 2)


def _window(p: Array) -> _Window:
    """Returns where the law of bits p (n,) lives.

    The mean is summed as integers, in units that none of 2³¹ of them is too many for, and what rounding to
    units leaves: float32 alone would misplace the law of 1e5 bits.
    """
    num_bits, dtype = p.shape[0], p.dtype
    per_one = 2 ** min(30 - math.ceil(math.log2(num_bits + 1)), 12)
    fixed = jax.lax.stop_gradient(p)
    units = jnp.round(fixed * per_one).astype(jnp.int32)
    total = units.sum(dtype=jnp.int32)
    left = long_sum(p - units.astype(dtype) / per_one)
    part = (total % per_one).astype(dtype) / per_one + left
    whole = jnp.round(jax.lax.stop_gradient(part))
    mean = total // per_one + whole.astype(jnp.int32)
    variance = jnp.maximum((fixed * (1 - fixed)).sum(), 0)
    half_width = jnp.minimum(_half_width(variance, dtype, jnp), _widest(num_bits, dtype)).astype(jnp.int32)
    highest = jnp.maximum(num_bits - half_width, half_width)
    return _Window(mean, part - whole, jnp.clip(mean, half_width, highest), half_width)


# --- the transform -----------------------------------------------------------------------------------


def _sine_beyond(u: Array) -> Array:
    """Returns sin(u) − u, for |u| ≤ π, with a small relative error."""
    terms = range(_SINE_TERMS[np.dtype(u.dtype)], 0, -1)
    series = jnp.zeros_like(u)
    for n in terms:
        series = series * (u * u) + (-1) ** n / math.factorial(2 * n + 1)
    return u * u * u * series


def _log_factor(p: Array, w: Array) -> tuple[Array, Array]:
    """Returns log |f| and arg f − p w for f = 1 − p + p exp(iw), p (1, n), w (F, 1) in [0, π)."""
    values = _log_factor_value(*jax.lax.stop_gradient((p, w)))
    return with_rule(values, _log_factor_dot, (p, w))


def _log_factor_value(p: Array, w: Array) -> tuple[Array, Array]:
    """With exp(−ipw) f = q exp(−ipw) + p exp(iqw), q = 1 − p, whose sines cancel but for their cubes."""
    q = 1 - p
    log_modulus = jnp.log1p(-4 * p * q * jnp.sin(w / 2) ** 2) / 2
    sine = p * _sine_beyond(q * w) - q * _sine_beyond(p * w)
    return log_modulus, jnp.arctan2(sine, q * jnp.cos(p * w) + p * jnp.cos(q * w))


def _log_factor_dot(inputs: Any, tangents: Any) -> tuple[Array, Array]:
    """Returns the parts of ṗ (exp(iw) − 1) / f, less i w ṗ."""
    (p, w), (p_dot, _) = inputs, tangents
    inverse = 1 / _squared_modulus(p, w)
    log_modulus_dot = -2 * (1 - 2 * p) * jnp.sin(w / 2) ** 2 * inverse
    return log_modulus_dot * p_dot, (jnp.sin(w) * inverse - w) * p_dot


def _squared_modulus(p: Array, w: Array) -> Array:
    return 1 - 4 * p * (1 - p) * jnp.sin(w / 2) ** 2


class _Transform(NamedTuple):
    """At frequencies (F,): log |φ|, arg φ − w E[S], and E[Σ v_i b_i exp(iwS)] / φ = real + i imaginary."""

    log_modulus: Array
    phase: Array
    real: Array
    imaginary: Array


def _transform_of_few(w: Array, p: Array, weights: Array) -> _Transform:
    """Returns the transform at w (F,) of the bits p (n,), with Σ v_i p_i exp(iw) / f_i for weights v (n,)."""
    p, weights, w = p[None, :], weights[None, :], w[:, None]
    log_modulus, phase = _log_factor(p, w)
    q, scale = 1 - p, weights * p / _squared_modulus(p, w)
    parts = _Transform(log_modulus, phase, scale * (p + q * jnp.cos(w)), scale * q * jnp.sin(w))
    return jax.tree.map(long_sum, parts)


def _transform(p: Array, weights: Array, w: Array) -> _Transform:
    """Returns the transform of all bits, a block of them at a time."""
    block = max(_BLOCK_FLOATS // w.size, 1)
    of_few = partial(_transform_of_few, w)
    if p.size <= block:
        return of_few(p, weights)
    p, weights = (jnp.pad(each, (0, -each.size % block)).reshape(-1, block) for each in (p, weights))

    def add(total: _Transform, bits: tuple[Array, Array]) -> tuple[_Transform, None]:
        return jax.tree.map(jnp.add, total, of_few(*bits)), None

    zero = varying_like(_Transform(*(jnp.zeros_like(w),) * 4), (p, weights, w))
    return jax.lax.scan(jax.checkpoint(add), zero, (p, weights))[0]


# --- the law -----------------------------------------------------------------------------------------


def law(p: Array, weights: Array | None = None) -> Law:
    """Returns the law of the number of ones among bits p (n,), on a window that holds all of it but 1e-12.

    Args:
        p: chances (n,), n ≥ 1.
        weights: (n,) v, for `Law.weighted`. None: zeros.
    """
    num_bits, dtype = p.shape[0], p.dtype
    weights = jnp.zeros_like(p) if weights is None else weights
    window = _window(p)
    widest = _widest(num_bits, dtype)
    size = min(2 * widest + 1, num_bits + 1)
    start = jnp.clip(window.centre - widest, 0, num_bits + 1 - size)
    places = start + jnp.arange(size, dtype=jnp.int32)

    modulus = 2 * window.half_width + 1
    k = jnp.arange(min(_NUM_FREQUENCIES[np.dtype(dtype)], widest + 1), dtype=jnp.int32)
    step = 2 * math.pi / modulus.astype(dtype)
    used = k <= window.half_width
    w = jnp.where(used, k.astype(dtype) * step, 0)
    transform = _transform(p, weights, w)
    scale = jnp.where(used, jnp.where(k == 0, 1, 2), 0).astype(dtype) / modulus.astype(dtype)
    modulus_of_phi = scale * jnp.exp(transform.log_modulus)

    turns = (k[None, :] * (places[:, None] - window.mean)) % modulus  # exact, where an angle would be rounded
    angle = (transform.phase + w * window.beyond)[None, :] - turns.astype(dtype) * step
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    probs = einsum("sk,k->s", cosine, modulus_of_phi)
    weighted = einsum("sk,k->s", cosine, modulus_of_phi * transform.real)
    weighted = weighted - einsum("sk,k->s", sine, modulus_of_phi * transform.imaginary)
    inside = abs(places - window.centre) <= window.half_width
    return Law(places, jnp.where(inside, probs, 0), jnp.where(inside, weighted, 0))
