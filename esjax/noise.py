"""Noise distributions μ: how ε is drawn, and the score that turns values of a block into a gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.scipy.special import ndtri

Array = jax.Array


class Noise(NamedTuple):
    """A distribution of independent, identically distributed coordinates ε.

    Attributes:
      sample: `(key, shape, dtype) -> Array` of that shape.
      score: s(ε) = −∇ log μ(ε), elementwise, same shape and dtype as ε.
      icdf: the inverse of the cumulative distribution function, elementwise, from (0, 1) to ℝ.
      symmetric: whether ε and −ε have the same distribution; `samplers.antithetic` needs it.
    """

    sample: Callable[[Any, tuple[int, ...], Any], Array]
    score: Callable[[Array], Array]
    icdf: Callable[[Array], Array]
    symmetric: bool


def _identity(eps: Array) -> Array:
    return eps


normal = Noise(sample=jax.random.normal, score=_identity, icdf=ndtri, symmetric=True)
"""Standard normal noise, N(0, 1) in each coordinate: s(ε) = ε."""
