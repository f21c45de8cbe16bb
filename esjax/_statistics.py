"""The report on a gradient, from the values of its samples and their noise, drawn once more."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax import _sampling, _sums
from esjax._products import einsum, matmul
from esjax._sampling import Inputs, Problem
from esjax._sums import Values
from esjax.diagnostics import Report

Array = jax.Array

_TINY = 1e-30
"""In place of 0, to divide by."""


def report(problem: Problem, key: Any, inputs: Inputs, saved: Values) -> Report:
    """Returns the report on the gradient in x that the samples give; no derivative goes through it.

    The gradient is a sum over independent groups j of a sampler, ĝ = Σ_j g_j / N: its variance is that
    of their mean, J / (J − 1) · (Σ_j ‖g_j‖² − ‖Σ_j g_j‖² / J) / N².
    """
    inputs, saved = jax.lax.stop_gradient((inputs, saved))
    weights = _sums.weights(problem, saved)
    num_kept = saved.kept.sum()
    mean = _sums.mean(saved)
    centred = (saved.values - mean[None]) * saved.kept[:, None]
    group_totals = _sampling.in_groups(centred, problem.groups.size).sum(1)
    num_groups = _sampling.in_groups(saved.kept, problem.groups.size).any(1).astype(problem.dtype).sum()
    total, squares = _gradient_sums(problem, key, inputs, weights)
    at_input = _sums.block_at_input(problem, inputs, saved)
    sizes = jnp.sqrt((weights**2).sum(1))
    changed = (_differ(saved.values, at_input[None]).any(1) & (saved.kept > 0)).astype(problem.dtype)
    between = jnp.where(num_groups > 1, num_groups / (num_groups - 1), jnp.nan)
    return Report(
        num_samples=jnp.asarray(problem.num_samples, problem.dtype),
        num_discarded=problem.num_samples - num_kept,
        share_changed=changed.sum() / num_kept,
        effective_samples=sizes.sum() ** 2 / jnp.maximum((sizes**2).sum(), _TINY),
        bias=jnp.linalg.norm(mean - at_input),
        value_error=jnp.sqrt((group_totals**2).sum() * between) / num_kept,
        gradient_norm=jnp.linalg.norm(total) / num_kept,
        gradient_error=jnp.sqrt(jnp.maximum(squares - (total**2).sum() / num_groups, 0) * between) / num_kept,
    )


def _differ(values: Array, at_input: Array) -> Array:
    """Returns where values differ by more than rounding: of many points at once, f may round otherwise."""
    rounding = 16 * np.finfo(values.dtype).eps * jnp.abs(at_input)
    return (values != at_input) & ~(jnp.abs(values - at_input) <= rounding)


def _gradient_sums(problem: Problem, key: Any, inputs: Inputs, weights: Array) -> tuple[Array, Array]:
    """Returns Σ_j g_j (m, dim) and Σ_j ‖g_j‖² (), with g_j = Σ_{n in j} w_n s(ε_n) / σ."""
    size = problem.groups.size
    sigma = jnp.broadcast_to(inputs[1], (problem.dim,))[None]

    def step(carry: Any, start: Array, count: int) -> tuple[Any, None]:
        total, squares = carry
        eps = _sampling.draw(problem, key, start, count)
        scores = problem.noise.score(eps) / sigma
        chunk = jax.lax.dynamic_slice_in_dim(weights, start, count)
        squared = _squared_sum(*(_sampling.in_groups(rows, size) for rows in (chunk, scores)))
        return (total + matmul(chunk.T, scores), squares + squared), None

    carry = jnp.zeros((problem.num_values, problem.dim), problem.dtype), jnp.zeros((), problem.dtype)
    return _sampling.fold(problem, step, carry)[0]


def _squared_sum(weights: Array, scores: Array) -> Array:
    """Returns Σ_j ‖Σ_n w_jn ⊗ s_jn‖² for (J, n, m) and (J, n, dim), by the smaller of two arrays."""
    size, (m, dim) = weights.shape[1], (weights.shape[2], scores.shape[2])
    if size**2 <= m * dim:
        grams = (einsum("jam,jbm->jab", rows, rows) for rows in (weights, scores))
        return jnp.multiply(*grams).sum()
    return (einsum("jnm,jnd->jmd", weights, scores) ** 2).sum()
