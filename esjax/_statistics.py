"""The report on a gradient, from the values of its samples and their noise, drawn once more."""

from typing import Any

import jax
import jax.numpy as jnp

from esjax import _sampling, _sums
from esjax._sampling import Inputs, Problem
from esjax._sums import Values
from esjax.diagnostics import Report

Array = jax.Array


def report(problem: Problem, key: Any, inputs: Inputs, saved: Values) -> Report:
    """Returns the report on the gradient in x that the samples give; no derivative goes through it.

    The gradient is a sum over independent groups j of a sampler, ĝ = Σ_j g_j / N: its variance is that
    of their mean, J / (J − 1) · (Σ_j ‖g_j‖² − ‖Σ_j g_j‖² / J) / N².
    """
    inputs, saved = jax.lax.stop_gradient((inputs, saved))
    weights = _sums.weights(problem, saved)
    num_kept = saved.kept.sum()
    group_totals = _group_totals(problem, saved.values - _sums.mean(saved)[None])
    num_groups = (_group_totals(problem, saved.kept[:, None]) > 0).sum().astype(problem.dtype)
    total, squares = _gradient_sums(problem, key, inputs, weights)
    at_input = _sums.block_at_input(problem, inputs, saved)
    sizes = jnp.sqrt((weights**2).sum(1))
    changed = ((saved.values != at_input[None]).any(1) & (saved.kept > 0)).astype(problem.dtype)
    between = num_groups / (num_groups - 1)
    return Report(
        num_samples=jnp.asarray(problem.num_samples, problem.dtype),
        num_discarded=problem.num_samples - num_kept,
        share_changed=changed.sum() / num_kept,
        effective_samples=sizes.sum() ** 2 / jnp.maximum((sizes**2).sum(), _TINY),
        bias=jnp.linalg.norm(_sums.mean(saved) - at_input),
        value_error=jnp.sqrt((group_totals**2).sum() * between) / num_kept,
        gradient_norm=jnp.linalg.norm(total) / num_kept,
        gradient_error=jnp.sqrt(jnp.maximum(squares - (total**2).sum() / num_groups, 0) * between) / num_kept,
    )


_TINY = 1e-30


def _group_totals(problem: Problem, rows: Array) -> Array:
    """Returns the sum over each group of rows (N, m): (J, m)."""
    size = problem.groups.size
    padded = jnp.pad(rows, [(0, -rows.shape[0] % size), (0, 0)])
    return padded.reshape(-1, size, rows.shape[1]).sum(1)


def _gradient_sums(problem: Problem, key: Any, inputs: Inputs, weights: Array) -> tuple[Array, Array]:
    """Returns Σ_j g_j (m, dim) and Σ_j ‖g_j‖² (), with g_j = Σ_{n in j} w_n s(ε_n) / σ."""
    size, width = problem.groups.size, problem.num_values
    sigma = inputs[1]

    def step(carry: Any, start: Array, count: int) -> tuple[Any, None]:
        total, squares = carry
        eps = _sampling.draw(problem, key, start, count)
        scores = problem.noise.score(eps) / jnp.broadcast_to(sigma, (problem.dim,))[None]
        chunk = jax.lax.dynamic_slice(weights, (start, 0), (count, width))
        padding = [(0, -count % size), (0, 0)]
        scores = jnp.pad(scores, padding).reshape(-1, size, problem.dim)
        chunk = jnp.pad(chunk, padding).reshape(-1, size, width)
        gradients = jnp.einsum("jnm,jnd->jmd", chunk, scores)
        return (total + gradients.sum(0), squares + (gradients**2).sum()), None

    carry = jnp.zeros((width, problem.dim), problem.dtype), jnp.zeros((), problem.dtype)
    return _sampling.fold(problem, step, carry)[0]
