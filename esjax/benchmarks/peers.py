"""Estimators side by side, each as `(problem, num_samples) -> ((key, x) -> (value, gradient))`."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from evosax.algorithms import Open_ES
from optax import perturbations

import esjax
from esjax.benchmarks.problems import Problem

with warnings.catch_warnings():  # jaxopt's: it is no longer maintained
    warnings.simplefilter("ignore", DeprecationWarning)
    from jaxopt import perturbations as jaxopt_perturbations

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


def with_options(problem: Problem, num_samples: int, **names: str) -> ValueAndGradient:
    """This library's defaults but for some options, each by its name in the room of that option."""
    rooms = {"sampler": esjax.samplers, "credit": esjax.credit}
    return _esjax(
        problem, num_samples, **{option: getattr(rooms[option], name) for option, name in names.items()}
    )


def value_only(problem: Problem, num_samples: int) -> Callable[[Any, Array], Array]:
    """This library's value, without a gradient: its own draws, and the evaluations."""
    return esjax.smooth(problem.fun, sigma=problem.sigma, num_samples=num_samples)


def floor(problem: Problem, num_samples: int, at_once: int = 32) -> Callable[[Any, Array], Array]:
    """The mean of N evaluations at draws of `jax.random.normal`, in parts that fit the cache; no gradient."""

    def run(key: Any, x: Array) -> Array:
        def step(total: Array, key: Any) -> tuple[Array, None]:
            eps = jax.random.normal(key, (at_once, x.size))
            return total + jax.vmap(problem.fun)(x + problem.sigma * eps).sum(), None

        keys = jax.random.split(key, num_samples // at_once)
        return jax.lax.scan(step, jnp.float32(0), keys)[0] / num_samples

    return run


def optax_normal(problem: Problem, num_samples: int) -> ValueAndGradient:
    """`optax.perturbations` with its normal noise and its own default, the baseline at the input."""
    return jax.value_and_grad(optax_perturbed(problem.fun, num_samples, problem.sigma), argnums=1)


def optax_no_baseline(problem: Problem, num_samples: int) -> ValueAndGradient:
    """`optax.perturbations` with normal noise and without baseline."""
    perturbed = optax_perturbed(problem.fun, num_samples, problem.sigma, use_baseline=False)
    return jax.value_and_grad(perturbed, argnums=1)


def optax_perturbed(
    fun: Callable[..., Any], num_samples: int, sigma: float, *, noise: Any = None, **options: Any
) -> Callable[..., Any]:
    """Returns `fun` as `optax.perturbations` perturbs it, with normal noise unless another is given."""
    noise = noise or perturbations.Normal()
    return perturbations.make_perturbed_fun(fun, num_samples, sigma, noise, **options)


def jaxopt_normal(problem: Problem, num_samples: int) -> ValueAndGradient:
    """`jaxopt.perturbations` with normal noise and its control variate, which is f(x)."""
    perturbed = jaxopt_perturbations.make_perturbed_fun(
        problem.fun, num_samples, problem.sigma, jaxopt_perturbations.Normal(), control_variate=True
    )
    return jax.value_and_grad(lambda key, x: perturbed(x, key), argnums=1)


def open_es(problem: Problem, num_samples: int) -> ValueAndGradient:
    """The gradient inside evosax's OpenES: antithetic pairs, the values as they are."""
    strategy = Open_ES(
        num_samples,
        problem.x,
        optimizer=optax.trace(decay=0.0),  # keeps the last gradient
        std_schedule=optax.constant_schedule(problem.sigma),
        fitness_shaping_fn=lambda population, fitness, state, params: fitness,
    )
    options = strategy.default_params

    def value_and_gradient(key: Any, x: Array) -> tuple[Array, Array]:
        init_key, ask_key, tell_key = jax.random.split(key, 3)
        state = strategy.init(init_key, x, options).replace(mean=x)
        population, state = strategy.ask(ask_key, state, options)
        values = jax.vmap(problem.fun)(population)
        state, _ = strategy.tell(tell_key, population, values, state, options)
        return values.mean(), state.opt_state.trace

    return value_and_gradient


def _esjax(problem: Problem, num_samples: int, **options: Any) -> ValueAndGradient:
    smoothed = esjax.smooth(problem.fun, sigma=problem.sigma, num_samples=num_samples, **options)
    return jax.value_and_grad(smoothed, argnums=1)


# --- Jacobians of blocks (n,) -> (n,): `(key, x) -> (n, n)` ---------------------------------------------

Jacobian = Callable[[Any, Array], Array]
_OPTAX_NOISES: dict[str, Any] = {"normal": perturbations.Normal(), "gumbel": perturbations.Gumbel()}


def esjax_jacobian(
    fun: Callable[[Array], Array], noise: str, sigma: float, num_samples: int, **options: Any
) -> Jacobian:
    """This library's defaults, or `options`."""
    options["noise"] = getattr(esjax.noise, noise)
    return jax.jacrev(esjax.smooth(fun, sigma=sigma, num_samples=num_samples, **options), argnums=1)


def optax_jacobian(
    fun: Callable[[Array], Array], noise: str, sigma: float, num_samples: int
) -> Jacobian | None:
    """`optax.perturbations` with its default baseline; None where it lacks the noise."""
    if noise not in _OPTAX_NOISES:
        return None
    return jax.jacrev(optax_perturbed(fun, num_samples, sigma, noise=_OPTAX_NOISES[noise]), argnums=1)


def jaxopt_jacobian(
    fun: Callable[[Array], Array], noise: str, sigma: float, num_samples: int
) -> Jacobian | None:
    """`jaxopt.perturbations` with its control variate; None where it lacks the noise."""
    noises = {"normal": jaxopt_perturbations.Normal(), "gumbel": jaxopt_perturbations.Gumbel()}
    if noise not in noises:
        return None
    perturbed = jaxopt_perturbations.make_perturbed_argmax(
        fun, num_samples, sigma, noises[noise], control_variate=True
    )
    slope = jax.jacrev(perturbed)
    return lambda key, x: slope(x, key)
