"""The smoothed value in a form whose autodiff derivatives of every order are unbiased."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from esjax._core.rules import with_rule
from esjax.smoothing import _perturbing, _weights
from esjax.smoothing._perturbing import Args, Inputs, Problem
from esjax.smoothing._weights import Values

Array = jax.Array


def _log_density(score: Callable[[Args, Array], Array], args: Args, eps: Array) -> Array:
    """Log μ(ε), of which only the derivative −s(ε) is ever used: its value is given as 0."""

    def rule(inputs: Any, tangents: Any) -> Array:
        (args, eps), (_, eps_dot) = inputs, tangents
        return -score(args, eps) * eps_dot

    return with_rule(jnp.zeros_like(eps), rule, (args, eps))


def surrogate(problem: Problem, key: Any, inputs: Inputs, saved: Values) -> Array:
    """Returns the mean (num_values,) of the samples kept, differentiable in all inputs.

        (1/N) Σ_n f(z_n) box_n + b_n (1 − box_n),   box_n = p(z_n | x, σ) / p(z_n | x₀, σ₀)

    with samples z_n, baselines b_n, x₀ and σ₀ held constant: box_n is 1 in value, and its derivatives
    are those of the density (the magic box of Foerster et al. 2018, eq. 5; the baseline is that of
    Mao et al. 2019). ε of a moved x is ε σ₀/σ + (x₀ − x)/σ, so that the ε drawn is the ε scored.
    """
    constant, saved = jax.lax.stop_gradient((inputs, saved))
    num_kept = saved.kept.sum()
    is_none = num_kept == 0  # then NaN, to every order: a sum of nothing would have derivatives of 0
    baselines = saved.values - _weights.weights(problem, constant, saved)

    @jax.checkpoint
    def total_of(start: Array, chunk: Array, kept: Array, inputs: Inputs) -> Array:
        eps = _perturbing.draw(problem, key, constant, start, chunk.shape[0])
        eps = _weights.kept_samples(problem, eps, kept, saved)
        values = _perturbing.evaluate(problem, inputs, eps)
        box = jnp.exp(_log_ratio(problem, eps, inputs, constant))[:, None]
        terms = values * box + chunk * (1 - box)
        return jnp.where((kept[:, None] > 0) | is_none, terms, 0).sum(0)

    def step(total: Array, start: Array, count: int) -> tuple[Array, None]:
        chunk = jax.lax.dynamic_slice_in_dim(baselines, start, count)
        kept = jax.lax.dynamic_slice_in_dim(saved.kept, start, count)
        return total + total_of(start, chunk, kept, inputs), None

    total, _ = _perturbing.fold(problem, step, _perturbing.zeros(problem, key, problem.num_values))
    return total / jnp.where(is_none, jnp.nan, num_kept)


def _log_ratio(problem: Problem, eps: Array, inputs: Inputs, constant: Inputs) -> Array:
    """Returns log p(z | x, σ) − log p(z | x₀, σ₀) of z = x₀ + σ₀ ε (count, dim), 0 in value: (count,).

    Where x is infinite, so is z, whatever ε: such coordinates are left out.
    """
    (x, sigma, *_), (x0, sigma0, *args) = inputs, constant
    is_fixed = jnp.isinf(x0)
    moved = jnp.where(is_fixed, 0, x - jnp.where(is_fixed, 0, x0))
    scale, shift, log_scale = (
        jnp.broadcast_to(each, moved.shape)[None]
        for each in (sigma0 / sigma, moved / sigma, jnp.log(sigma / sigma0))
    )
    terms = _log_density(problem.score, tuple(args), eps * scale - shift) - log_scale
    return jnp.where(is_fixed[None], 0, terms).sum(-1)
