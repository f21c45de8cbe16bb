"""Quadrature behind metrics that are ratios of counts: 1/n = ∫₀¹ s^(n−1) ds, averaged over independent bits.

The generating function of a sum of bits is a product, E[s^N] = ∏_i (1 − p_i x) with x = 1 − s. It is at most
exp(−x E[N]), so that many bits leave nothing to integrate but a short window next to s = 1.
"""

from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.products import einsum
from esjax._core.rules import with_rule
from esjax.exact._batches import by_rows, long_sum

Array = jax.Array

_NUM_NODES = {np.dtype(np.float32): 20, np.dtype(np.float64): 32}
_LOG_TOLERANCE = {np.dtype(np.float32): 17.0, np.dtype(np.float64): 28.0}
"""The window ends where E[s^N] is below exp(−17) or exp(−28). Chosen by measurement: the errors that the
quadrature leaves, of a value or relative to a gradient's norm, are below 2e-7 and 1e-11."""

_DEGREE = 4
"""Of s = v⁴, which has no kink at v = 0 to speak of where s^power has one."""


class _Nodes(NamedTuple):
    """Nodes of a quadrature over s, each (C, nodes): x = 1 − s, s itself, log s, and the weights."""

    x: Array
    s: Array
    log_s: Array
    weights: Array


@lru_cache
def _gauss_legendre(num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns nodes and weights (nodes,) of the Gauss–Legendre rule on [0, 1]."""
    t, weights = np.polynomial.legendre.leggauss(num_nodes)
    return (1 + t) / 2, weights / 2


def _nodes(degree: int, count: Array) -> _Nodes:
    """Returns nodes for integrands below exp(−x `count`), count (C, 1), by substitution of s = v^degree.

    v = 1 − h, and h is in [0, reach]. Small x and small s both keep their relative precision.
    """
    dtype = np.dtype(count.dtype)
    t, weights = (jnp.asarray(each, dtype)[None, :] for each in _gauss_legendre(_NUM_NODES[dtype]))
    rest = jnp.asarray(1 - _gauss_legendre(_NUM_NODES[dtype])[0], dtype)[None, :]
    end = jnp.minimum(_LOG_TOLERANCE[dtype] / jnp.maximum(count, 1), 1)
    reach = -jnp.expm1(jnp.log1p(-end) / degree)
    h, v = reach * t, (1 - reach) + reach * rest
    x = h if degree == 1 else h * (1 + v) * (1 + v * v)  # 1 − v⁴
    s = v**degree
    return _Nodes(x, s, _log_kept(x, s), reach * weights * degree * v ** (degree - 1))


def _log_kept(lost: Array, kept: Array) -> Array:
    """Returns log(1 − lost), where kept = 1 − lost to rounding, which is mended where lost is small."""
    mended = (1 - kept) - lost
    return jnp.log(kept) + jnp.where(kept > 0.5, mended, 0) / kept


def mean_ratio(degree: int, weights: Array, probs: Array, power: Array) -> Array:
    """Returns Σ_i w_i E[1 / (power + 1 + N_−i)] (...), N_−i the number of ones among all bits but the i-th.

        = ∫₀¹ s^power Σ_i w_i / (1 − p_i x) ∏_j (1 − p_j x) ds,    x = 1 − s

    The tangent is linear in those of the weights and of the probabilities, and these two vectors of slopes,
    which come with the value, are its only residuals. Higher orders are those of the quadrature.

    Args:
        degree: of the substitution s = v^degree: 1, or `_DEGREE` where `power` is no whole number.
        weights: w (..., n).
        probs: chances p (..., n) of the bits.
        power: (...), ≥ 0, a constant.
    """
    if not probs.shape[-1]:
        return jnp.zeros_like(power)
    inputs = jax.lax.stop_gradient((weights, probs, power))
    value, *slopes = _integrate(degree, *inputs)
    return with_rule(value, partial(_mean_dot, degree), (weights, probs, power, *slopes))


def degree_for(power_of_one: float) -> int:
    """Returns the `degree` for powers that are whole multiples of a number."""
    return 1 if float(power_of_one).is_integer() else _DEGREE


def _integrate(degree: int, weights: Array, probs: Array, power: Array) -> tuple[Array, Array, Array]:
    """Returns `mean_ratio` (...), and its slopes in the weights and in the probabilities, each (..., n)."""
    rows = jax.checkpoint(partial(_mean_rows, degree))
    floats = _NUM_NODES[np.dtype(probs.dtype)] * probs.shape[-1]
    return by_rows(rows, floats, weights, probs, power[..., None])


def _mean_rows(degree: int, weights: Array, probs: Array, power: Array) -> tuple[Array, Array, Array]:
    """Returns what `_integrate` does, for weights and probs (C, n) and power (C, 1).

    With r_i = 1 / (1 − p_i x) and A = s^power ∏_j (1 − p_j x) ds, the slopes are

        in w_i: ∫ A r_i,    in p_i: −∫ A x r_i (Σ_j w_j r_j − w_i r_i)
    """
    count = jax.lax.stop_gradient(probs.sum(-1, keepdims=True) + power)
    nodes = _nodes(degree, count)
    p, x = probs[:, None, :], nodes.x[..., None]
    excess = jnp.maximum(jax.lax.stop_gradient(p) - 1, 0)  # of a p that was rounded up
    kept = (1 - p + excess) + p * nodes.s[..., None]
    r = 1 / kept
    log_product = long_sum(_log_kept(p * x, kept))
    product = jnp.exp(power * nodes.log_s + log_product) * nodes.weights
    total = long_sum(r * weights[:, None, :])
    in_weights = einsum("cn,cni->ci", product, r)
    in_all = einsum("cn,cni->ci", product * nodes.x * total, r)
    in_own = einsum("cn,cni->ci", product * nodes.x, r * r)
    return (product * total).sum(-1), in_weights, weights * in_own - in_all


def _mean_dot(degree: int, inputs: Any, tangents: Any) -> Array:
    *args, in_weights, in_probs = inputs
    weights_dot, probs_dot, *_ = tangents
    slopes = with_rule((in_weights, in_probs), partial(_slopes_dot, degree), tuple(args))
    dots = [
        long_sum(slope * dot)
        for slope, dot in zip(slopes, (weights_dot, probs_dot), strict=True)
        if dot is not None
    ]
    return sum(dots[1:], dots[0])


def _slopes_dot(degree: int, inputs: Any, tangents: Any) -> tuple[Array, Array]:
    weights, probs, power = inputs
    dots = [
        jnp.zeros_like(like) if dot is None else dot
        for like, dot in zip(inputs[:2], tangents[:2], strict=True)
    ]
    both = jax.jvp(lambda w, p: _integrate(degree, w, p, power)[1:], (weights, probs), tuple(dots))[1]
    return both
