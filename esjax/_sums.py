"""The first-order sums: values of f and scores of ε turned into a value and its gradients.

Blocks with one value and an affine baseline are summed in one pass, in which no noise is kept and none
drawn again. Others keep their N × num_values values, and draw the noise again for the gradients.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from esjax import _mapping, _sampling
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
        at_input: f(x) (num_values,), where the baseline asks for it.
        sound: ε (dim,) of a sample that was kept, where it is asked for and some may be discarded, else (0,).
    """

    values: Array
    kept: Array
    at_input: Array
    sound: Array


def one_pass(problem: Problem) -> bool:
    """Whether the gradients can be summed while f is evaluated.

    (Not where one is a sum over devices, of which each has a cotangent of its own.)
    """
    affine = problem.discard is None and problem.transform is None
    return problem.num_values == 1 and affine and problem.is_uniform and not problem.informed


# --- one value: one pass -----------------------------------------------------------------------------


class _Sums(NamedTuple):
    """What one pass over the samples carries, with weights of the scores around a common offset.

    Attributes:
        offset: what is taken off all values, ().
        values: Σ f_n, ().
        centred: Σ (f_n − offset), ().
        scores: of x and σ, each (2, size): Σ (f_n − offset − own S_group + rest_n) s_n, and Σ total s_n.
        args: Σ ∂f_n/∂args.
    """

    offset: Array
    values: Array
    centred: Array
    scores: list[Any]
    args: tuple[Any, ...]


def value_and_gradients(
    problem: Problem, wanted: Wanted, key: Any, inputs: Inputs
) -> tuple[Array, Gradients]:
    """Returns the mean (1,) and the gradients of a block with one value.

    The weight of a score is f_n − b_n = (f_n − own S_group) − total S − share f(x), with S = Σ f known only
    at the end. So two sums are carried: Σ (f_n − own S_group) s_n and Σ total s_n. An offset is taken off all
    values, which float32 needs: f(x) where the baseline has a share of it, else, where an offset drops out,
    the mean of a device's first chunk.
    """
    f_x = _sampling.value_at_input(problem, inputs)[0]
    centres = problem.averages and problem.at_input is None

    def step(sums: _Sums, start: Array, count: int) -> tuple[_Sums, None]:
        eps = _sampling.draw(problem, key, inputs, start, count)
        cotangents = jnp.ones((count, 1), problem.dtype)
        values, in_args = _values_and_args_gradients(problem, wanted, inputs, eps, cotangents)
        values = values[:, 0]
        is_first = start % _sampling.samples_of_device(problem) == 0
        offset = jnp.where(is_first, values.mean(), sums.offset) if centres else sums.offset
        centred = values - offset
        in_group = _sampling.group_sums(jnp.ones(count, problem.dtype), problem.group_size)
        own, total = _coefficients(problem, inputs, in_group, problem.num_samples)
        rest = _rest(problem, inputs, own, total, in_group, problem.num_samples)
        own_part = centred - own * _sampling.group_sums(centred, problem.group_size) + rest * f_x
        weights = jnp.stack([own_part, total])
        scores = _scores(problem, wanted, inputs, eps)
        return _Sums(
            offset=offset,
            values=sums.values + values.sum(),
            centred=sums.centred + centred.sum(),
            scores=jax.tree.map(lambda carried, s: carried + matmul(weights, s), sums.scores, scores),
            args=jax.tree.map(jnp.add, sums.args, in_args),
        ), None

    def with_total(sums: _Sums) -> Any:
        """Puts S in, and a common offset in place of each device's: 1 − own size_group = N total."""
        moved = sums.offset - _sampling.mean_over_devices(problem, sums.offset) if centres else 0
        centred = sums.centred + moved * _sampling.samples_of_device(problem)
        factor = moved * problem.num_samples - _sampling.sum_over_devices(problem, centred)
        return sums.values, jax.tree.map(lambda s: s[0] + factor * s[1], sums.scores), sums.args

    zero = _sampling.zeros(problem, key)
    score_zeros = _score_zeros(problem, wanted, key, inputs, rows=(2,))
    nothing = _Sums(zero + f_x, zero, zero, score_zeros, _args_zeros(wanted, inputs))
    (value_sum, score_sums, args_sums), _ = _sampling.fold(problem, step, nothing, with_total)
    return value_sum[None] / problem.num_samples, _gradients(
        inputs, score_sums, args_sums, problem.num_samples
    )


def _coefficients(problem: Problem, inputs: Inputs, in_group: Array, in_all: Any) -> tuple[Array, Array]:
    """Returns the baseline's `(own, total)` of samples whose groups have `in_group`, all (count,)."""
    own, total = problem.coefficients(inputs[2:], in_group, jnp.full_like(in_group, in_all))
    return jnp.broadcast_to(own, in_group.shape), jnp.broadcast_to(total, in_group.shape)


def _rest(problem: Problem, inputs: Inputs, own: Array, total: Array, in_group: Array, in_all: Any) -> Any:
    """Returns how much of f(x) is in f_n − b_n, beside sums of f − f(x): 0 where b_n is an average.

        f_n − own S_group − total S − share f(x) = (f_n − f(x)) − own S'_group − total S' + rest f(x)

    with S' the sums of f − f(x), so rest = 1 − share − own size_group − total N.
    """
    if problem.at_input is None:
        return jnp.zeros_like(own)
    return 1 - problem.at_input(inputs[2:]) - own * in_group - total * in_all


# --- several values, discarded ones, ranks: two passes -----------------------------------------------


class _Found(NamedTuple):
    """Whether a sample was kept so far, (), and its ε (dim,)."""

    any: Array
    eps: Array


def value_and_values(
    problem: Problem, key: Any, inputs: Inputs, *, for_derivatives: bool
) -> tuple[Array, Values]:
    """Returns the mean (num_values,) over the samples kept, and the values of all.

    `for_derivatives`: whether the block will be differentiated at them, for which a sound one is looked for.
    """
    finds = for_derivatives and problem.discard is not None

    def step(found: _Found, start: Array, count: int) -> tuple[_Found, tuple[Array, Array]]:
        eps = _sampling.draw(problem, key, inputs, start, count)
        values = _sampling.evaluate(problem, inputs, eps)
        kept = keep(problem, inputs, values)
        if finds:
            eps = jnp.where(found.any, found.eps, eps[kept.argmax().astype(jnp.int32)])
            found = _Found(found.any | kept.any(), eps)
        return found, (jnp.where(kept[:, None] > 0, values, 0), kept)

    def common(found: _Found) -> Array:
        return _sampling.of_first_device(problem, found.any, found.eps)

    no_eps = _sampling.zeros(problem, key, problem.dim if finds else 0)
    nothing = _Found(_mapping.varying_like(jnp.zeros((), bool), key), no_eps)
    sound, (values, kept) = _sampling.fold(problem, step, nothing, common)
    saved = Values(values, kept, _sampling.value_at_input(problem, inputs), sound)
    return mean(saved), saved


def mean(saved: Values) -> Array:
    """Returns the mean (num_values,) over the samples kept."""
    return saved.values.sum(0) / saved.kept.sum()


def block_at_input(problem: Problem, inputs: Inputs, saved: Values) -> Array:
    """Returns f(x) (num_values,), evaluating it only where the baseline did not."""
    x, _, *args = inputs
    return problem.fun(x, tuple(args)) if problem.at_input is None else saved.at_input


def keep(problem: Problem, inputs: Inputs, values: Array) -> Array:
    """Returns (count,) 1 for each row of values (count, num_values) to keep, 0 for one to leave out."""
    if problem.discard is None:
        return jnp.ones(values.shape[0], problem.dtype)
    is_faulty = jax.vmap(partial(problem.discard, inputs[2:]))(values)
    return 1 - is_faulty.astype(problem.dtype)


def kept_samples(problem: Problem, eps: Array, kept: Array, saved: Values) -> Array:
    """Puts the ε of a sample that was kept in place of those that were not.

    Their values are given no weight, but 0 times the derivative of a faulty one may be NaN.
    """
    return eps if problem.discard is None else jnp.where(kept[:, None] > 0, eps, saved.sound[None])


def weights(problem: Problem, inputs: Inputs, saved: Values) -> Array:
    """Returns f_n − b_n of all samples, (num_samples, num_values), 0 where discarded."""
    values, kept, f_x, _ = saved
    in_group = _sampling.group_sums(kept, problem.group_size)
    alone = in_group == kept.sum()  # the others are discarded: there is nothing to compare with
    own, total = (jnp.where(alone, 0, c) for c in _coefficients(problem, inputs, in_group, kept.sum()))
    if problem.transform is not None:
        transform = partial(problem.transform, inputs[2:])
        values = jax.vmap(transform, in_axes=(1, None), out_axes=1)(values, kept)
        rest = jnp.zeros_like(own) if problem.at_input is None else -problem.at_input(inputs[2:]) * kept
    else:
        values = values - _offset(problem, saved, alone)[None]
        rest = _rest(problem, inputs, own, total, in_group, kept.sum())
    values = jnp.where(kept[:, None] > 0, values, 0)
    sums = _sampling.group_sums(values, problem.group_size)
    baselines = own[:, None] * sums + total[:, None] * values.sum(0)[None] - rest[:, None] * f_x[None]
    return jnp.where(kept[:, None] > 0, values - baselines, 0)


def _offset(problem: Problem, saved: Values, alone: Array) -> Array:
    """Returns what is taken off all values (num_values,) before they are compared, which float32 needs."""
    if problem.at_input is not None or not problem.averages:
        return saved.at_input
    return jnp.where(alone.any(), 0, saved.values.sum(0) / saved.kept.sum())


def gradients_from_values(
    problem: Problem, wanted: Wanted, key: Any, inputs: Inputs, saved: Values, cotangent: Array
) -> Gradients:
    """Draws the noise again, chunk by chunk, and weights its scores with ⟨cotangent, f_n − b_n⟩."""
    score_weights = matmul(weights(problem, inputs, saved), cotangent)

    def step(carry: Any, start: Array, count: int) -> tuple[Any, None]:
        score_sums, args_sums = carry
        eps = _sampling.draw(problem, key, inputs, start, count)
        chunk = jax.lax.dynamic_slice_in_dim(score_weights, start, count)
        scores = _scores(problem, wanted, inputs, eps)
        score_sums = jax.tree.map(lambda carried, s: carried + matmul(chunk, s), score_sums, scores)
        if any(wanted[2:]):
            kept = jax.lax.dynamic_slice_in_dim(saved.kept, start, count)
            cotangents = kept[:, None] * cotangent[None]
            eps = kept_samples(problem, eps, kept, saved)
            _, in_args = _values_and_args_gradients(problem, wanted, inputs, eps, cotangents)
            args_sums = jax.tree.map(jnp.add, args_sums, in_args)
        return (score_sums, args_sums), None

    carry = (_score_zeros(problem, wanted, key, inputs, rows=()), _args_zeros(wanted, inputs))
    (score_sums, args_sums), _ = _sampling.fold(problem, step, carry)
    return _gradients(inputs, score_sums, args_sums, saved.kept.sum())


# --- their parts -------------------------------------------------------------------------------------


def _scores(problem: Problem, wanted: Wanted, inputs: Inputs, eps: Array) -> list[Any]:
    """Returns the scores of x and σ times σ, each (count, size), None where not wanted.

    In x: s(ε). In σ: s(ε) ε − 1, where the −1 comes from the density's normaliser 1/σ; summed over
    the coordinates that share one σ, but those of infinite x, where σ perturbs nothing.
    """
    x, sigma, *_ = inputs
    in_x = problem.score(inputs[2:], eps)
    in_sigma = (in_x * eps - 1) * (~jnp.isinf(x)[None]).astype(eps.dtype)
    in_sigma = in_sigma if sigma.ndim else in_sigma.sum(-1, keepdims=True)
    return [in_x if wanted[0] else None, in_sigma if wanted[1] else None]


def _score_zeros(
    problem: Problem, wanted: Wanted, key: Any, inputs: Inputs, *, rows: tuple[int, ...]
) -> list[Any]:
    pairs = zip(inputs[:2], wanted[:2], strict=True)
    return [_sampling.zeros(problem, key, *rows, leaf.size) if want else None for leaf, want in pairs]


def _args_zeros(wanted: Wanted, inputs: Inputs) -> tuple[Any, ...]:
    pairs = zip(inputs[2:], wanted[2:], strict=True)
    return tuple(_mapping.varying_like(jnp.zeros_like(leaf), leaf) if want else None for leaf, want in pairs)


def _gradients(inputs: Inputs, score_sums: list[Any], args_sums: tuple[Any, ...], count: Any) -> Gradients:
    """Turns the sums over `count` samples into means, and the scores times σ into gradients."""
    x, sigma, *_ = inputs
    in_x, in_sigma = jax.tree.map(lambda sums: sums / count, score_sums)
    in_x = None if in_x is None else jnp.where(jnp.isinf(x), 0, in_x / sigma).astype(x.dtype)
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
    return values, spread(args_wanted, vjp(_mapping.varying_like(cotangents, values))[0])[2:]


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
