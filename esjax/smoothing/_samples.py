"""The samples of a problem: perturbations drawn from the key, and the block's values at the perturbed x."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core import chunks, random
from esjax.smoothing._inputs import Inputs
from esjax.smoothing._perturbing import Perturbations
from esjax.smoothing._problem import Problem

Array = jax.Array


def draw(problem: Problem, key: Array, inputs: Inputs, start: Array, count: int) -> Perturbations:
    """Returns the perturbations (count, ...) of samples start, start + 1, ...; `start` begins a group."""
    size = problem.group_size
    num_groups = -(-count // size)
    groups = start // size + jnp.arange(num_groups, dtype=jnp.int32)
    key = problem.as_key(key)

    def draw_group(group: Array) -> Perturbations:
        return problem.perturbing.draw(inputs[2:], jax.random.fold_in(key, group))

    drawn = (
        jax.vmap(draw_group)(groups)
        if random.is_threefry(key)  # for others JAX does not promise that vmap draws what a loop does
        else jax.lax.map(draw_group, groups)
    )
    return jax.tree.map(lambda leaf: leaf.reshape(num_groups * size, *leaf.shape[2:])[:count], drawn)


def draw_once(problem: Problem, key: Array, inputs: Inputs, start: Array, count: int) -> Perturbations:
    """Returns what `draw` does, for several uses: a GPU would draw anew inside the sums of each."""
    kept_apart: Any = jax.lax.optimization_barrier  # JAX gives it no types
    return kept_apart(draw(problem, key, inputs, start, count))


def none_drawn(problem: Problem, key: Array, inputs: Inputs, *, empty: bool) -> Perturbations:
    """Returns zeros in place of one sample's perturbation or, if `empty`, arrays (0,) in place of its own."""
    group = jax.eval_shape(lambda data: problem.perturbing.draw(inputs[2:], problem.as_key(data)), key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(0 if empty else leaf.shape[1:], leaf.dtype), group)
    return chunks.varying_like(zeros, key)


def evaluate(problem: Problem, inputs: Inputs, perturbations: Perturbations) -> Array:
    """Returns the terms (count, num_terms) at the perturbed x, constant with respect to x and σ."""
    _, _, *args = inputs

    def value(perturbation: Perturbations) -> Array:
        z = jax.lax.stop_gradient(problem.perturbing.at(inputs, perturbation))
        return problem.fun(z, tuple(args))

    return chunks.over(value, problem.evaluated_at_once, perturbations)


def combined(problem: Problem, inputs: Inputs, terms: Array) -> Array:
    """Returns the values (..., num_values) that terms (..., num_terms) make."""
    if problem.combine is None:
        return terms
    combine = partial(problem.combine, tuple(inputs[2:]))
    return combine(terms) if terms.ndim == 1 else jax.vmap(combine)(terms)


def term_cotangent(problem: Problem, inputs: Inputs, cotangent: Array) -> Array:
    """Returns the cotangent of the terms (num_terms,) that belongs to one of the values (num_values,)."""
    if problem.combine is None:
        return cotangent
    zeros = chunks.varying_like(jnp.zeros(problem.num_terms, problem.dtype), (cotangent, inputs))
    values, pull = jax.vjp(lambda terms: combined(problem, inputs, terms), zeros)
    return pull(chunks.varying_like(cotangent, values))[0]


def scaled(weights: Array, of_terms: Array) -> Array:
    """Returns weights times slopes, both (..., num_terms), 0 where a slope is 0 and a weight NaN."""
    slopes = of_terms.reshape(*(1,) * (weights.ndim - of_terms.ndim), *of_terms.shape)
    return jnp.where(slopes == 0, 0, weights * slopes)


def is_counted(problem: Problem, inputs: Inputs) -> Array:
    """Returns which terms (num_terms,) any value depends on: a mask in args may leave some out.

    (Cotangents of no simple ratio: what a term is to several values does not cancel.)
    """
    generic = np.random.RandomState(0).uniform(1, 2, problem.num_values)
    return term_cotangent(problem, inputs, jnp.asarray(generic, problem.dtype)) != 0


def at_input(problem: Problem, inputs: Inputs) -> Array:
    """Returns f(x) in terms (num_terms,), constant; zeros where the baseline does not ask for it."""
    if problem.at_input is None:
        return jnp.zeros(problem.num_terms, problem.dtype)
    x, _, *args = inputs
    return jax.lax.stop_gradient(problem.fun(x, tuple(args)))
