"""How noise enters what a solver is asked: added to it, or as a factor that keeps its sign."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from esjax.noise import Noise, normal

Array = jax.Array


class Perturbation(NamedTuple):
    """What becomes of θ, elementwise: z = at(θ, σ, ε), with E[z] = θ.

    Attributes:
        location: θ → x such that z is a function of x + σ ε (and the sign of θ) alone.
        at: `(theta, sigma, eps) -> z`, differentiable.
        noise: the only noise for which E[z] = θ; None: any whose mean is 0.
    """

    location: Callable[[Array], Array]
    at: Callable[[Array, Array, Array], Array]
    noise: Noise | None = None


def _itself(theta: Array) -> Array:
    return theta


def _added(theta: Array, sigma: Array, eps: Array) -> Array:
    return theta + sigma * eps


def _log_size(theta: Array) -> Array:
    return jnp.log(jnp.abs(theta))


def _multiplied(theta: Array, sigma: Array, eps: Array) -> Array:
    return theta * jnp.exp(sigma * eps - sigma**2 / 2)


additive = Perturbation(_itself, _added)
"""z = θ + σ ε, with σ in units of θ."""

multiplicative = Perturbation(_log_size, _multiplied, normal)
"""z = θ exp(σ ε − σ²/2), normal ε, with σ a share of θ: costs stay positive, rewards negative, and E[z] = θ.

(Dalle et al. 2022.) For θ other than 0, which no factor moves. The loss is then in proportion to θ, so that
the smallest θ would be the best: fix its scale, for instance its mean.
"""
