"""The first-order sums: values of f and scores of ε turned into a value and its gradients.

Blocks with one value and an affine baseline are summed in one pass, in which no noise is kept and none
drawn again. Others keep their N × num_values values, and draw the noise again for the gradients.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from esjax import _sampling
from esjax._products import matmul
from esjax._sampling import Inputs, Problem

Array = jax.Array
Wanted = tuple[bool, ...]  # which of the inputs are differentiated
Gradients = tuple[Any, ...]  # one for each of the inputs, None where not wanted


class Values(NamedTuple):
    """The values of all samples, where one pass is not enough.

    Attributes:
        values: (num_samples, num_values), 0 where discarded.
        kept: (num_samples,) 1 or, where discarded, 0.
        at_input: (num_values,), the baseline's share of f(x).
    """

    values: Array
    kept: Array
    at_input: Array


def one_pass(problem: Problem) -> bool:
    """Whether the gradients can be summed while f is evaluated."""
    affine = problem.discard is None and problem.baseline.transform is None
    return problem.num_values == 1 and affine and not problem.informed


# --- one value: one pass -----------------------------------------------------------------------------


def value_and_gradients(
    problem: Problem, wanted: Wanted, key: Any, inputs: Inputs
) -> tuple[Array, Gradients]:
    """Returns the mean (1,) and the gradients of a block with one value.

    The weight of a score is f_n − b_n = (f_n − own S_group) − total S, with S = Σ f known only at the
    end. So two sums are carried: Σ (f_n − own S_group) s_n and Σ total s_n. Where an offset of all
    values drops out, the mean of a device's first chunk is taken off first, which float32 needs.
    """
    centred = _averages(problem)
    at_input = _sampling.value_at_input(problem, inputs)[0]

    def step(carry: Any, start: Array, count: int) -> tuple[Any, None]:
        offset, value_sum, centred_sum, score_sums, args_sums = carry
        eps = _sampling.draw(problem, key, start, count)
        cotangents = jnp.ones((count, 1), problem.dtype)
        values, in_args = _values_and_args_gradients(problem, wanted, inputs, eps, cotangents)
        values = values[:, 0]
        value_sum = value_sum + values.sum()
        is_first = start % _sampling.samples_of_device(problem) == 0
        offset = jnp.where(is_first, values.mean(), offset) if centred else offset
        values = values - offset
        own, total = _chunk_coefficients(problem, count)
        own_part = values - own * _sampling.group_sums(values, problem.groups.size)
        weights = jnp.stack([own_part, total])
        scores = _scores(problem, wanted, inputs, eps)
        score_sums = jax.tree.map(lambda carried, s: carried + matmul(weights, s), score_sums, scores)
        args_sums = jax.tree.map(jnp.add, args_sums, in_args)
        return (offset, value_sum, centred_sum + values.sum(), score_sums, args_sums), None

    def with_total(carry: Any) -> Any:
        """Puts S in, and a common offset in place of each device's: 1 − own size_group = N total."""
        offset, value_sum, centred_sum, score_sums, args_sums = carry
        moved = offset - _sampling.mean_over_devices(problem, offset) if centred else 0
        centred_sum = centred_sum + moved * _sampling.samples_of_device(problem)
        factor = moved * problem.num_samples - _sampling.sum_over_devices(problem, centred_sum)
        return value_sum, jax.tree.map(lambda sums: sums[0] + factor * sums[1], score_sums), args_sums

    zero = jnp.zeros((), problem.dtype)
    score_zeros = _score_zeros(problem, wanted, inputs, rows=(2,))
    carry = (at_input, zero, zero, score_zeros, _args_zeros(wanted, inputs))
    (value_sum, score_sums, args_sums), _ = _sampling.fold(problem, step, carry, with_total)
    return value_sum[None] / problem.num_samples, _gradients(
        inputs, score_sums, args_sums, problem.num_samples
    )


def _averages(problem: Problem) -> bool:
    """Whether each b_n is an average of values, so that an offset of all values drops out."""
    size = problem.groups.size
    own, total = problem.baseline.coefficients(size, problem.num_samples)
    return problem.baseline.at_input == 0 and abs(own * size + total * problem.num_samples - 1) < 1e-9


def _chunk_coefficients(problem: Problem, count: int) -> tuple[Array, Array]:
    """Returns the baseline's `(own, total)`, each (count,), for samples that begin with a whole group."""
    in_group = _sampling.group_sums(jnp.ones(count, problem.dtype), problem.groups.size)
    in_all = jnp.full(count, problem.num_samples, problem.dtype)
    own, total = problem.baseline.coefficients(in_group, in_all)
    return jnp.broadcast_to(own, count), jnp.broadcast_to(total, count)


# --- several values, discarded ones, ranks: two passes -----------------------------------------------


def value_and_values(problem: Problem, key: Any, inputs: Inputs) -> tuple[Array, Values]:
    """Returns the mean (num_values,) over the samples kept, and the values of all."""

    def step(carry: None, start: Array, count: int) -> tuple[None, Array]:
        eps = _sampling.draw(problem, key, start, count)
        return carry, _sampling.evaluate(problem, inputs, eps)

    _, values = _sampling.fold(problem, step, None)
    kept = keep(problem, inputs, values)
    values = jnp.where(kept[:, None] > 0, values, 0)
    at_input = _sampling.value_at_input(problem, inputs)
    saved = Values(values, kept, at_input)
    return mean(saved), saved


def mean(saved: Values) -> Array:
    """Returns the mean (num_values,) over the samples kept."""
    return saved.values.sum(0) / saved.kept.sum()


def block_at_input(problem: Problem, inputs: Inputs, saved: Values) -> Array:
    """Returns f(x) (num_values,), evaluating it only where the baseline did not."""
    share = problem.baseline.at_input
    x, _, *args = inputs
    return problem.fun(x, tuple(args)) if share == 0 else saved.at_input / share


def keep(problem: Problem, inputs: Inputs, values: Array) -> Array:
    """Returns (count,) 1 for each row of values (count, num_values) to keep, 0 for one to leave out."""
    if problem.discard is None:
        return jnp.ones(values.shape[0], problem.dtype)
    _, _, *args = inputs
    return 1 - jax.vmap(problem.discard, (0, None))(values, tuple(args)).astype(problem.dtype)


def kept_samples(problem: Problem, key: Any, eps: Array, kept: Array, saved: Values) -> Array:
    """Puts the ε of a sample that was kept in place of those that were not.

    Their values are given no weight, but 0 times the derivative of a faulty one may be NaN.
    """
    if problem.discard is None:
        return eps
    sound = _sampling.draw_one(problem, key, saved.kept.argmax().astype(jnp.int32))
    return jnp.where(kept[:, None] > 0, eps, sound[None])


def weights(problem: Problem, saved: Values) -> Array:
    """Returns f_n − b_n of all samples, (num_samples, num_values), 0 where discarded."""
    values, kept, at_input = saved
    in_group = _sampling.group_sums(kept, problem.groups.size)
    alone = in_group == kept.sum()  # the others are discarded: there is nothing to compare with
    offset = at_input
    if _averages(problem):
        offset = jnp.where(alone.any(), 0, values.sum(0) / kept.sum())
    values = values - offset[None]
    if problem.baseline.transform is not None:
        values = jax.vmap(problem.baseline.transform, in_axes=(1, None), out_axes=1)(values, kept)
    values = jnp.where(kept[:, None] > 0, values, 0)
    coefficients = problem.baseline.coefficients(in_group, jnp.full_like(in_group, kept.sum()))
    own, total = (jnp.where(alone, 0, c)[:, None] for c in coefficients)
    baseline = own * _sampling.group_sums(values, problem.groups.size) + total * values.sum(0)[None]
    return jnp.where(kept[:, None] > 0, values - baseline, 0)


def gradients_from_values(
    problem: Problem, wanted: Wanted, key: Any, inputs: Inputs, saved: Values, cotangent: Array
) -> Gradients:
    """Draws the noise again, chunk by chunk, and weights its scores with ⟨cotangent, f_n − b_n⟩."""
    score_weights = matmul(weights(problem, saved), cotangent)

    def step(carry: Any, start: Array, count: int) -> tuple[Any, None]:
        score_sums, args_sums = carry
        eps = _sampling.draw(problem, key, start, count)
        chunk = jax.lax.dynamic_slice_in_dim(score_weights, start, count)
        scores = _scores(problem, wanted, inputs, eps)
        score_sums = jax.tree.map(lambda carried, s: carried + matmul(chunk, s), score_sums, scores)
        if any(wanted[2:]):
            kept = jax.lax.dynamic_slice_in_dim(saved.kept, start, count)
            cotangents = kept[:, None] * cotangent[None]
            eps = kept_samples(problem, key, eps, kept, saved)
            _, in_args = _values_and_args_gradients(problem, wanted, inputs, eps, cotangents)
            args_sums = jax.tree.map(jnp.add, args_sums, in_args)
        return (score_sums, args_sums), None

    carry = (_score_zeros(problem, wanted, inputs, rows=()), _args_zeros(wanted, inputs))
    (score_sums, args_sums), _ = _sampling.fold(problem, step, carry)
    return _gradients(inputs, score_sums, args_sums, saved.kept.sum())


# --- their parts -------------------------------------------------------------------------------------


def _scores(problem: Problem, wanted: Wanted, inputs: Inputs, eps: Array) -> list[Any]:
    """Returns the scores of x and σ times σ, each (count, size), None where not wanted.

    In x: s(ε). In σ: s(ε) ε − 1, where the −1 comes from the density's normaliser 1/σ; summed over
    the coordinates that share one σ.
    """
    sigma = inputs[1]
    in_x = problem.noise.score(eps)
    in_sigma = in_x * eps - 1
    in_sigma = in_sigma if sigma.ndim else in_sigma.sum(-1, keepdims=True)
    return [in_x if wanted[0] else None, in_sigma if wanted[1] else None]


def _score_zeros(problem: Problem, wanted: Wanted, inputs: Inputs, *, rows: tuple[int, ...]) -> list[Any]:
    sizes = [leaf.size if want else None for leaf, want in zip(inputs[:2], wanted[:2], strict=True)]
    return [None if size is None else jnp.zeros((*rows, size), problem.dtype) for size in sizes]


def _args_zeros(wanted: Wanted, inputs: Inputs) -> tuple[Any, ...]:
    pairs = zip(inputs[2:], wanted[2:], strict=True)
    return tuple(jnp.zeros_like(leaf) if want else None for leaf, want in pairs)


def _gradients(inputs: Inputs, score_sums: list[Any], args_sums: tuple[Any, ...], count: Any) -> Gradients:
    """Turns the sums over `count` samples into means, and the scores times σ into gradients."""
    x, sigma, *_ = inputs
    in_x, in_sigma = jax.tree.map(lambda sums: sums / count, score_sums)
    in_x = None if in_x is None else (in_x / sigma).astype(x.dtype)
    in_sigma = None if in_sigma is None else in_sigma.reshape(sigma.shape) / sigma
    return in_x, in_sigma, *jax.tree.map(lambda sums: (sums / count).astype(sums.dtype), args_sums)


def _values_and_args_gradients(
    problem: Problem, wanted: Wanted, inputs: Inputs, eps: Array, cotangents: Array
) -> tuple[Array, tuple[Any, ...]]:
    """Returns the values (count, num_values), and Σ_n ∂⟨cotangents_n, f_n⟩/∂args, pathwise."""
    args_wanted = (False, False, *wanted[2:])
    chosen, rest = split(args_wanted, inputs)
    if not chosen:
        return _sampling.evaluate(problem, inputs, eps), tuple(None for _ in inputs[2:])

    def values_of(chosen: list[Any]) -> Array:
        return _sampling.evaluate(problem, join(args_wanted, chosen, rest), eps)

    values, vjp = jax.vjp(values_of, chosen)
    return values, spread(args_wanted, vjp(cotangents)[0])[2:]


# --- some of a tuple ---------------------------------------------------------------------------------


def split(chosen: Wanted, items: Inputs) -> tuple[list[Any], list[Any]]:
    """Splits `items` into those chosen and the rest."""
    pairs = list(zip(chosen, items, strict=True))
    return [item for choice, item in pairs if choice], [item for choice, item in pairs if not choice]


def join(chosen: Wanted, ones: list[Any], others: list[Any]) -> Inputs:
    """The inverse of `split`."""
    sources = {True: iter(ones), False: iter(others)}
    return tuple(next(sources[choice]) for choice in chosen)


def spread(chosen: Wanted, ones: list[Any]) -> Gradients:
    """Puts `ones` where they were chosen from, None elsewhere."""
    items = iter(ones)
    return tuple(next(items) if choice else None for choice in chosen)
