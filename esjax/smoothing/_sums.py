"""The first-order sums: values of f and scores of ε turned into a value and its gradients.

Blocks with one value and an affine baseline are summed in one pass, in which no noise is kept and none
drawn again. Others keep their N × num_values values, and draw the noise again for the gradients.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from esjax._core import chunks
from esjax._core.products import sum_rows
from esjax.smoothing import _folding, _samples, _stand_in, _weights
from esjax.smoothing._inputs import Gradients, Inputs, Wanted, join, split, spread
from esjax.smoothing._perturbing import Perturbations
from esjax.smoothing._problem import Problem
from esjax.smoothing._stand_in import Halves
from esjax.smoothing._weights import Values

Array = jax.Array

_FIRST = 8
"""Samples whose mean is taken off all others."""


def one_pass(problem: Problem) -> bool:
    """Whether the gradients can be summed while f is evaluated.

    (Not where a gradient is a sum over devices, each of which has a cotangent of its own.)
    """
    affine = problem.discard is None and problem.transform is None
    return problem.num_values == 1 and affine and problem.is_uniform and problem.informs is None


# --- one value: one pass -----------------------------------------------------------------------------


class _Sums(NamedTuple):
    """What one pass over the samples carries, with weights of the scores around a common offset.

    Attributes:
        offset: what is taken off all values, (num_terms,).
        centred: Σ (f_n − offset), (num_terms,).
        own: of x and σ, each (size,): Σ (f_n − offset − own S_group + rest_n) s_n.
        total: of x and σ, each (size,): Σ total s_n.
        args: Σ ∂f_n/∂args.
        halves: what a stand-in needs, of values less the offset; None: there is none.
    """

    offset: Array
    centred: Array
    own: list[Any]
    total: list[Any]
    args: tuple[Any, ...]
    halves: Halves | None


def value_and_gradients(
    problem: Problem, wanted: Wanted, key: Any, inputs: Inputs
) -> tuple[Array, Gradients]:
    """Returns the mean (1,) and the gradients of a block with one value.

    The weight of a score is f_n − b_n = (f_n − own S_group) − total S − share f(x), with S = Σ f known only
    at the end. So two sums are carried: Σ (f_n − own S_group) s_n and Σ total s_n. An offset is taken off all
    values, which float32 needs: f(x) where the baseline has a share of it, else, where an offset drops out,
    the mean of a device's first few. All of it is done term by term, c = ∂value/∂terms times each.
    """
    f_x = _samples.at_input(problem, inputs)
    centres = problem.averages and problem.at_input is None
    one = jnp.ones(1, problem.dtype)
    credited = _credited(problem, inputs, one)

    def scores_of(drawn: Perturbations, own: Array, total: Array) -> tuple[list[Any], list[Any]]:
        of = partial(problem.perturbing.weighted_scores, wanted, inputs, drawn)
        if own.shape[1] == 1:  # both in one product
            both = of(jnp.stack([own, total[:, None]]))
            return jax.tree.map(lambda rows: rows[0], both), jax.tree.map(lambda rows: rows[1], both)
        return of(own), of(jnp.broadcast_to(total[:, None], own.shape) if wanted[1] else total[:, None])

    def halves_of(drawn: Perturbations, start: Array, centred: Array) -> Halves:
        kept = jnp.ones(len(centred), problem.dtype)
        return _stand_in.of_chunk(problem, wanted, inputs, drawn, start, kept, one, centred)

    def step(sums: _Sums, start: Array, count: int) -> tuple[_Sums, None]:
        drawn = _samples.draw_once(problem, key, inputs, start, count)
        cotangents = jnp.ones((count, 1), problem.dtype)
        terms, in_args = _terms_and_args_gradients(problem, wanted, inputs, drawn, cotangents)
        is_first = start % _folding.samples_of_device(problem) == 0
        offset = jnp.where(is_first, _finite(terms[:_FIRST].mean(0)), sums.offset) if centres else sums.offset
        centred = terms - offset[None]
        own, total = _weights.partial_weights(problem, inputs, centred, f_x)
        found = _Sums(
            offset,
            sum_rows(centred),
            *scores_of(drawn, credited(own), total),
            in_args,
            None if sums.halves is None else halves_of(drawn, start, credited(centred)),
        )
        return jax.tree.map(jnp.add, sums, found)._replace(offset=offset), None

    zeros = _folding.zeros(problem, key, problem.num_terms)
    score_zeros = _score_zeros(problem, wanted, key, inputs)
    halves = _no_halves(problem, wanted, key, inputs)
    args_zeros = _args_zeros(wanted, inputs)
    nothing = _Sums(zeros + _finite(f_x), zeros, score_zeros, score_zeros, args_zeros, halves)
    with_total = partial(_with_total, problem, inputs, credited, centres)
    (value, score_sums, args_sums, halves), _ = _folding.fold(problem, step, nothing, with_total)
    if halves is not None:
        halves = _stand_in.where_read(problem, inputs, one, halves)
    score_sums = _less_explained(problem, score_sums, halves)
    return value, _gradients(inputs, score_sums, args_sums, problem.num_samples)


def _with_total(
    problem: Problem, inputs: Inputs, credited: Callable[[Array], Array], centres: bool, sums: _Sums
) -> Any:
    """Returns what is left to be added up over devices, with S and with a common offset put in."""
    shift: Any = sums.offset - _folding.mean_over_devices(problem, sums.offset) if centres else 0
    centred = sums.centred + shift * _folding.samples_of_device(problem)
    centred_sum = _folding.sum_over_devices(problem, centred)
    complete = partial(_weights.completed, num_samples=problem.num_samples, credited=credited)
    scores = jax.tree.map(lambda *both: complete(both, shift, centred_sum), sums.own, sums.total)
    halves = sums.halves
    if halves is not None and centres:
        halves = _stand_in.moved(halves, credited(shift))
    mean = sums.offset + sums.centred / _folding.samples_of_device(problem)
    share = _folding.samples_of_device(problem) / problem.num_samples
    return _samples.combined(problem, inputs, mean) * share, scores, sums.args, halves


# --- several values, discarded samples, ranks: two passes --------------------------------------------


class _Found(NamedTuple):
    """Whether any sample was kept so far, (), and the perturbation of the first."""

    any: Array
    sound: Perturbations


def value_and_values(
    problem: Problem, key: Any, inputs: Inputs, *, for_derivatives: bool
) -> tuple[Array, Values]:
    """Returns the mean (num_values,) over the samples kept, and the terms of all.

    `for_derivatives`: whether the block will be differentiated at the samples, which needs a sound one.
    """
    finds = for_derivatives and problem.discard is not None

    def step(found: _Found, start: Array, count: int) -> tuple[_Found, tuple[Array, Array]]:
        own_inputs = _folding.on_own_device(problem, inputs)
        drawn = _samples.draw(problem, key, own_inputs, start, count)
        terms, kept = _weights.kept_terms(problem, own_inputs, drawn)
        if finds:
            first = kept.argmax().astype(jnp.int32)
            sound = jax.tree.map(lambda old, new: jnp.where(found.any, old, new[first]), found.sound, drawn)
            found = _Found(found.any | kept.any(), sound)
        return found, (terms, kept)

    def common(found: _Found) -> Perturbations:
        return _folding.of_first_device(problem, found.any, found.sound)

    nowhere = _samples.none_drawn(problem, key, inputs, empty=not finds)
    nothing = _Found(chunks.varying_like(jnp.zeros((), bool), key), nowhere)
    sound, (terms, kept) = _folding.fold(problem, step, nothing, common)
    saved = Values(terms, kept, _samples.at_input(problem, inputs), sound)
    return _samples.combined(problem, inputs, _weights.mean(saved)), saved


def gradients_from_values(
    problem: Problem, wanted: Wanted, key: Any, inputs: Inputs, saved: Values, cotangent: Array
) -> Gradients:
    """Draws the noise again, chunk by chunk, and weights its scores with ⟨cotangent, f_n − b_n⟩."""
    of_terms = _samples.term_cotangent(problem, inputs, cotangent)
    by_term = _samples.scaled(_weights.weights(problem, inputs, saved), of_terms)
    by_term = by_term if problem.has_credit else by_term.sum(1, keepdims=True)

    def step(carry: Any, start: Array, count: int) -> tuple[Any, None]:
        score_sums, args_sums = carry
        own_inputs, values = _folding.on_own_device(problem, (inputs, saved))
        drawn = _samples.draw_once(problem, key, own_inputs, start, count)
        weights = problem.readers.by_coordinate(jax.lax.dynamic_slice_in_dim(by_term, start, count))
        scores = problem.perturbing.weighted_scores(wanted, own_inputs, drawn, weights)
        score_sums = jax.tree.map(jnp.add, score_sums, scores)
        if any(wanted[2:]):
            kept = jax.lax.dynamic_slice_in_dim(values.kept, start, count)
            cotangents = kept[:, None] * cotangent[None]
            drawn = _weights.kept_samples(problem, drawn, kept, values)
            _, in_args = _terms_and_args_gradients(problem, wanted, own_inputs, drawn, cotangents)
            args_sums = jax.tree.map(jnp.add, args_sums, in_args)
        return (score_sums, args_sums), None

    carry = (_score_zeros(problem, wanted, key, inputs), _args_zeros(wanted, inputs))
    (score_sums, args_sums), _ = _folding.fold(problem, step, carry)
    halves = halves_from_values(problem, wanted, key, inputs, saved, cotangent)
    score_sums = _less_explained(problem, score_sums, halves)
    return _gradients(inputs, score_sums, args_sums, saved.kept.sum())


def halves_from_values(
    problem: Problem, wanted: Wanted, key: Any, inputs: Inputs, saved: Values, cotangent: Array
) -> Halves | None:
    """Returns what a stand-in needs for one cotangent of the values; None where there is none."""
    nothing = _no_halves(problem, wanted, key, inputs)
    if nothing is None:
        return None
    of_terms = _samples.term_cotangent(problem, inputs, cotangent)
    offset = _weights.mean(saved) if problem.averages else _finite(saved.at_input)
    centred = _samples.scaled(saved.values - offset[None], of_terms)

    def step(halves: Halves, start: Array, count: int) -> tuple[Halves, None]:
        own_inputs, all_kept = _folding.on_own_device(problem, (inputs, saved.kept))
        drawn = _samples.draw_once(problem, key, own_inputs, start, count)
        kept, chunk = (jax.lax.dynamic_slice_in_dim(each, start, count) for each in (all_kept, centred))
        credited = problem.readers.by_coordinate(chunk)
        found = _stand_in.of_chunk(problem, wanted, own_inputs, drawn, start, kept, cotangent, credited)
        return jax.tree.map(jnp.add, halves, found), None

    halves, _ = _folding.fold(problem, step, nothing)
    return _stand_in.where_read(problem, inputs, cotangent, halves)


# --- parts of both -----------------------------------------------------------------------------------


def _credited(problem: Problem, inputs: Inputs, cotangent: Array) -> Callable[[Array], Array]:
    """Returns what makes of the weights of terms (..., num_terms) those of scores (..., 1 or dim)."""
    of_terms = _samples.term_cotangent(problem, inputs, cotangent)
    return lambda weights: problem.readers.by_coordinate(_samples.scaled(weights, of_terms))


def _no_halves(problem: Problem, wanted: Wanted, key: Any, inputs: Inputs) -> Halves | None:
    """Returns what sums of a stand-in begin with; None where there is none, or nothing for it to do."""
    if problem.control is None or not any(wanted[:2]):
        return None
    return _stand_in.zeros(problem, wanted, key, inputs)


def _less_explained(problem: Problem, score_sums: list[Any], halves: Halves | None) -> list[Any]:
    """Returns the sums of weighted scores less what a stand-in explains of them."""
    if halves is None:
        return score_sums
    return jax.tree.map(jnp.subtract, score_sums, _stand_in.correction(problem, halves))


def _finite(offset: Array) -> Array:
    """Returns an offset, or 0 where it would make all values NaN."""
    return jnp.where(jnp.isfinite(offset), offset, 0)


def _score_zeros(problem: Problem, wanted: Wanted, key: Any, inputs: Inputs) -> list[Any]:
    sizes = [problem.dim if problem.has_credit else leaf.size for leaf in inputs[:2]]
    pairs = zip(sizes, wanted[:2], strict=True)
    return [_folding.zeros(problem, key, size) if want else None for size, want in pairs]


def _args_zeros(wanted: Wanted, inputs: Inputs) -> tuple[Any, ...]:
    pairs = zip(inputs[2:], wanted[2:], strict=True)
    return tuple(chunks.varying_like(jnp.zeros_like(leaf), leaf) if want else None for leaf, want in pairs)


def in_units_of_x(inputs: Inputs, in_x: Array) -> Array:
    """Turns weighted scores of x times σ (..., dim) into gradients, 0 where x is infinite."""
    x, sigma, *_ = inputs
    return jnp.where(jnp.isinf(x), 0, in_x / sigma)


def _gradients(inputs: Inputs, score_sums: list[Any], args_sums: tuple[Any, ...], count: Any) -> Gradients:
    """Turns the sums over `count` samples into means, and the scores times σ into gradients."""
    x, sigma, *_ = inputs
    in_x, in_sigma = jax.tree.map(lambda sums: sums / count, score_sums)
    in_x = None if in_x is None else in_units_of_x(inputs, in_x).astype(x.dtype)
    if in_sigma is not None:
        in_sigma = (in_sigma if sigma.ndim else in_sigma.sum()) / sigma
    return in_x, in_sigma, *jax.tree.map(lambda sums: (sums / count).astype(sums.dtype), args_sums)


def _terms_and_args_gradients(
    problem: Problem, wanted: Wanted, inputs: Inputs, drawn: Perturbations, cotangents: Array
) -> tuple[Array, tuple[Any, ...]]:
    """Returns the terms (count, num_terms), and Σ_n ∂⟨cotangents_n, f_n⟩/∂args, pathwise."""
    args_wanted = (False, False, *wanted[2:])
    chosen, rest = split(args_wanted, inputs)
    if not chosen:
        return _samples.evaluate(problem, inputs, drawn), tuple(None for _ in inputs[2:])

    def values_of(chosen: list[Any]) -> tuple[Array, Array]:
        whole = join(args_wanted, chosen, rest)
        terms = _samples.evaluate(problem, whole, drawn)
        return _samples.combined(problem, whole, terms), terms

    values, vjp, terms = jax.vjp(values_of, chosen, has_aux=True)
    return terms, spread(args_wanted, vjp(chunks.varying_like(cotangents, values))[0])[2:]
