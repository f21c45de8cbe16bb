"""Integrals behind the metrics of pairs: E Σ w_i v_j sign(z_i − z_j), over all pairs or those of an order.

    ∫ Σ_i w_i f(u − s_i) Σ_j v_j (2 F(u − s_j) − 1) du

Its derivative is that of the integral by parts, 2 ∫ Σ_ij w_i v_j f(u − s_i) f(u − s_j) (ṡ_i − ṡ_j) du, which
is precise where pairs are decided and the derivative of f alone would cancel.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.arrays import divided
from esjax._core.rules import with_rule
from esjax.exact import _lists
from esjax.exact._batches import long_sum
from esjax.exact._grid import Grid, Integrand, integral, window
from esjax.exact._lists import List
from esjax.exact._noise_values import pdf_cdf_tail
from esjax.noise import Noise, gumbel, logistic, normal

Array = jax.Array

_SPACING = {normal: (0.84, 0.64), logistic: (1.0, 0.62), gumbel: (0.55, 0.35)}
"""Of nodes in float32 and float64. The errors are exp(−π² / h²), exp(−2π² / h) and exp(−π² / h)."""


def expected_sign(
    noise: Noise, kernel: Any, items: List, weights: tuple[Array, ...], constants: tuple[Array, ...] = ()
) -> Array:
    """Returns the integral () of `of_all` or `of_those_before` for one list (n,)."""
    found = _lists.places_of(noise, items)
    spacing = _SPACING[noise][items.scores.dtype == np.float64]
    grid = Grid(noise, spacing, items.scores.size - 1, 1)
    lowest = jnp.where(items.mask, jax.lax.stop_gradient(found.near) + found.far, jnp.inf).min()
    nodes = window(grid, found, lowest, spacing)
    return _lists.where_valid(integral(grid, kernel(noise), found, nodes, weights, constants), items)


def of_all(noise: Noise) -> Integrand:
    """Returns the integrand Σ_i w_i f_i Σ_j v_j (2 F_j − 1) (lists, nodes) for weights (w, v)."""

    def value(z: Array, w: Array, v: Array) -> Array:
        pdf, cdf, tail = pdf_cdf_tail(noise, z)
        return long_sum(w * pdf, 0) * long_sum(v * (cdf - tail), 0)

    def dot(inputs: Any, tangents: Any) -> Array:
        (z, w, v), (z_dot, *moved) = inputs, tangents
        pdf, _, _ = pdf_cdf_tail(noise, z)
        found = _of_weights(value, (z, w, v), moved)
        if z_dot is None:
            return found
        w = _beyond_nearest(pdf, w, v)
        at, pulled = long_sum(w * pdf, 0), long_sum(w * pdf * z_dot, 0)
        return found + 2 * (at * long_sum(v * pdf * z_dot, 0) - pulled * long_sum(v * pdf, 0))

    return lambda z, weights, _: _with_rule(value, dot, z, *weights)


def of_those_before(noise: Noise) -> Integrand:
    """Returns the integrand Σ_i w_i f_i Σ_{j < before_i} (2 F_j − 1) (lists, nodes).

    Weights are (w,), constants (before,): for each item, with how many of the first ones it is compared.
    """

    def integrand(z: Array, weights: Any, constants: Any) -> Array:
        return _with_rule(value, dot, z, *weights, *constants)

    def value(z: Array, w: Array, before: Array) -> Array:
        pdf, cdf, tail = pdf_cdf_tail(noise, z)
        return long_sum(w * pdf * _sum_before(cdf - tail, before), 0)

    def dot(inputs: Any, tangents: Any) -> Array:
        (z, w, before), (z_dot, w_dot, _) = inputs, tangents
        pdf, _, _ = pdf_cdf_tail(noise, z)
        found = _of_weights(lambda z, w: value(z, w, before), (z, w), (w_dot,))
        if z_dot is None:
            return found
        moved = _sum_before(pdf * z_dot, before) - z_dot * _sum_before(pdf, before)
        return found + 2 * long_sum(w * pdf * moved, 0)

    return integrand


def _beyond_nearest(pdf: Array, w: Array, v: Array) -> Array:
    """Returns w less a multiple of v, such that it is 0 for the item nearest to u: Σ_ij is the same.

    For v_i w_j − w_i v_j is; and where no other item is near, each term is 0, not only their sum.
    """
    nearest = pdf.argmax(0, keepdims=True)
    w, v = jnp.broadcast_to(w, pdf.shape), jnp.broadcast_to(v, pdf.shape)
    of_nearest, scale = (jnp.take_along_axis(each, nearest, 0) for each in (w, v))
    return w - of_nearest * divided(v, scale)


def _with_rule(value: Any, dot: Any, *inputs: Array) -> Array:
    return with_rule(value(*jax.lax.stop_gradient(inputs)), dot, inputs)


def _of_weights(value: Any, inputs: Any, moved: Any) -> Array:
    """Returns the derivative of a value that is linear in each weight."""
    (z, *weights), found = inputs, jnp.zeros_like(inputs[0][0])
    for place, w_dot in enumerate(moved):
        if w_dot is not None:
            found = found + value(z, *weights[:place], w_dot, *weights[place + 1 :])
    return found


def _sum_before(x: Array, before: Array) -> Array:
    """Returns Σ_{j < before_i} x_j along the first axis, (n, lists, nodes)."""
    sums = jnp.concatenate([jnp.zeros_like(x[:1]), jax.lax.associative_scan(jnp.add, x)])
    return jnp.take_along_axis(sums, before.astype(jnp.int32), 0)
