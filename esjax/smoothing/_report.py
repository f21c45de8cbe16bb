"""The report on a gradient, from the values of its samples and their noise, drawn again."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esjax.diagnostics import Report
from esjax.smoothing import _folding, _samples, _sums, _weights
from esjax.smoothing._groups import in_groups
from esjax.smoothing._inputs import Inputs
from esjax.smoothing._problem import Problem
from esjax.smoothing._weights import Values

Array = jax.Array

_TINY = 1e-30
"""What to divide by in place of 0."""


def report(problem: Problem, key: Any, inputs: Inputs, saved: Values) -> Report:
    """Returns the report on the gradient in x that the samples give; no derivative goes through it.

    The gradient is a sum over independent groups j of a sampler, ĝ = G / N, G = Σ_j g_j, whose shares
    p_j = n_j / N of the samples kept may differ. The mean square of what each has beyond its share is

        E Σ_j ‖g_j − p_j G‖² = N² error² (1 − Σ_j p_j²)

    where the variance of g_j is proportional to n_j; the value's error is estimated likewise.
    """
    inputs, saved = jax.lax.stop_gradient((inputs, saved))
    weights = _weights.weights(problem, inputs, saved)
    num_kept = saved.kept.sum()
    shares = in_groups(saved.kept, problem.group_size).sum(1) / num_kept
    several = shares.max() < 1
    between = jnp.where(several, 1 / jnp.where(several, 1 - (shares**2).sum(), 1), jnp.nan)
    mean = _weights.mean(saved)
    centred = (saved.values - mean[None]) * saved.kept[:, None]
    group_totals = in_groups(centred, problem.group_size).sum(1)
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
    """Returns where values differ by more than rounding: at many points at once, f may round differently."""
    rounding = 16 * np.finfo(values.dtype).eps * jnp.abs(at_input)
    return (values != at_input) & ~(jnp.abs(values - at_input) <= rounding)


class _Squares(NamedTuple):
    """What a pass sums up, for groups j with shares p_j and sums g_j = Σ_{n in j} w_n s(ε_n) / σ.

    Attributes:
        total: σ Σ_j g_j (num_values, dim).
        shared: σ Σ_j p_j g_j (num_values, dim).
        squares: Σ_j ‖g_j‖², ().
        square_shares: Σ_j p_j², ().
    """

    total: Array
    shared: Array
    squares: Array
    square_shares: Array


def _gradient_sums(
    problem: Problem, key: Any, inputs: Inputs, weights: Array, kept: Array
) -> tuple[Array, Array]:
    """Returns G = Σ_j g_j (num_values, dim) and Σ_j ‖g_j − p_j G‖² ()."""
    size, num_kept = problem.group_size, kept.sum()

    def step(sums: _Squares, start: Array, count: int) -> tuple[_Squares, None]:
        drawn = _samples.draw(problem, key, inputs, start, count)
        chunk = jax.lax.dynamic_slice_in_dim(weights, start, count)
        kept_here = jax.lax.dynamic_slice_in_dim(kept, start, count)
        share = in_groups(kept_here, size).sum(1) / num_kept
        of_sample = jnp.repeat(share, size)[:count, None]
        rows = jnp.stack([chunk, chunk * of_sample]).swapaxes(1, 2)
        (total, shared), _ = problem.perturbing.weighted_scores((True, False), inputs, drawn, rows)
        squares = problem.perturbing.square_sum(inputs, drawn, chunk, size)
        return jax.tree.map(jnp.add, sums, _Squares(total, shared, squares, (share**2).sum())), None

    zeros = partial(_folding.zeros, problem, key)
    matrix = zeros(problem.num_values, problem.dim)
    sums, _ = _folding.fold(problem, step, _Squares(matrix, matrix, zeros(), zeros()))
    total, shared = (_sums.in_units_of_x(inputs, each) for each in (sums.total, sums.shared))
    apart = sums.squares - 2 * (total * shared).sum() + sums.square_shares * (total**2).sum()
    return total, apart
