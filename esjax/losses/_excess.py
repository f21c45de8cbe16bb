"""What noise adds to the best answer's worth, in units of σ: integrals over one number, and closed forms."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import exp1

from esjax.noise import Noise, gumbel, logistic, normal

Array = jax.Array

_REACH = {np.dtype(np.float32): 6.5, np.dtype(np.float64): 9.5}
"""Beyond this many σ the normal distribution leaves nothing that the dtype can see."""
_STEP = {np.dtype(np.float32): 0.6, np.dtype(np.float64): 0.42}
"""Spacing of nodes, in units of the scale on which integrands vary."""
_FAR = 60.0
"""In units of σ: farther from the best, a score is out of reach."""

# --- the largest, and the k largest ------------------------------------------------------------------


@jax.jit
def beyond_the_first_gumbel(s: Array) -> Array:
    """Returns log Σ exp(s) − max s, to which the first adds nothing."""
    ordered = -jnp.sort(-s, -1)
    return jnp.log1p(jnp.exp(ordered[..., 1:] - ordered[..., :1]).sum(-1))


@jax.jit
def beyond_the_first(s: Array) -> Array:
    """Returns E[max z − z_1] = ∫ Φ(u − s_1) (1 − ∏_{j>1} Φ(u − s_j)) du, where s_1 is the largest."""
    ordered = -jnp.sort(-s, -1)
    lags = jnp.maximum(ordered[..., 1:] - ordered[..., :1], -_FAR)
    nodes, spacing = _nodes(0.0, _spread(s.shape[-1]), 1 + 2 * math.log(s.shape[-1]), s.dtype)

    def add(total: Array, u: Array) -> tuple[Array, None]:
        return total - _tail(-u) * jnp.expm1(jnp.log1p(-_tail(u - lags)).sum(-1)), None

    return spacing * jax.lax.scan(add, jnp.zeros_like(lags[..., 0]), nodes)[0]


@partial(jax.jit, static_argnums=0)
def beyond_the_top(k: int, s: Array) -> Array:
    """Returns E[sum of the k largest z − sum of the z of the k largest s].

        ∫ E[min(C, B)] du = ∫ Σ_{m=1..k} P(C ≥ m) P(B ≥ m) du

    with C of the k largest below u, and B of the others above it.
    """
    size = s.shape[-1]
    if k == size:
        return jnp.zeros_like(s[..., 0])
    ordered = -jnp.sort(-s, -1)
    kth = ordered[..., k - 1 : k]
    lags = jnp.clip(jnp.where(jnp.isinf(kth), 0, ordered - kth), -_FAR, _FAR)
    sharpness = 1 + 2 * math.log(size) + 1.3 * min(k, size - k)
    nodes, spacing = _nodes(_spread(k), _spread(size - k), sharpness, s.dtype)
    z = nodes.reshape(*(1,) * (kth.ndim - 1), -1)
    lags = jnp.moveaxis(lags, -1, 0)[..., None]
    below = _at_least(k, lambda lag: _tail(lag - z), lags[:k])
    above = _at_least(k, lambda lag: _tail(z - lag), lags[k:])
    found = spacing * (below * above).sum((0, -1))
    return jnp.where(jnp.isinf(kth[..., 0]), 0, found)


def _tail(z: Array) -> Array:
    """Returns 1 − Φ(z), with a small relative error."""
    return jax.lax.erfc(z * math.sqrt(0.5)) / 2


def _at_least(k: int, chance_of: Callable[[Array], Array], lags: Array) -> Array:
    """Returns P(count ≥ m), m = 1..k, (k, ...) of independent bits, one for each of lags (n, ...).

    The law is that of 0, 1, ..., k − 1, and k or more: its terms are sums of products, none negative.
    """
    one = jnp.ones_like(chance_of(lags[0]))
    first = jnp.stack([one, *[jnp.zeros_like(one)] * k])

    def add(law: Array, lag: Array) -> tuple[Array, None]:
        moved = law[:-1] * chance_of(lag)[None]
        none = jnp.zeros_like(moved[:1])
        return law - jnp.concatenate([moved, none]) + jnp.concatenate([none, moved]), None

    law, _ = jax.lax.scan(add, first, lags)
    return jax.lax.cumsum(law, 0, reverse=True)[1:]


def _spread(count: int) -> float:
    return math.sqrt(2 * math.log(count)) if count > 1 else 0.0


def _nodes(before: float, after: float, sharpness: float, dtype: Any) -> tuple[Array, float]:
    """Returns nodes of the trapezoidal rule from −before to after, and as far beyond as there is anything."""
    first, last = -before - _REACH[np.dtype(dtype)], after + _REACH[np.dtype(dtype)]
    count = math.ceil((last - first) * math.sqrt(sharpness) / _STEP[np.dtype(dtype)])
    return jnp.linspace(first, last, count, dtype=dtype), (last - first) / (count - 1)


# --- thresholds --------------------------------------------------------------------------------------


def above(noise: Noise, a: Array) -> Array:
    """Returns E[max(a + ε, 0)]."""
    if noise == logistic:
        return jax.nn.softplus(a)
    if noise == normal:
        return _normal_part(a)
    rate = jnp.exp(jnp.minimum(a, _FAR) - np.euler_gamma)
    return jnp.where(rate < 1, _entire(jnp.minimum(rate, 1)), a + exp1(jnp.maximum(rate, 1e-30)))


def below(noise: Noise, a: Array) -> Array:
    """Returns E[max(−a − ε, 0)], as the noise's mean is 0."""
    if noise != gumbel:  # symmetric
        return above(noise, -a)
    rate = jnp.exp(jnp.minimum(a, _FAR) - np.euler_gamma)
    return jnp.where(rate < 1, _entire(jnp.minimum(rate, 1)) - a, exp1(jnp.maximum(rate, 1e-30)))


def _normal_part(a: Array) -> Array:
    return jnp.maximum(jnp.exp(-a * a / 2) / math.sqrt(2 * math.pi) + a * _tail(-a), 0)


def _entire(rate: Array) -> Array:
    """Returns ∫₀^rate (1 − exp(−t)) / t dt for rates up to 1, Σ_n −(−rate)ⁿ / (n n!)."""
    coefficients = [-((-1) ** n) / (n * math.factorial(n)) for n in range(18, 0, -1)]
    return rate * jnp.polyval(jnp.array(coefficients, rate.dtype), rate)
