"""The law of an item's place: 1 + N, where N counts the rivals above it, independent bits once u is given.

A metric linear in "item c is at place r" is Σ_c g_c ∫ f(u − s_c) E[D(1 + N_{−c}(u))] du. With factors
b_j + a_j x of the bits, a = 1 − F, b = F, and H = E[D(1 + N)] of all of them, E[D(1 + N_{−c})] = ∂H / ∂b_c;
so the sum over c is one derivative of H in one direction, b ↦ b + g f.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax.exact._batches import long_sum
from esjax.exact._grid import Grid, Places, Window, over_nodes, shared, window
from esjax.exact._noise_values import pdf_cdf_tail
from esjax.exact._top_k_integrals import _product
from esjax.noise import Noise, gumbel

Array = jax.Array

_RARE = 2.0**-14
"""Bits of a smaller chance are held as odds, so that the sum of many small ones is precise."""
_UNROLLED = 4
"""Polynomials of so many coefficients are multiplied term by term, longer ones as matrices."""


# --- places up to a cutoff: polynomials --------------------------------------------------------------


def up_to(noise: Noise, discounts: tuple[float, ...], z: Array, weights: Any, constants: Any) -> Array:
    """Returns Σ_c g_c f_c Σ_r D_r P(N_{−c} = r − 1) (lists, nodes), for z (n, lists, nodes), weights (g,)."""
    del constants
    (gains,) = weights
    pdf, below, above, log_scale = _bits(noise, z)
    direction = gains * pdf
    counts = _law_in_direction(len(discounts), below, above, direction)
    worth = jnp.asarray(discounts, z.dtype).reshape((-1,) + (1,) * (z.ndim - 1))
    return jnp.exp(long_sum(log_scale, 0)) * (worth * counts).sum(0)


def _law_in_direction(k: int, below: Array, above: Array, direction: Array) -> Array:
    """Returns the derivative of the first k coefficients of ∏_j (below_j + above_j x) as `below` moves.

    (k, lists, nodes) of arrays (n, lists, nodes), item by item; one that is nowhere above is passed over.
    """
    size = below.shape[0]
    negligible = math.sqrt(np.finfo(below.dtype).eps) ** 2.5 / size
    counts = jax.lax.stop_gradient((above > negligible) | (direction > negligible)).any((1, 2))
    counts = shared(counts.astype(jnp.int32))

    def multiply(law: tuple[Array, Array], item: Any) -> tuple[Array, Array]:
        (found, moved), (b, a, b_dot) = law, item
        return b[None] * found + a[None] * _shifted(found), (
            b[None] * moved + b_dot[None] * found + a[None] * _shifted(moved)
        )

    def step(law: tuple[Array, Array], item: Any) -> tuple[tuple[Array, Array], None]:
        is_counted, *factors = item
        return jax.lax.cond(is_counted > 0, multiply, lambda law, _: law, law, factors), None

    zero = jnp.zeros_like(below[:1]).repeat(k, 0)
    law = zero.at[0].set(1), zero
    return jax.lax.scan(step, law, (counts, below, above, direction))[0][1]


def _shifted(polynomial: Array) -> Array:
    """Returns x times a polynomial (k, ...), without its highest power."""
    return jnp.concatenate([jnp.zeros_like(polynomial[:1]), polynomial[:-1]])


def of_each(noise: Noise, k: int, z: Array) -> Array:
    """Returns f_c P(N_{−c} = r − 1) (n, k, lists, nodes) for all items and places r ≤ k."""
    pdf, below, above, log_scale = _bits(noise, z)
    others = _coefficients_without(k, below, above)
    return jnp.moveaxis(others, 0, 1) * (pdf * jnp.exp(long_sum(log_scale, 0))[None])[:, None]


def _bits(noise: Noise, z: Array) -> tuple[Array, Array, Array, Array]:
    """Returns f c, b c, a c and −log c, elementwise, with c = 1 / F where being above is rare, else 1."""
    pdf, cdf, tail = pdf_cdf_tail(noise, z)
    rare = tail < _RARE
    scale = jnp.where(rare, 1 / jnp.where(rare, cdf, 1), 1)
    return pdf * scale, jnp.where(rare, 1, cdf), tail * scale, jnp.log1p(-jnp.where(rare, tail, 0))


def _coefficients_without(k: int, below: Array, above: Array) -> Array:
    """Returns those of the product of all factors but one, (k, n, ...), for each of them."""
    levels = [jnp.stack([below, above][: min(k, 2)])]
    while levels[-1].shape[1] > 1:
        levels.append(_multiplied(k, *_halves(levels[-1])))
    others = jnp.zeros_like(levels[-1][:1]).at[0].set(1)
    for factors in levels[-2::-1]:
        left, right = _halves(factors)
        swapped = _multiplied(k, others, right), _multiplied(k, others, left)
        others = jnp.concatenate(swapped, 1)[:, : factors.shape[1]]
    return _padded(k, others)


def _halves(polynomials: Array) -> tuple[Array, Array]:
    """Returns the first and the second half of factors (coefficients, n, ...), an odd one with a 1."""
    if polynomials.shape[1] % 2:
        one = jnp.zeros_like(polynomials[:, :1]).at[0].set(1)
        polynomials = jnp.concatenate([polynomials, one], 1)
    middle = polynomials.shape[1] // 2
    return polynomials[:, :middle], polynomials[:, middle:]


def _multiplied(k: int, left: Array, right: Array) -> Array:
    """Returns the products of polynomials, coefficients along axis 0, without the powers ≥ k."""
    if left.shape[0] < right.shape[0]:
        left, right = right, left
    if right.shape[0] > _UNROLLED:
        return _product(k, left, right)
    size = min(k, left.shape[0] + right.shape[0] - 1)
    terms = [_padded(size, left[: size - i] * right[i : i + 1], i) for i in range(right.shape[0])]
    return sum(terms[1:], terms[0])


def _padded(size: int, polynomials: Array, before: int = 0) -> Array:
    after = size - before - polynomials.shape[0]
    return jnp.pad(polynomials, [(before, after)] + [(0, 0)] * (polynomials.ndim - 1))


# --- how fine the nodes must be ----------------------------------------------------------------------

_STEP = {np.dtype(np.float32): 1.15, np.dtype(np.float64): 0.78}
_SMOOTH_STEP = {np.dtype(np.float32): 1.0, np.dtype(np.float64): 0.65}
"""Spacing of nodes in units of the scale on which integrands vary, for cutoffs and for smooth discounts:
measured, so that errors of values and gradients are below 1e-5 and 1e-9."""
_COARSEST = {np.dtype(np.float32): 0.75, np.dtype(np.float64): 0.5}
_COARSEST_OF_GUMBEL = {np.dtype(np.float32): 0.42, np.dtype(np.float64): 0.28}
"""The largest spacing: exp(−π² / spacing) is the error for Gumbel noise, exp(−2π² / spacing) for logistic."""
_SCOUTS = 0.5
"""Spacing of the nodes that look at how fast N(u) varies."""


def grid(noise: Noise, k: int | None, size: int, width: int, dtype: Any) -> Grid:
    """Returns how to integrate over the first k places of lists of `size` items, None for smooth discounts.

    The k-th largest of n scores varies on a scale of √(2 k log(n / k))⁻¹ at least.
    """
    middle = min(k, size // 2) if k else 1
    is_smooth, k = k is None, k or size
    sharpness = max(math.log(size), middle * math.log(size / max(middle, 1)))
    finest = _step(is_smooth, dtype) / math.sqrt(1 + 2 * sharpness)
    return Grid(noise, min(finest, _coarsest(noise, dtype)), min(k, size - 1), width)


def _step(is_smooth: bool, dtype: Any) -> float:
    return (_SMOOTH_STEP if is_smooth else _STEP)[np.dtype(dtype)]


def _coarsest(noise: Noise, dtype: Any) -> float:
    return (_COARSEST_OF_GUMBEL if noise == gumbel else _COARSEST)[np.dtype(dtype)]


def nodes(how: Grid, k: int | None, found: Places, needed: Array) -> Window:
    """Returns nodes for one list (n,), as fine as the count N(u) of items above u makes the integrand.

        spacing ∝ 1 / √(1 + max_u μ̇(u)² / v(u)),   μ = E N

    over the u where N may be below k, seen by scouts. v = var N for a cutoff at k, and for smooth
    discounts (None) var N + μ² / 4, for they vary slowly where N is large.
    """
    found = jax.lax.stop_gradient(found)
    at = found.near + found.far
    dtype, size = np.dtype(at.dtype), at.size
    is_smooth, k = k is None, k or size
    kth = jax.lax.top_k(at, k)[0][-1]
    lowest = jnp.maximum(jnp.where(needed, at, jnp.inf).min(), kth)
    scout = how._replace(finest=_SCOUTS, width=1)
    among = window(scout, found, lowest, _SCOUTS)

    def sharpness(u: Array) -> Array:
        z = (u[None] - found.far[:, None, None]) - found.near[:, None, None]
        pdf, cdf, tail = pdf_cdf_tail(how.noise, z)
        mean, variance = long_sum(tail, 0), long_sum(cdf * tail, 0)
        spread = variance + mean**2 / 4 if is_smooth else variance
        rate = long_sum(pdf, 0) ** 2 / (spread + np.finfo(dtype).tiny)
        return jnp.where(mean < k + 5 * jnp.sqrt(variance), rate, 0).max(-1)

    sharpest = over_nodes(
        scout, sharpness, Window(among.spacing[None, None], among.num[None, None]), at[None], jnp.maximum
    )[0]
    spacing = _step(is_smooth, dtype) / jnp.sqrt(1 + sharpest)
    return window(how, found, lowest, jnp.clip(spacing, how.finest, _coarsest(how.noise, dtype)))


def probs(noise: Noise, k: int, found: Places, counted: Array) -> Array:
    """Returns the chances (n, k) of the items of one list to be at each of the first k places."""
    how = grid(noise, k, found.near.size, 6 * k, found.near.dtype)
    among = nodes(how, k, found, counted)

    def at(u: Array) -> Array:
        z = (u[None] - found.far[:, None, None]) - found.near[:, None, None]
        return of_each(noise, k, z).sum((-2, -1))

    per_list = Window(among.spacing[None, None], among.num[None, None])
    return over_nodes(how, at, per_list, found.near[None]) * among.spacing
