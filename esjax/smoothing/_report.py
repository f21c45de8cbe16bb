"""The report on a gradient, from the values of its samples and their noise, drawn again."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esjax.diagnostics import Report
from esjax.smoothing import _folding, _samples, _stand_in, _sums, _weights
from esjax.smoothing._groups import in_groups
from esjax.smoothing._inputs import Inputs
from esjax.smoothing._perturbing import Perturbations
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
    mean = _samples.combined(problem, inputs, _weights.mean(saved))
    values = _samples.combined(problem, inputs, saved.values)
    centred = (values - mean[None]) * saved.kept[:, None]
    group_totals = in_groups(centred, problem.group_size).sum(1)
    slopes = None if problem.combine is None else _slopes(problem, inputs)
    total, squares = _gradient_sums(problem, key, inputs, weights, saved.kept, slopes)
    taken, explained = _explained(problem, key, inputs, saved, total)
    at_input = _weights.block_at_input(problem, inputs, saved)
    sizes = _sizes(weights, slopes)
    changed = (_differ(values, at_input[None]).any(1) & (saved.kept > 0)).astype(problem.dtype)
    return Report(
        num_samples=jnp.asarray(problem.num_samples, problem.dtype),
        num_discarded=problem.num_samples - num_kept,
        share_changed=changed.sum() / num_kept,
        effective_samples=sizes.sum() ** 2 / jnp.maximum((sizes**2).sum(), _TINY),
        bias=jnp.linalg.norm(mean - at_input),
        value_error=jnp.sqrt((group_totals**2).sum() * between) / num_kept,
        gradient_norm=jnp.linalg.norm(total - taken) / num_kept,
        gradient_error=jnp.sqrt(jnp.maximum(squares * (1 - explained), 0) * between) / num_kept,
        share_credited=jnp.asarray(_share_credited(problem), problem.dtype),
        share_explained=explained,
    )


def _explained(
    problem: Problem, key: Any, inputs: Inputs, saved: Values, total: Array
) -> tuple[Array, Array]:
    """Returns what a stand-in takes off G, as `total` is, and which share of its variance that explains."""
    if problem.control is None:
        return jnp.zeros_like(total), jnp.zeros((), problem.dtype)
    wanted = (True, *[False] * (len(inputs) - 1))

    def of_value(cotangent: Array) -> tuple[Array, tuple[Array, Array]]:
        halves = _sums.halves_from_values(problem, wanted, key, inputs, saved, cotangent)
        assert halves is not None
        return _stand_in.correction(problem, halves)[0], _stand_in.explained(problem, halves)

    taken, (whole, less) = jax.lax.map(of_value, jnp.eye(problem.num_values, dtype=problem.dtype))
    taken = _sums.in_units_of_x(inputs, taken)
    if problem.has_credit:
        terms, coordinates = problem.readers.pairs
        taken = taken[terms, coordinates] if problem.combine is None else taken.ravel()
    return taken, jnp.where(whole.sum() > 0, less.sum() / jnp.where(whole.sum() > 0, whole.sum(), 1), 0)


def _sizes(weights: Array, slopes: Array | None) -> Array:
    """Returns √(Σ_t c_t² w_nt²) (num_samples,), where c_t² sums squares of the slopes of values in term t."""
    if slopes is None:
        return jnp.sqrt((weights**2).sum(1))
    return jnp.sqrt(jnp.where((slopes == 0).all(0)[None], 0, weights**2 * (slopes**2).sum(0)[None]).sum(1))


def _slopes(problem: Problem, inputs: Inputs) -> Array:
    """Returns the slopes of the values in the terms (num_values, num_terms)."""
    zeros = jnp.zeros(problem.num_terms, problem.dtype)
    return jax.jacrev(partial(_samples.combined, problem, inputs))(zeros)


def _share_credited(problem: Problem) -> float:
    """Returns how many of all pairs of a term and a coordinate are kept."""
    return problem.readers.num_pairs / max(problem.num_terms * problem.dim, 1)


def _differ(values: Array, at_input: Array) -> Array:
    """Returns where values differ by more than rounding: at many points at once, f may round differently."""
    rounding = 16 * np.finfo(values.dtype).eps * jnp.abs(at_input)
    return (values != at_input) & ~(jnp.abs(values - at_input) <= rounding)


class _Squares(NamedTuple):
    """What a pass sums up, for groups j with shares p_j and sums g_j = Σ_{n in j} w_n s(ε_n) / σ.

    Attributes:
        total: Σ_j g_j, times σ without credit: (num_values, dim), with credit a vector of what is not 0.
        shared: Σ_j p_j g_j, likewise.
        squares: Σ_j ‖g_j‖², ().
        square_shares: Σ_j p_j², ().
    """

    total: Array
    shared: Array
    squares: Array
    square_shares: Array


def _gradient_sums(
    problem: Problem, key: Any, inputs: Inputs, weights: Array, kept: Array, slopes: Array | None
) -> tuple[Array, Array]:
    """Returns G = Σ_j g_j, (num_values, dim) or what of it is not 0, and Σ_j ‖g_j − p_j G‖² ()."""
    size, num_kept = problem.group_size, kept.sum()
    of_chunk = partial(_with_credit, slopes) if problem.has_credit else _without_credit

    def step(sums: _Squares, start: Array, count: int) -> tuple[_Squares, None]:
        drawn = _samples.draw(problem, key, inputs, start, count)
        chunk = jax.lax.dynamic_slice_in_dim(weights, start, count)
        kept_here = jax.lax.dynamic_slice_in_dim(kept, start, count)
        share = in_groups(kept_here, size).sum(1) / num_kept
        of_sample = jnp.repeat(share, size)[:count, None]
        total, shared, squares = of_chunk(problem, inputs, drawn, chunk, of_sample)
        return jax.tree.map(jnp.add, sums, _Squares(total, shared, squares, (share**2).sum())), None

    zeros = partial(_folding.zeros, problem, key)
    matrix = zeros(*_shape(problem))
    sums, _ = _folding.fold(problem, step, _Squares(matrix, matrix, zeros(), zeros()))
    total, shared = sums.total, sums.shared
    if not problem.has_credit:
        total, shared = (_sums.in_units_of_x(inputs, each) for each in (total, shared))
    apart = sums.squares - 2 * (total * shared).sum() + sums.square_shares * (total**2).sum()
    return total, apart


def _shape(problem: Problem) -> tuple[int, ...]:
    if not problem.has_credit:
        return problem.num_values, problem.dim
    return (problem.readers.num_pairs if problem.combine is None else problem.num_values * problem.dim,)


def _without_credit(
    problem: Problem, inputs: Inputs, drawn: Perturbations, weights: Array, of_sample: Array
) -> tuple[Array, Array, Array]:
    """Returns a chunk's share of total, shared and squares; `of_sample` (count, 1) are the p_j."""
    rows = jnp.stack([weights, weights * of_sample]).swapaxes(1, 2)[..., None]
    (total, shared), _ = problem.perturbing.weighted_scores((True, False), inputs, drawn, rows)
    return total, shared, problem.perturbing.square_sum(inputs, drawn, weights, problem.group_size)


def _with_credit(
    slopes: Array | None,
    problem: Problem,
    inputs: Inputs,
    drawn: Perturbations,
    weights: Array,
    of_sample: Array,
) -> tuple[Array, Array, Array]:
    """Returns the same, where what a sample adds to the gradient is w_n s(ε_n) / σ along pairs."""
    scores = problem.perturbing.scores(inputs, drawn)
    if slopes is None:
        terms, coordinates = problem.readers.pairs
        added = weights[:, terms] * scores[:, coordinates]
    else:
        by_value = problem.readers.by_coordinate(_samples.scaled(weights[:, None], slopes))
        added = (by_value * scores[:, None]).reshape(len(scores), -1)
    of_groups = in_groups(added, problem.group_size).sum(1)
    return added.sum(0), (added * of_sample).sum(0), (of_groups**2).sum()
