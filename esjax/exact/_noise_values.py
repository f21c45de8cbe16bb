"""Density, distribution function and tail of a noise, with derivatives by rules."""

import math
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.rules import with_rule
from esjax.exact._quadrature import _parts
from esjax.noise import Noise, logistic, normal

Array = jax.Array


def pdf_cdf_tail(noise: Noise, z: Array) -> tuple[Array, Array, Array]:
    """Returns f(z), F(z) and 1 − F(z), elementwise, each with a small relative error."""
    pdf, cdf, tail = _values(noise, jax.lax.stop_gradient(z))
    cdf, tail = with_rule((cdf, tail), _cdf_dot(noise), (z, pdf))
    return _with_slope(noise, z, pdf), cdf, tail


def _values(noise: Noise, z: Array) -> tuple[Array, Array, Array]:
    if noise == normal:
        exponential, _, below, beyond = _parts(z)
        cdf, tail = jnp.where(below, beyond, 1 - beyond), jnp.where(below, 1 - beyond, beyond)
        return exponential * (1 / math.sqrt(2 * math.pi)), cdf, tail
    if noise == logistic:
        cdf, tail = jax.nn.sigmoid(z), jax.nn.sigmoid(-z)
        return cdf * tail, cdf, tail
    rate = jnp.exp(-jnp.maximum(z, -6.0) - np.euler_gamma)  # at −6, F is 1e-98; below, nothing
    cdf = jnp.where(z > -6, jnp.exp(-rate), 0)
    return rate * cdf, cdf, -jnp.expm1(-rate)


@lru_cache
def _cdf_dot(noise: Noise) -> Any:
    def dot(inputs: Any, tangents: Any) -> tuple[Array, Array]:
        (z, pdf), (z_dot, _) = inputs, tangents
        moved = _with_slope(noise, z, pdf) * z_dot
        return moved, -moved

    return dot


def _with_slope(noise: Noise, z: Array, pdf: Array) -> Array:
    """Returns f(z), whose derivative is −f times the noise's score."""
    return with_rule(pdf, _pdf_dot(noise), (z, pdf))


@lru_cache
def _pdf_dot(noise: Noise) -> Any:
    def dot(inputs: Any, tangents: Any) -> Array:
        (z, pdf), (z_dot, _) = inputs, tangents
        return -_with_slope(noise, z, pdf) * noise.score(jnp.maximum(z, -40.0)) * z_dot

    return dot
