"""Metrics of a list whose discounts no cutoff ends: a discount is a sum of powers x^m, a law of m a product.

Slopes are sums over swaps of two items, f_i f_j, in which nothing cancels where places are decided.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.rules import with_rule
from esjax.exact._batches import long_sum
from esjax.exact._noise_values import pdf_cdf_tail
from esjax.noise import Noise

Array = jax.Array


@lru_cache
def exponentials(discount: str, size: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns −log x and w, with D(1 + m) = Σ_l w_l x_l^m for 0 ≤ m < size, up to a relative 10⁻⁶ or 10⁻¹⁰.

    1 / r and 1 / log₂(1 + r) are completely monotone, so that few x, in geometric progression of their
    logarithms, do (Braess and Hackbusch 2005); w by least squares.
    """
    log_size = math.log(size)
    count = math.ceil(5 + 1.9 * log_size if dtype == np.float32 else 6 + 3.2 * log_size)
    m = np.unique(np.concatenate([np.arange(min(size, 64)), np.geomspace(1, size, 400).astype(int) - 1]))
    wanted = 1 / (1.0 + m) if discount == "reciprocal" else 1 / np.log2(2.0 + m)
    found = []
    for highest in (3.0, 4.0, 6.0, 8.0):
        rates = np.geomspace(0.3 / size, highest, count)
        design = np.exp(-np.outer(m, rates)) / wanted[:, None]
        w = np.linalg.lstsq(design, np.ones(m.size), rcond=1e-15)[0]
        found.append((abs(design @ w - 1).max(), rates, w))
    return min(found, key=lambda each: each[0])[1:]


class _Factors(NamedTuple):
    """Of factors φ = 1 − tail · lost (n, ...): log φ, f / φ and tail / φ."""

    log: Array
    ratio: Array
    odds: Array


def everywhere(noise: Noise, z: Array, weights: Any, constants: Any) -> Array:
    """Returns Σ_c g_c f_c E[D(1 + N_{−c}(u))] (lists, nodes), D(1 + m) = 1 / log₂(2 + m) = Σ_l w_l x_l^m.

        E[D(1 + N_{−c})] = Σ_l w_l P / φ_c,   P = ∏_j φ_j,   φ_j = 1 − (1 − x_l) tail_j
        slope_i = Σ_l w_l (1 − x_l) P Σ_j (g_i − g_j) (f_i / φ_i) (f_j / φ_j)

    Weights are (g,). Gains are measured from that of the item nearest to u, so that all but rounding of the
    sum over j is what another item contributes.
    """
    del constants
    return _swapped(noise, "logarithmic", _of_gains, z, *weights)


def first_relevant(noise: Noise, z: Array, weights: Any, constants: Any) -> Array:
    """Returns Σ_{c relevant} f_c ∏_{j relevant, j≠c} F_j E[1 / (1 + B(u))] (lists, nodes), as `precisions`.

    A relevant item above ends it: 1 − x is 1 for these.
    """
    del weights
    return _swapped(noise, "reciprocal", _of_first, z, *constants)


def precisions(noise: Noise, z: Array, weights: Any, constants: Any) -> Array:
    """Returns Σ_{c relevant} f_c E[(1 + A) / (1 + A + B)] (lists, nodes), A, B the relevant and others above.

        E[(1 + A) x^(A+B)] = P (1 + Σ_{j relevant} σ_j),   σ_j = x tail_j / φ_j
        slope_i = Σ_l w_l (1 − x_l) P Σ_j (f_i / φ_i) (f_j / φ_j) (1 + Σ_m σ_m − σ_i)   for i relevant, j not

    and the opposite for i not relevant, σ_j in place of σ_i. Constants are (relevant,).
    """
    del weights
    return _swapped(noise, "reciprocal", _of_precisions, z, *constants)


# --- terms: functions of x and 1 − x, of the value (...) and its slopes in −z and in the gains (n, ...) ----


def _of_gains(noise: Noise, z: Array, law: Any, gains: Array) -> Any:
    nearest = jnp.take_along_axis(gains, law[0].argmax(0, keepdims=True), 0)

    def term(x: Array, y: Array) -> tuple[Array, Array, Array]:
        factors = _factors(noise, z, law, x, y)
        product = jnp.exp(long_sum(factors.log, 0))
        relative, ratio = gains - nearest, factors.ratio
        swaps = relative * long_sum(ratio, 0)[None] - long_sum(relative * ratio, 0)[None]
        in_gains = product[None] * ratio
        return long_sum(gains * in_gains, 0), y * in_gains * swaps, in_gains

    return term


def _of_first(noise: Noise, z: Array, law: Any, relevant: Array) -> Any:
    def term(x: Array, y: Array) -> tuple[Array, Array, Array]:
        is_relevant = relevant > 0
        factors = _factors(noise, z, law, jnp.where(is_relevant, 0, x), jnp.where(is_relevant, 1, y))
        return _of_hits(factors, relevant, jnp.ones_like(z), y)

    return term


def _of_precisions(noise: Noise, z: Array, law: Any, relevant: Array) -> Any:
    def term(x: Array, y: Array) -> tuple[Array, Array, Array]:
        factors = _factors(noise, z, law, x, y)
        share = relevant * factors.odds * x
        return _of_hits(factors, relevant, 1 + (long_sum(share, 0)[None] - share), y)

    return term


def _of_hits(factors: _Factors, relevant: Array, worth: Array, y: Array) -> tuple[Array, Array, Array]:
    """Returns a term for relevant items, each of some worth at its place: P Σ_c worth_c f_c / φ_c."""
    product = jnp.exp(long_sum(factors.log, 0))
    hits, misses = relevant * worth * factors.ratio, (1 - relevant) * factors.ratio
    found = long_sum(hits, 0)
    swaps = hits * long_sum(misses, 0)[None] - misses * found[None]
    return product * found, y * product[None] * swaps, jnp.zeros_like(swaps)


def _factors(noise: Noise, z: Array, law: Any, passed: Array, lost: Array) -> _Factors:
    """Returns those of F + passed · tail = 1 − lost · tail, passed + lost = 1, precise where one is small."""
    pdf, cdf, tail = law
    least = jnp.asarray(np.finfo(cdf.dtype).tiny ** 0.4, cdf.dtype)
    factor, without = jnp.maximum(cdf + passed * tail, least), lost * tail
    small = without < 0.5
    log = jnp.where(small, jnp.log1p(-jnp.where(small, without, 0)), jnp.log(jnp.where(small, 1, factor)))
    inverse = 1 / factor
    return _with_slopes(noise, z, lost, _Factors(log, pdf * inverse, tail * inverse))


def _with_slopes(noise: Noise, z: Array, lost: Array, factors: _Factors) -> _Factors:
    return with_rule(factors, _factors_dot(noise), (z, lost, factors))


@lru_cache
def _factors_dot(noise: Noise) -> Any:
    """Returns the rule: polynomials in the factors' own values, none of which overflows where F is 0."""

    def dot(inputs: Any, tangents: Any) -> _Factors:
        (z, lost, factors), (moved, *_) = inputs, tangents
        _, ratio, odds = _with_slopes(noise, z, lost, factors)
        score = noise.score(jnp.maximum(z, -40.0))
        log_dot = ratio * lost * moved
        return _Factors(log_dot, -ratio * (score * moved + log_dot), -ratio * (1 + lost * odds) * moved)

    return dot


# --- their sum, and its derivative by swaps ----------------------------------------------------------


def _swapped(noise: Noise, discount: str, of: Any, z: Array, given: Array) -> Array:
    """Returns Σ_l w_l term(x_l) (lists, nodes), whose derivative in z is that of the integral by parts.

        d value = −Σ_i slope_i ż_i

    Moving item i only matters where another one is: slope_i is a sum over swaps, f_i f_j, which is precise
    where places are decided and the derivative of f alone would cancel.
    """

    def parts(z: Array, given: Array) -> tuple[Array, Array, Array]:
        law = pdf_cdf_tail(noise, jax.lax.stop_gradient(z))
        return _over_terms(of(noise, z, law, given), discount, z)

    def dot(inputs: Any, tangents: Any) -> Array:
        (z, given, in_z, in_given), (z_dot, given_dot, *_) = inputs, tangents
        in_z, in_given = with_rule((in_z, in_given), slopes_dot, (z, given))
        terms = [] if z_dot is None else [-long_sum(in_z * z_dot, 0)]
        terms += [] if given_dot is None else [long_sum(in_given * given_dot, 0)]
        return sum(terms[1:], terms[0])

    def slopes_dot(inputs: Any, tangents: Any) -> Any:
        moved = (jnp.zeros_like(a) if b is None else b for a, b in zip(inputs, tangents, strict=True))
        return jax.jvp(lambda z, given: parts(z, given)[1:], inputs, tuple(moved))[1]

    inputs = z, jnp.broadcast_to(given, z.shape)
    value, *slopes = parts(*jax.lax.stop_gradient(inputs))
    return with_rule(value, dot, (*inputs, *slopes))


def _over_terms(term: Any, discount: str, z: Array) -> tuple[Array, Array, Array]:
    rates, w = exponentials(discount, z.shape[0], np.dtype(z.dtype))

    def add(found: Any, at: Any) -> tuple[Any, None]:
        x, y, weight = at
        return jax.tree.map(lambda sum, each: sum + weight * each, found, jax.checkpoint(term)(x, y)), None

    zero = jnp.zeros_like(z)
    terms = tuple(jnp.asarray(each, z.dtype) for each in (np.exp(-rates), -np.expm1(-rates), w))
    return jax.lax.scan(add, (zero[0], zero, zero), terms)[0]
