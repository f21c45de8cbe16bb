"""The smoothed value in a form whose autodiff derivatives of every order are unbiased."""

from typing import Any

import jax
import jax.numpy as jnp

from esjax.smoothing import _folding, _samples, _weights
from esjax.smoothing._inputs import Inputs
from esjax.smoothing._problem import Problem
from esjax.smoothing._weights import Values

Array = jax.Array


def surrogate(problem: Problem, key: Any, inputs: Inputs, saved: Values) -> Array:
    """Returns the mean (num_values,) of the samples kept, differentiable in all inputs.

        (1/N) Σ_n f(z_n) box_n + b_n (1 − box_n),   box_n = p(z_n | x, σ) / p(z_n | x₀, σ₀)

    with samples z_n, baselines b_n, x₀ and σ₀ held constant: box_n is 1 in value, and its derivatives
    are those of the density (the magic box of Foerster et al. 2018, eq. 5; the baseline is that of
    Mao et al. 2019). With credit it is so term by term, p being the density of what the term reads.
    """
    constant, saved = jax.lax.stop_gradient((inputs, saved))
    num_kept = saved.kept.sum()
    is_none = num_kept == 0  # then NaN, at every order: a sum of nothing would have derivatives of 0
    baselines = saved.values - _weights.weights(problem, constant, saved)
    counts = _samples.is_counted(problem, constant)[None]  # others may be NaN, and 0 times NaN is not 0

    @jax.checkpoint
    def total_of(start: Array, own_baselines: Array, kept: Array, inputs: Inputs) -> Array:
        drawn = _samples.draw(problem, key, constant, start, own_baselines.shape[0])
        drawn = _weights.kept_samples(problem, drawn, kept, saved)
        terms = _samples.evaluate(problem, inputs, drawn)
        log_ratio = problem.perturbing.log_ratio(inputs, constant, drawn)
        box = jnp.exp(problem.readers.by_term(log_ratio))
        boxed = _sound(counts, terms) * box + _sound(counts, own_baselines) * (1 - box)
        return jnp.where((kept[:, None] > 0) | is_none, boxed, 0).sum(0)

    def step(total: Array, start: Array, count: int) -> tuple[Array, None]:
        own_baselines = jax.lax.dynamic_slice_in_dim(baselines, start, count)
        kept = jax.lax.dynamic_slice_in_dim(saved.kept, start, count)
        return total + total_of(start, own_baselines, kept, _folding.on_own_device(problem, inputs)), None

    total, _ = _folding.fold(problem, step, _folding.zeros(problem, key, problem.num_terms))
    return _samples.combined(problem, inputs, total / jnp.where(is_none, jnp.nan, num_kept))


def _sound(counts: Array, terms: Array) -> Array:
    """Returns terms, with 0 for what is not finite and does not count.

    (Finite ones stay: where a slope is 0, its own derivative in args need not be.)
    """
    return jnp.where(counts | jnp.isfinite(terms), terms, 0)
