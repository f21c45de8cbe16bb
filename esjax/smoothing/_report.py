"""The report on a gradient, from the values of its samples and their noise, drawn once more."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.products import einsum, matmul
from esjax.diagnostics import Report
from esjax.smoothing import _perturbing, _weights
from esjax.smoothing._perturbing import Inputs, Problem
from esjax.smoothing._weights import Values

Array = jax.Array

_TINY = 1e-30
"""In place of 0, to divide by."""


def report(problem: Problem, key: Any, inputs: Inputs, saved: Values) -> Report:
    """Returns the report on the gradient in x that the samples give; no derivative goes through it.

    The gradient is a sum over independent groups j of a sampler, ĝ = G / N, G = Σ_j g_j, whose shares
    p_j = n_j / N of the samples kept may differ. Of what each has beyond its share, the mean square is

        E Σ_j ‖g_j − p_j G‖² = N² error² (1 − Σ_j p_j²)

    where the variance of g_j is as n_j; the value's error is made likewise.
    """
    inputs, saved = jax.lax.stop_gradient((inputs, saved))
    weights = _weights.weights(problem, inputs, saved)
    num_kept = saved.kept.sum()
    shares = _perturbing.in_groups(saved.kept, problem.group_size).sum(1) / num_kept
    several = shares.max() < 1
    between = jnp.where(several, 1 / jnp.where(several, 1 - (shares**2).sum(), 1), jnp.nan)
    mean = _weights.mean(saved)
    centred = (saved.values - mean[None]) * saved.kept[:, None]
    group_totals = _perturbing.in_groups(centred, problem.group_size).sum(1)
    total, squares = _gradient_sums(problem, key, inputs, weights, saved.kept)
    at_input = _weights.block_at_input(problem, inputs, saved)
    sizes = jnp.sqrt((weights**2).sum(1))
    changed = (_differ(saved.values, at_input[None]).any(1) & (saved.kept > 0)).astype(problem.dtype)
    return Report(
        num_samples=jnp.asarray(problem.num_samples, problem.dtype),
        num_discarded=problem.num_samples - num_kept,
        share_changed=changed.sum() / num_kept,
        effective_samples=sizes.sum() ** 2 / jnp.maximum((sizes**2).sum(), _TINY),
        bias=jnp.linalg.norm(mean - at_input),
        value_error=jnp.sqrt((group_totals**2).sum() * between) / num_kept,
        gradient_norm=jnp.linalg.norm(total) / num_kept,
        gradient_error=jnp.sqrt(jnp.maximum(squares, 0) * between) / num_kept,
    )


def _differ(values: Array, at_input: Array) -> Array:
    """Returns where values differ by more than rounding: of many points at once, f may round otherwise."""
    rounding = 16 * np.finfo(values.dtype).eps * jnp.abs(at_input)
    return (values != at_input) & ~(jnp.abs(values - at_input) <= rounding)


def _gradient_sums(
    problem: Problem, key: Any, inputs: Inputs, weights: Array, kept: Array
) -> tuple[Array, Array]:
    """Returns G = Σ_j g_j (m, dim) and Σ_j ‖g_j − p_j G‖² (), with g_j = Σ_{n in j} w_n s(ε_n) / σ."""
    size, num_kept = problem.group_size, kept.sum()
    x, sigma, *_ = inputs
    sigma = jnp.broadcast_to(sigma, (problem.dim,))[None]
    is_fixed = jnp.isinf(x)[None]

    def step(carry: Any, start: Array, count: int) -> tuple[Any, None]:
        total, shared, squares, square_shares = carry
        eps = _perturbing.draw(problem, key, inputs, start, count)
        scores = jnp.where(is_fixed, 0, problem.score(inputs[2:], eps) / sigma)
        chunk = jax.lax.dynamic_slice_in_dim(weights, start, count)
        kept_here = jax.lax.dynamic_slice_in_dim(kept, start, count)
        share = _perturbing.in_groups(kept_here, size).sum(1) / num_kept
        of_sample = jnp.repeat(share, size)[:count, None]
        squared = _squared_sum(*(_perturbing.in_groups(rows, size) for rows in (chunk, scores)))
        return (
            total + matmul(chunk.T, scores),
            shared + matmul((chunk * of_sample).T, scores),
            squares + squared,
            square_shares + (share**2).sum(),
        ), None

    zeros = partial(_perturbing.zeros, problem, key)
    matrix = zeros(problem.num_values, problem.dim)
    sums, _ = _perturbing.fold(problem, step, (matrix, matrix, zeros(), zeros()))
    total, shared, squares, square_shares = sums
    return total, squares - 2 * (total * shared).sum() + square_shares * (total**2).sum()


def _squared_sum(weights: Array, scores: Array) -> Array:
    """Returns Σ_j ‖Σ_n w_jn ⊗ s_jn‖² for (J, n, m) and (J, n, dim), by the smaller of two arrays."""
    size, (m, dim) = weights.shape[1], (weights.shape[2], scores.shape[2])
    if size**2 <= m * dim:
        grams = (einsum("jam,jbm->jab", rows, rows) for rows in (weights, scores))
        return jnp.multiply(*grams).sum()
    return (einsum("jnm,jnd->jmd", weights, scores) ** 2).sum()
