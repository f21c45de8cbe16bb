"""What scores are weighted with: values f_n less their baselines b_n, and 0 where a sample is discarded."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from esjax.smoothing._credit import Credited
from esjax.smoothing._groups import group_sums
from esjax.smoothing._inputs import Inputs
from esjax.smoothing._perturbing import Perturbations
from esjax.smoothing._problem import Problem
from esjax.smoothing._samples import combined, evaluate

Array = jax.Array


class Values(NamedTuple):
    """The values of all samples, where one pass is not enough.

    Attributes:
        values: f_n in terms (num_samples, num_terms), 0 where discarded.
        kept: (num_samples,) 1 or, where discarded, 0.
        at_input: f(x) in terms (num_terms,), or 0 where the baseline does not ask for it.
        sound: the perturbation of a sample that was kept, where it is asked for and some may be discarded,
            else arrays (0,) in place of its arrays.
    """

    values: Array
    kept: Array
    at_input: Array
    sound: Perturbations


# --- which samples are kept ---------------------------------------------------------------------------


def keep(problem: Problem, inputs: Inputs, terms: Array) -> Array:
    """Returns (count,) 1 for each row of terms (count, num_terms) to keep, 0 for one to leave out."""
    if problem.discard is None:
        return jnp.ones(terms.shape[0], problem.dtype)
    is_faulty = jax.vmap(partial(problem.discard, inputs[2:]))(combined(problem, inputs, terms))
    return 1 - is_faulty.astype(problem.dtype)


def kept_terms(problem: Problem, inputs: Inputs, drawn: Perturbations) -> tuple[Array, Array]:
    """Evaluates samples: their terms (count, num_terms), 0 where discarded, and `keep` of these (count,)."""
    terms = evaluate(problem, inputs, drawn)
    kept = keep(problem, inputs, terms)
    return jnp.where(kept[:, None] > 0, terms, 0), kept


def kept_samples(problem: Problem, drawn: Perturbations, kept: Array, saved: Values) -> Perturbations:
    """Puts the perturbation of a sample that was kept in place of each that was discarded.

    Discarded values are given no weight, but 0 times the derivative of a faulty one may be NaN.
    """
    if problem.discard is None:
        return drawn

    def where_kept(leaf: Array, sound: Array) -> Array:
        return jnp.where(kept.reshape(-1, *(1,) * sound.ndim) > 0, leaf, sound[None])

    return jax.tree.map(where_kept, drawn, saved.sound)


def mean(saved: Values) -> Array:
    """Returns the mean of the terms (num_terms,) over the samples kept."""
    return saved.values.sum(0) / saved.kept.sum()


# --- f − b ------------------------------------------------------------------------------------------


def weights(problem: Problem, inputs: Inputs, saved: Values) -> Array:
    """Returns f_n − b_n of all samples, term by term: (num_samples, num_terms), 0 where discarded."""
    values, kept, f_x, _ = saved
    in_group = group_sums(kept, problem.group_size)
    alone = in_group == kept.sum()  # the others are discarded: there is nothing to compare with
    own, total = (jnp.where(alone, 0, c) for c in coefficients(problem, inputs, in_group, kept.sum()))
    if problem.transform is not None:
        transform = partial(problem.transform, inputs[2:])
        values = jax.vmap(transform, in_axes=(1, None), out_axes=1)(values, kept)
        rest = jnp.zeros_like(own) if problem.at_input is None else -problem.at_input(inputs[2:]) * kept
    else:
        values = values - _offset(problem, saved, alone)[None]
        rest = rest_at_input(problem, inputs, own, total, in_group, kept.sum())
    values = jnp.where(kept[:, None] > 0, values, 0)
    sums = group_sums(values, problem.group_size)
    baselines = own[:, None] * sums + total[:, None] * values.sum(0)[None] - rest[:, None] * f_x[None]
    return jnp.where(kept[:, None] > 0, values - baselines, 0)


def _offset(problem: Problem, saved: Values, alone: Array) -> Array:
    """Returns what is taken off all values (num_terms,) before they are compared, which float32 needs."""
    if problem.at_input is not None or not problem.averages:
        return saved.at_input
    return jnp.where(alone.any(), 0, saved.values.sum(0) / saved.kept.sum())


def partial_weights(problem: Problem, inputs: Inputs, centred: Array, f_x: Array) -> tuple[Array, Array]:
    """Returns the weights of one pass over terms less an offset (count, num_terms), without Σ f.

    They are f_n − own S_group + rest f(x) (count, num_terms), and total (count,); see `completed`.
    """
    in_group = group_sums(jnp.ones_like(centred[:, 0]), problem.group_size)
    own, total = coefficients(problem, inputs, in_group, problem.num_samples)
    rest = rest_at_input(problem, inputs, own, total, in_group, problem.num_samples)
    sums = group_sums(centred, problem.group_size)
    return centred - own[:, None] * sums + rest[:, None] * f_x[None], total


def completed(
    sums: tuple[Array, Array], shift: Any, centred_sum: Array, num_samples: int, credited: Credited
) -> Array:
    """Returns Σ (f_n − b_n) s_n (size,) of the samples of one pass, from the sums (size,) that it made.

        Σ (f_n − own S_group − total S) s_n = sums₀ + (shift N − S) sums₁
        sums₀ = Σ (f_n − shift − own (S_group − shift N_group)) s_n,  sums₁ = Σ total s_n

    where f_n are values less a common offset, and the pass took off `shift` more than that. (An offset drops
    out of f_n − b_n where own N_group + total N = 1; elsewhere there is no shift.)

    Args:
        sums: Σ of the partial weights times scores, with f_n and with total.
        shift: the offset of this pass less the common one, (num_terms,) or ().
        centred_sum: S, the sum of *all* samples' values, each less the common offset, (num_terms,).
        num_samples: N.
        credited: makes of what each term has what each score has, (num_terms,) -> (size,) or (1,).
    """
    return sums[0] + credited(shift * num_samples - centred_sum) * sums[1]


def coefficients(problem: Problem, inputs: Inputs, in_group: Array, in_all: Any) -> tuple[Array, Array]:
    """Returns the baseline's `(own, total)` of samples whose groups have `in_group`, all (count,)."""
    own, total = problem.coefficients(inputs[2:], in_group, jnp.full_like(in_group, in_all))
    return jnp.broadcast_to(own, in_group.shape), jnp.broadcast_to(total, in_group.shape)


def rest_at_input(
    problem: Problem, inputs: Inputs, own: Array, total: Array, in_group: Array, in_all: Any
) -> Any:
    """Returns how much of f(x) is in f_n − b_n, besides sums of f − f(x): 0 where b_n is an average.

        f_n − own S_group − total S − share f(x) = (f_n − f(x)) − own S'_group − total S' + rest f(x)

    with S' the sums of f − f(x), so rest = 1 − share − own size_group − total N.
    """
    if problem.at_input is None:
        return jnp.zeros_like(own)
    return 1 - problem.at_input(inputs[2:]) - own * in_group - total * in_all


def block_at_input(problem: Problem, inputs: Inputs, saved: Values) -> Array:
    """Returns f(x) (num_values,), evaluating it only where the baseline did not."""
    x, _, *args = inputs
    terms = problem.fun(x, tuple(args)) if problem.at_input is None else saved.at_input
    return combined(problem, inputs, terms)
