"""Estimators side by side, each as `(problem, num_samples) -> ((key, x) -> (value, gradient))`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from optax import perturbations

import esjax
from esjax.benchmarks.problems import Labelled, Problem

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


# --- accuracy and macro-F1 of a batch: `(key, logits) -> (value, gradient)` -----------------------------


def accuracy_plain(batch: Labelled, num_samples: int) -> ValueAndGradient:
    """The plain algorithm for each example by itself."""
    smoothed = esjax.smooth(
        esjax.blocks.accuracy,
        sigma=batch.sigma,
        num_samples=num_samples,
        sampler=esjax.samplers.iid,
        baseline=esjax.baselines.none,
    )

    def value(logits: Array, key: Any) -> Array:
        keys = jax.random.split(key, batch.labels.size)
        return jax.vmap(smoothed)(keys, logits, batch.labels).mean()

    return lambda key, logits: jax.value_and_grad(value)(logits, key)


def accuracy_exact(batch: Labelled) -> ValueAndGradient:
    """The closed form; the key goes unused."""

    def value(logits: Array) -> Array:
        return esjax.exact.accuracy(logits, batch.labels, batch.sigma).mean()

    return lambda key, logits: jax.value_and_grad(value)(logits)


def f1_sampled(batch: Labelled, num_samples: int, baseline: esjax.baselines.Baseline) -> ValueAndGradient:
    """Macro-F1 of a batch whose logits are all perturbed together."""

    def fun(logits: Array) -> Array:
        return _f1(batch, logits.argmax(-1))

    smoothed = esjax.smooth(
        fun, sigma=batch.sigma, num_samples=num_samples, sampler=esjax.samplers.iid, baseline=baseline
    )
    return jax.value_and_grad(smoothed, argnums=1)


def f1_decided(batch: Labelled, num_samples: int, estimator: esjax.decisions.Estimator) -> ValueAndGradient:
    """Macro-F1 of a batch whose decisions are sampled."""
    smoothed = esjax.smooth_decisions(
        partial(_f1, batch),
        decision=esjax.decisions.argmax,
        sigma=batch.sigma,
        num_samples=num_samples,
        estimator=estimator,
    )
    return jax.value_and_grad(smoothed, argnums=1)


def _f1(batch: Labelled, predicted: Array) -> Array:
    return esjax.blocks.f1(predicted, batch.labels, num_classes=batch.logits.shape[1])
