"""The smoothed value in a form whose autodiff derivatives of every order are unbiased."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from esjax import _sampling, _sums
from esjax._sampling import Inputs, Problem
from esjax._sums import Values
from esjax.noise import Noise

Array = jax.Array


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _log_density(noise: Noise, eps: Array) -> Array:
    """Log μ(ε), of which only the derivative −s(ε) is ever used: its value is given as 0."""
    del noise
    return jnp.zeros_like(eps)


@_log_density.defjvp
def _log_density_jvp(noise: Noise, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (eps,), (tangent,) = primals, tangents
    # The primal is the function itself, since a constant would lose a term of second derivatives.
    return _log_density(noise, eps), -noise.score(eps) * tangent


def surrogate(problem: Problem, key: Any, inputs: Inputs, saved: Values) -> Array:
    """Returns the mean (num_values,) of the samples kept, differentiable in all inputs.

        (1/N) Σ_n f(z_n) box_n + b_n (1 − box_n),   box_n = p(z_n | x, σ) / p(z_n | x₀, σ₀)

    with samples z_n, baselines b_n, x₀ and σ₀ held constant: box_n is 1 in value, and its derivatives
    are those of the density (the magic box of Foerster et al. 2018, eq. 5; the baseline is that of
    Mao et al. 2019). ε of a moved x is ε σ₀/σ + (x₀ − x)/σ, so that the ε drawn is the ε scored.
    """
    x, sigma, *_ = inputs
    x0, sigma0, saved = jax.lax.stop_gradient((x, sigma, saved))
    baselines = saved.values - _sums.weights(problem, saved)

    @jax.checkpoint
    def total_of(start: Array, chunk: Array, kept: Array, inputs: Inputs) -> Array:
        x, sigma, *_ = inputs
        eps = _sampling.draw(problem, key, start, chunk.shape[0])
        eps = _sums.kept_samples(problem, key, eps, kept, saved)
        values = _sampling.evaluate(problem, inputs, eps)
        box = jnp.exp(_log_ratio(problem.noise, eps, x - x0, sigma, sigma0))[:, None]
        terms = values * box + chunk * (1 - box)
        return jnp.where(kept[:, None] > 0, terms, 0).sum(0)

    def step(total: Array, start: Array, count: int) -> tuple[Array, None]:
        chunk = jax.lax.dynamic_slice_in_dim(baselines, start, count)
        kept = jax.lax.dynamic_slice_in_dim(saved.kept, start, count)
        return total + total_of(start, chunk, kept, inputs), None

    total, _ = _sampling.fold(problem, step, jnp.zeros(problem.num_values, problem.dtype))
    return total / saved.kept.sum()


def _log_ratio(noise: Noise, eps: Array, moved: Array, sigma: Array, sigma0: Array) -> Array:
    """Returns log p(z | x, σ) − log p(z | x₀, σ₀) of z = x₀ + σ₀ ε (count, dim), 0 in value: (count,)."""
    scale, shift, log_scale = (
        jnp.broadcast_to(each, moved.shape)[None]
        for each in (sigma0 / sigma, moved / sigma, jnp.log(sigma / sigma0))
    )
    return (_log_density(noise, eps * scale - shift) - log_scale).sum(-1)
