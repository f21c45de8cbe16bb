"""The first-order sums: values of f and scores of ε turned into a value and its gradients.

Blocks with one value and an affine baseline are summed in one pass, in which no noise is kept and none
drawn again. Others keep their N × num_values values, and draw the noise again for the gradients.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from esjax._core import chunks
from esjax._core.products import matmul
from esjax.smoothing import _perturbing, _weights
from esjax.smoothing._chosen import Gradients, Wanted, join, split, spread
from esjax.smoothing._perturbing import Inputs, Problem
from esjax.smoothing._weights import Values

Array = jax.Array


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
    f_x = _perturbing.value_at_input(problem, inputs)[0]
    centres = problem.averages and problem.at_input is None

    def step(sums: _Sums, start: Array, count: int) -> tuple[_Sums, None]:
        eps = _perturbing.draw(problem, key, inputs, start, count)
        cotangents = jnp.ones((count, 1), problem.dtype)
        values, in_args = _values_and_args_gradients(problem, wanted, inputs, eps, cotangents)
        values = values[:, 0]
        is_first = start % _perturbing.samples_of_device(problem) == 0
        offset = jnp.where(is_first, values.mean(), sums.offset) if centres else sums.offset
        centred = values - offset
        in_group = _perturbing.group_sums(jnp.ones(count, problem.dtype), problem.group_size)
        own, total = _weights.coefficients(problem, inputs, in_group, problem.num_samples)
        rest = _weights.rest_at_input(problem, inputs, own, total, in_group, problem.num_samples)
        own_part = centred - own * _perturbing.group_sums(centred, problem.group_size) + rest * f_x
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
        moved = sums.offset - _perturbing.mean_over_devices(problem, sums.offset) if centres else 0
        centred = sums.centred + moved * _perturbing.samples_of_device(problem)
        factor = moved * problem.num_samples - _perturbing.sum_over_devices(problem, centred)
        return sums.values, jax.tree.map(lambda s: s[0] + factor * s[1], sums.scores), sums.args

    zero = _perturbing.zeros(problem, key)
    score_zeros = _score_zeros(problem, wanted, key, inputs, rows=(2,))
    nothing = _Sums(zero + f_x, zero, zero, score_zeros, _args_zeros(wanted, inputs))
    (value_sum, score_sums, args_sums), _ = _perturbing.fold(problem, step, nothing, with_total)
    return value_sum[None] / problem.num_samples, _gradients(
        inputs, score_sums, args_sums, problem.num_samples
    )


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
        eps = _perturbing.draw(problem, key, inputs, start, count)
        values = _perturbing.evaluate(problem, inputs, eps)
        kept = _weights.keep(problem, inputs, values)
        if finds:
            eps = jnp.where(found.any, found.eps, eps[kept.argmax().astype(jnp.int32)])
            found = _Found(found.any | kept.any(), eps)
        return found, (jnp.where(kept[:, None] > 0, values, 0), kept)

    def common(found: _Found) -> Array:
        return _perturbing.of_first_device(problem, found.any, found.eps)

    no_eps = _perturbing.zeros(problem, key, problem.dim if finds else 0)
    nothing = _Found(chunks.varying_like(jnp.zeros((), bool), key), no_eps)
    sound, (values, kept) = _perturbing.fold(problem, step, nothing, common)
    saved = Values(values, kept, _perturbing.value_at_input(problem, inputs), sound)
    return _weights.mean(saved), saved


def gradients_from_values(
    problem: Problem, wanted: Wanted, key: Any, inputs: Inputs, saved: Values, cotangent: Array
) -> Gradients:
    """Draws the noise again, chunk by chunk, and weights its scores with ⟨cotangent, f_n − b_n⟩."""
    score_weights = matmul(_weights.weights(problem, inputs, saved), cotangent)

    def step(carry: Any, start: Array, count: int) -> tuple[Any, None]:
        score_sums, args_sums = carry
        eps = _perturbing.draw(problem, key, inputs, start, count)
        chunk = jax.lax.dynamic_slice_in_dim(score_weights, start, count)
        scores = _scores(problem, wanted, inputs, eps)
        score_sums = jax.tree.map(lambda carried, s: carried + matmul(chunk, s), score_sums, scores)
        if any(wanted[2:]):
            kept = jax.lax.dynamic_slice_in_dim(saved.kept, start, count)
            cotangents = kept[:, None] * cotangent[None]
            eps = _weights.kept_samples(problem, eps, kept, saved)
            _, in_args = _values_and_args_gradients(problem, wanted, inputs, eps, cotangents)
            args_sums = jax.tree.map(jnp.add, args_sums, in_args)
        return (score_sums, args_sums), None

    carry = (_score_zeros(problem, wanted, key, inputs, rows=()), _args_zeros(wanted, inputs))
    (score_sums, args_sums), _ = _perturbing.fold(problem, step, carry)
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
    return [_perturbing.zeros(problem, key, *rows, leaf.size) if want else None for leaf, want in pairs]


def _args_zeros(wanted: Wanted, inputs: Inputs) -> tuple[Any, ...]:
    pairs = zip(inputs[2:], wanted[2:], strict=True)
    return tuple(chunks.varying_like(jnp.zeros_like(leaf), leaf) if want else None for leaf, want in pairs)


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
        return _perturbing.evaluate(problem, inputs, eps), tuple(None for _ in inputs[2:])

    def values_of(chosen: list[Any]) -> Array:
        return _perturbing.evaluate(problem, join(args_wanted, chosen, rest), eps)

    values, vjp = jax.vjp(values_of, chosen)
    return values, spread(args_wanted, vjp(chunks.varying_like(cotangents, values))[0])[2:]
