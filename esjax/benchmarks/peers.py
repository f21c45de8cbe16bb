"""Estimators side by side, each as `(problem, num_samples) -> ((key, x) -> (value, gradient))`."""

from collections.abc import Callable
from typing import Any

import jax
from optax import perturbations

import esjax
from esjax.benchmarks.problems import Problem

Array = jax.Array
ValueAndGradient = Callable[[Any, Array], tuple[Array, Array]]
Peer = Callable[[Problem, int], ValueAndGradient]


def plain(problem: Problem, num_samples: int) -> ValueAndGradient:
    """The plain algorithm: independent draws, no baseline."""
    return _esjax(problem, num_samples, sampler=esjax.samplers.iid, baseline=esjax.baselines.none)


def auto(problem: Problem, num_samples: int) -> ValueAndGradient:
    """This library's defaults."""
    return _esjax(problem, num_samples)


def antithetic(problem: Problem, num_samples: int) -> ValueAndGradient:
    """Pairs (ε, −ε), with the default baseline."""
    return _esjax(problem, num_samples, sampler=esjax.samplers.antithetic)


def optax_normal(problem: Problem, num_samples: int) -> ValueAndGradient:
    """`optax.perturbations` with its normal noise and its own default, the baseline at the input."""
    perturbed = perturbations.make_perturbed_fun(
        problem.fun, num_samples=num_samples, sigma=problem.sigma, noise=perturbations.Normal()
    )
    return jax.value_and_grad(perturbed, argnums=1)


def optax_no_baseline(problem: Problem, num_samples: int) -> ValueAndGradient:
    """`optax.perturbations` with normal noise and without baseline."""
    perturbed = perturbations.make_perturbed_fun(
        problem.fun, num_samples, problem.sigma, perturbations.Normal(), use_baseline=False
    )
    return jax.value_and_grad(perturbed, argnums=1)


def _esjax(problem: Problem, num_samples: int, **options: Any) -> ValueAndGradient:
    smoothed = esjax.smooth(problem.fun, sigma=problem.sigma, num_samples=num_samples, **options)
    return jax.value_and_grad(smoothed, argnums=1)
