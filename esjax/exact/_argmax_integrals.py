"""Quadrature behind `exact`: the chance that one label, or each of the classes, is the largest.

Examples are computed a few at a time, so that a block of examples × nodes × classes stays in cache.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from esjax._core.chunks import varying_like
from esjax._core.products import einsum
from esjax._core.rules import with_rule
from esjax.exact import _batches
from esjax.exact._batches import by_rows, flattened_under_vmap
from esjax.exact._quadrature import (
    best_and_hazard,
    cdf,
    label_window,
    log_pdf,
    num_label_nodes,
    num_scouts,
    num_shared_nodes,
    shared_nodes,
    trapezoid,
)

Array = jax.Array

FAR = 60.0
"""Scores are clipped to ±60 σ: there, Φ is 1 and φ is 0 even in float64, so that nothing is lost."""


# --- one label ---------------------------------------------------------------------------------------


def _win_rows(num_nodes: int, t: Array, ends: Array) -> tuple[Array, Array]:
    """Returns `win` (B,) and its slopes (B, K) for t (B, K), by nodes between `ends` (B, 2).

        win = ∫ φ(u) G(u) du,  lose = ∫ Φ(u) g(u) du,   G(u) = ∏_j Φ(u − t_j),  g = G Σ_j r(u − t_j)
        slope_j = ∫ φ(u) G(u) r(u − t_j) du

    The smaller of win and lose lives where the slopes do, however far ahead or behind the label is.
    """
    u, spacing = trapezoid(ends, num_nodes)
    best, hazard = best_and_hazard(u[..., None] - t[:, None, :])
    best = best * spacing[:, None]
    weights = jnp.exp(log_pdf(u)) * best
    slopes = einsum("bn,bnk->bk", weights, hazard)
    won = weights.sum(-1)
    lost = (cdf(u) * best * hazard.sum(-1)).sum(-1)
    return jnp.where(won < lost, won, 1 - lost), slopes


def _integrate(num_nodes: int | None, t: Array) -> tuple[Array, Array]:
    """Returns `win` (...) and its slopes (..., K) for t (..., K)."""
    size = t.shape[-1]
    num_nodes = num_nodes or num_label_nodes(size, t.dtype)
    ends = by_rows(label_window, num_scouts(size, t.dtype) * size, jax.lax.stop_gradient(t))
    return by_rows(jax.checkpoint(partial(_win_rows, num_nodes)), num_nodes * size, t, ends)


def win(num_nodes: int | None, t: Array) -> Array:
    """Returns the chance (...) that a label at 0 beats all its rivals at t (..., K), in units of σ.

    The tangent is linear, −slopes · ṫ, and the slopes are its only residual: O(B K) memory. Higher
    orders are those of the quadrature.
    """
    value, slopes = flattened_under_vmap(partial(_integrate, num_nodes))(jax.lax.stop_gradient(t))
    return with_rule(value, partial(_win_dot, num_nodes), (t, slopes))


def _win_dot(num_nodes: int | None, inputs: Any, tangents: Any) -> Array:
    (t, slopes), (t_dot, _) = inputs, tangents
    slopes = with_rule(slopes, partial(_slopes_dot, num_nodes), t)
    return -einsum("...k,...k->...", slopes, t_dot)


def _slopes_dot(num_nodes: int | None, t: Array, t_dot: Array) -> Array:
    return jax.jvp(lambda t: _integrate(num_nodes, t)[1], (t,), (t_dot,))[1]


# --- all classes -------------------------------------------------------------------------------------


def _sum_over_nodes(function: Callable[[Array, Array], Array], num_nodes: int, s: Array) -> Array:
    """Returns the sum of `function(weights, hazard)` (B, K) over nodes, as many at once as fit the cache.

    weights (B, nodes) = ∏_j Φ(u − s_j) du, hazard (B, nodes, K) = r(u − s).
    """
    u, spacing = shared_nodes(s, num_nodes)

    def add(total: Array, u: Array) -> tuple[Array, None]:
        best, hazard = best_and_hazard(u[None, :, None] - s[:, None, :])
        return total + function(best * spacing, hazard), None

    at_once = max(_batches.BLOCK_FLOATS // s.shape[-1], 1)
    total = varying_like(jnp.zeros_like(s), s)
    if at_once >= u.size:
        return add(total, u)[0]
    u = jnp.pad(u, (0, -u.size % at_once), constant_values=FAR)  # there, every hazard is 0
    return jax.lax.scan(jax.checkpoint(add), total, u.reshape(-1, at_once))[0]


def _probs_rows(num_nodes: int, s: Array) -> Array:
    return _sum_over_nodes(partial(einsum, "bn,bnk->bk"), num_nodes, s)


def _probs_tangent_rows(num_nodes: int, s: Array, leader: Array, s_dot: Array) -> Array:
    """Returns J ṡ, J the symmetric Jacobian with J 1 = 0: Σ_j ∫ r_c r_j ∏ Φ du (ṡ_c − ṡ_j).

    For a leader with p = 1 − 1e-20, the difference would be lost to rounding. So where one class has most of
    the probability (one-hot `leader`, otherwise 0), ṡ is measured from the leader's, and the leader's own row
    follows from Σ_c ṗ_c = 0. That is symmetric, too: the transpose, which is what reverse mode runs, is the
    same computation.
    """
    relative = s_dot - (leader * s_dot).sum(-1, keepdims=True)

    def tangents(weights: Array, hazard: Array) -> Array:
        pulled = weights * einsum("bnk,bk->bn", hazard, relative)
        kept = einsum("bn,bnk->bk", weights * hazard.sum(-1), hazard)
        return relative * kept - einsum("bn,bnk->bk", pulled, hazard)

    others = (1 - leader) * _sum_over_nodes(tangents, num_nodes, s)
    return others - leader * others.sum(-1, keepdims=True)


def argmax_probs(num_nodes: int | None, s: Array) -> Array:
    """Returns the chance that each class is the largest, (..., K); the largest of s (..., K) is 0."""
    num_nodes = num_nodes or num_shared_nodes(s.shape[-1], s.dtype)
    probs = by_rows(partial(_probs_rows, num_nodes), num_nodes * s.shape[-1], jax.lax.stop_gradient(s))
    return with_rule(probs, partial(_argmax_probs_dot, num_nodes), (s, probs))


def _argmax_probs_dot(num_nodes: int, inputs: Any, tangents: Any) -> Array:
    """Keeps no block of nodes × classes for the transpose: each example's is computed again."""
    (s, probs), (s_dot, _) = inputs, tangents
    leader = _leader(s, probs)
    rows = jax.checkpoint(partial(_probs_tangent_rows, num_nodes))
    return by_rows(rows, num_nodes * s.shape[-1], s, leader, s_dot)


def _leader(s: Array, probs: Array) -> Array:
    """Returns 1 for the class that has most of the probability, 0 for all others (..., K)."""
    return jnp.where(probs > 0.5, jax.nn.one_hot(s.argmax(-1), s.shape[-1], dtype=s.dtype), 0)


def softmax(s: Array) -> Array:
    """Returns the chances (..., K) under Gumbel noise; their slopes are precise where one of them is 1."""
    return _softmax_of(s, jax.nn.softmax(jax.lax.stop_gradient(s), -1))


def _softmax_of(s: Array, probs: Array) -> Array:
    return with_rule(probs, _softmax_dot, (s, probs))


def _softmax_dot(inputs: Any, tangents: Any) -> Array:
    """Returns p_c (ṡ_c − Σ_j p_j ṡ_j), with ṡ measured from the leader's, as in `_probs_tangent_rows`."""
    (s, probs), (s_dot, _) = inputs, tangents
    leader, probs = _leader(s, probs), _softmax_of(s, probs)
    relative = s_dot - (leader * s_dot).sum(-1, keepdims=True)
    others = (1 - leader) * probs * (relative - (probs * relative).sum(-1, keepdims=True))
    return others - leader * others.sum(-1, keepdims=True)
