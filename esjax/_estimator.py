"""The derivative rules behind `smooth`: one pass for the first order, unbiased at every order.

`estimate` is the value; its gradient comes from values of the block alone. A rule that is itself
differentiated would ask for the block's derivative, so each of the three functions below has a rule
of its own, and the last falls back on `surrogate`, whose derivatives of every order are unbiased.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from esjax import _sampling
from esjax._sampling import Problem
from esjax.noise import Noise

Array = jax.Array
Inputs = tuple[Any, ...]  # (x, sigma, *args): (dim,), () or (dim,), arrays of any shape and dtype
Wanted = tuple[bool, ...]  # which of the inputs are differentiated
Gradients = tuple[Any, ...]  # one for each of the inputs, None where not wanted


# --- the three functions with rules ----------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def estimate(problem: Problem, key: Any, inputs: Inputs) -> Array:
    """Returns the mean of the block's values (num_values,) over the samples drawn from `key`."""

    def step(total: Array, start: Array, count: int) -> tuple[Array, None]:
        eps = _sampling.draw(problem, key, start, count)
        return total + _sampling.evaluate(problem, inputs, eps).sum(0), None

    total, _ = _sampling.fold(problem, step, jnp.zeros(problem.num_values, problem.dtype))
    return total / problem.num_samples


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def value_and_saved(problem: Problem, wanted: Wanted, key: Any, inputs: Inputs) -> tuple[Array, Any]:
    """Returns `estimate`, and what `pull_back` needs: gradients (one value) or values (several)."""
    if problem.num_values == 1:
        return _value_and_gradients(problem, wanted, key, inputs)
    return _value_and_values(problem, key, inputs)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def pull_back(
    problem: Problem, wanted: Wanted, key: Any, inputs: Inputs, forward: Any, cotangent: Array
) -> Gradients:
    """Returns the gradients of ⟨cotangent, estimate⟩ in the wanted inputs; evaluates f no more.

    (Except for gradients in args of a block with several values, which need the block again.)
    """
    _, saved = forward
    if problem.num_values == 1:
        return jax.tree.map(lambda gradient: cotangent[0] * gradient, saved)
    return _gradients_from_values(problem, wanted, key, inputs, saved, cotangent)


# --- the sums ---------------------------------------------------------------------------------------


def _value_and_gradients(
    problem: Problem, wanted: Wanted, key: Any, inputs: Inputs
) -> tuple[Array, Gradients]:
    """One pass over the samples of a block with one value: no noise is kept, none drawn again.

    The weight of a score is f_n − b_n = (f_n − own S_group) − total S, with S = Σ f known only at the
    end. So two sums are carried: Σ (f_n − own S_group) s_n and Σ total s_n. Where an offset of
    all values drops out, the first chunk's mean is taken off first, which float32 needs.
    """
    centre = _sampling.baseline_averages(problem)

    def step(carry: Any, start: Array, count: int) -> tuple[Any, None]:
        offset, value_sum, score_sums, args_sums = carry
        eps = _sampling.draw(problem, key, start, count)
        ones = jnp.ones(problem.num_values, problem.dtype)
        values, in_args = _values_and_args_gradients(problem, wanted, inputs, eps, ones)
        values = values[:, 0]
        offset = jnp.where(start == 0, values.mean(), offset) if centre else offset
        values = values - offset
        own, total = _sampling.baseline_coefficients(problem, count)
        own_part = values - own * _sampling.group_sums(values, problem.groups.size)
        weights = jnp.stack([own_part, jnp.broadcast_to(total, values.shape).astype(values.dtype)])
        scores = _scores(problem, wanted, inputs, eps)
        score_sums = jax.tree.map(lambda carried, s: carried + weights @ s, score_sums, scores)
        args_sums = jax.tree.map(jnp.add, args_sums, in_args)
        return (offset, value_sum + values.sum(), score_sums, args_sums), None

    zero = jnp.zeros((), problem.dtype)
    score_zeros = _score_zeros(problem, wanted, inputs, rows=(2,))
    carry = (zero, zero, score_zeros, _args_zeros(wanted, inputs))
    (offset, value_sum, score_sums, args_sums), _ = _sampling.fold(problem, step, carry)
    score_sums = jax.tree.map(lambda sums: sums[0] - value_sum * sums[1], score_sums)
    value = offset + value_sum / problem.num_samples
    return value[None], _gradients(problem, inputs, score_sums, args_sums)


def _value_and_values(problem: Problem, key: Any, inputs: Inputs) -> tuple[Array, Array]:
    """Returns the mean (num_values,) and the values (num_samples, num_values) themselves."""

    def step(carry: None, start: Array, count: int) -> tuple[None, Array]:
        eps = _sampling.draw(problem, key, start, count)
        return carry, _sampling.evaluate(problem, inputs, eps)

    _, values = _sampling.fold(problem, step, None)
    return values.mean(0), values


def _gradients_from_values(
    problem: Problem, wanted: Wanted, key: Any, inputs: Inputs, values: Array, cotangent: Array
) -> Gradients:
    """Draws the noise again, chunk by chunk, and weights its scores with ⟨cotangent, f_n − b_n⟩."""
    if _sampling.baseline_averages(problem):
        values = values - values.mean(0)
    values = values @ cotangent
    own, total = _sampling.baseline_coefficients(problem, problem.num_samples)
    baseline = own * _sampling.group_sums(values, problem.groups.size) + total * values.sum()
    weights = values - baseline

    def step(carry: Any, start: Array, count: int) -> tuple[Any, None]:
        score_sums, args_sums = carry
        eps = _sampling.draw(problem, key, start, count)
        chunk = jax.lax.dynamic_slice(weights, (start,), (count,))
        scores = _scores(problem, wanted, inputs, eps)
        score_sums = jax.tree.map(lambda carried, s: carried + chunk @ s, score_sums, scores)
        if any(wanted[2:]):
            _, in_args = _values_and_args_gradients(problem, wanted, inputs, eps, cotangent)
            args_sums = jax.tree.map(jnp.add, args_sums, in_args)
        return (score_sums, args_sums), None

    carry = (_score_zeros(problem, wanted, inputs, rows=()), _args_zeros(wanted, inputs))
    (score_sums, args_sums), _ = _sampling.fold(problem, step, carry)
    return _gradients(problem, inputs, score_sums, args_sums)


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


def _gradients(
    problem: Problem, inputs: Inputs, score_sums: list[Any], args_sums: tuple[Any, ...]
) -> Gradients:
    """Turns the sums over samples into means, and the scores times σ into gradients."""
    x, sigma, *_ = inputs
    in_x, in_sigma = jax.tree.map(lambda sums: sums / problem.num_samples, score_sums)
    in_x = None if in_x is None else (in_x / sigma).astype(x.dtype)
    in_sigma = None if in_sigma is None else in_sigma.reshape(sigma.shape) / sigma
    return in_x, in_sigma, *jax.tree.map(lambda sums: sums / problem.num_samples, args_sums)


def _values_and_args_gradients(
    problem: Problem, wanted: Wanted, inputs: Inputs, eps: Array, cotangent: Array
) -> tuple[Array, tuple[Any, ...]]:
    """Returns the values (count, num_values), and Σ_n ∂⟨cotangent, f_n⟩/∂args, pathwise."""
    args_wanted = (False, False, *wanted[2:])
    chosen, rest = _split(args_wanted, inputs)
    if not chosen:
        return _sampling.evaluate(problem, inputs, eps), tuple(None for _ in inputs[2:])

    def values_of(chosen: list[Any]) -> Array:
        return _sampling.evaluate(problem, _join(args_wanted, chosen, rest), eps)

    values, vjp = jax.vjp(values_of, chosen)
    (gradients,) = vjp(jnp.broadcast_to(cotangent, values.shape))
    return values, _spread(args_wanted, gradients)[2:]


# --- any order --------------------------------------------------------------------------------------


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _log_density(noise: Noise, eps: Array) -> Array:
    """Log μ(ε), of which only the derivative −s(ε) is ever used: its value is given as 0."""
    del noise
    return jnp.zeros_like(eps)


@_log_density.defjvp
def _log_density_jvp(noise: Noise, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (eps,), (tangent,) = primals, tangents
    return _log_density(noise, eps), -noise.score(eps) * tangent


def surrogate(problem: Problem, key: Any, inputs: Inputs, value: Array) -> Array:
    """Returns `estimate` in a form whose autodiff derivatives of any order are unbiased.

        (1/N) Σ_n f(z_n) box_n + b_n (1 − box_n),   box_n = p(z_n | x, σ) / p(z_n | x₀, σ₀)

    with samples z_n, baselines b_n, x₀ and σ₀ held constant: box_n is 1 in value, and its derivatives
    are those of the density (the magic box of Foerster et al. 2018, eq. 5; the baseline is that of
    Mao et al. 2019). ε of a moved x is ε σ₀/σ + (x₀ − x)/σ, so that the ε drawn is the ε scored.
    """
    x, sigma, *_ = inputs
    x0, sigma0, value = jax.lax.stop_gradient((x, sigma, value))

    def step(total: Array, start: Array, count: int) -> tuple[Array, None]:
        eps = _sampling.draw(problem, key, start, count)
        values = _sampling.evaluate(problem, inputs, eps)
        moved = eps * (sigma0 / sigma) + (x0 - x) / sigma
        log_ratio = _log_density(problem.noise, moved) - jnp.log(sigma / sigma0)
        box = jnp.exp(log_ratio.sum(-1, keepdims=True))
        own, rest = (jnp.reshape(c, (-1, 1)) for c in _sampling.baseline_coefficients(problem, count))
        fixed = jax.lax.stop_gradient(values)
        group_sums = _sampling.group_sums(fixed, problem.groups.size)
        baseline = own * group_sums + rest * problem.num_samples * value
        return total + (values * box + baseline * (1 - box)).sum(0), None

    def checkpointed(total: Array, start: Array, count: int) -> tuple[Array, None]:
        return jax.checkpoint(partial(step, count=count))(total, start)

    zero = jnp.zeros(problem.num_values, problem.dtype)
    total, _ = _sampling.fold(problem, checkpointed, zero)
    return total / problem.num_samples


def _surrogate_gradients(
    problem: Problem, wanted: Wanted, key: Any, inputs: Inputs, value: Array, cotangent: Array
) -> Gradients:
    """What `pull_back` estimates, by autodiff of `surrogate`: it can be differentiated again."""
    chosen, rest = _split(wanted, inputs)

    def value_of(chosen: list[Any]) -> Array:
        return surrogate(problem, key, _join(wanted, chosen, rest), value)

    _, vjp = jax.vjp(value_of, chosen)
    return _spread(wanted, vjp(cotangent)[0])


# --- rules ------------------------------------------------------------------------------------------


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Static:
    """Carries what is no array from a forward rule to its backward rule."""

    value: Any


def _primals(tree: Any) -> tuple[Any, Wanted]:
    """Separates what a forward rule with symbolic zeros is given into values and who is wanted."""
    leaves = jax.tree.leaves(tree)
    values = jax.tree.map(lambda leaf: leaf.value, tree)
    return values, tuple(leaf.perturbed for leaf in leaves)


def _instantiate(cotangent: Any) -> Any:
    """Turns a symbolic zero into an array of zeros."""
    if isinstance(cotangent, SymbolicZero):
        aval: Any = cotangent.aval
        return jnp.zeros(aval.shape, aval.dtype)
    return cotangent


def _estimate_fwd(problem: Problem, key: Any, inputs: Any) -> tuple[Array, Any]:
    inputs, wanted = _primals(inputs)
    forward = value_and_saved(problem, wanted, key.value, inputs)
    return forward[0], (_Static(wanted), key.value, inputs, forward)


def _estimate_bwd(problem: Problem, residuals: Any, cotangent: Any) -> tuple[None, Gradients]:
    wanted, key, inputs, forward = residuals
    cotangent = _instantiate(cotangent)
    return None, pull_back(problem, wanted.value, key, inputs, forward, cotangent)


def _value_and_saved_fwd(problem: Problem, wanted: Wanted, key: Any, inputs: Any) -> tuple[Any, Any]:
    """Serves the caller's `wanted` and this rule's own from one pass."""
    inputs, own = _primals(inputs)
    both = tuple(a or b for a, b in zip(wanted, own, strict=True))
    value, saved = forward = value_and_saved(problem, both, key.value, inputs)
    if problem.num_values == 1:
        saved = tuple(s if want else None for s, want in zip(saved, wanted, strict=True))
    return (value, saved), (_Static(both), key.value, inputs, forward)


def _value_and_saved_bwd(
    problem: Problem, wanted: Wanted, residuals: Any, cotangents: Any
) -> tuple[None, Gradients]:
    """Ignores the cotangent of `saved`: only `pull_back` consumes it, and says it is constant."""
    del wanted
    return _estimate_bwd(problem, residuals, cotangents[0])


def _pull_back_fwd(
    problem: Problem, wanted: Wanted, key: Any, inputs: Any, forward: Any, cotangent: Any
) -> tuple[Gradients, Any]:
    (inputs, cotangent), asked = _primals((inputs, cotangent))
    forward, _ = _primals(forward)
    gradients = pull_back(problem, wanted, key.value, inputs, forward, cotangent)
    return gradients, (_Static(asked), key.value, inputs, forward[0], cotangent)


def _pull_back_bwd(
    problem: Problem, wanted: Wanted, residuals: Any, cotangents: Any
) -> tuple[None, Gradients, None, Any]:
    asked, key, inputs, value, cotangent = residuals
    chosen, rest = _split(asked.value, (*inputs, cotangent))

    def gradients_of(chosen: list[Any]) -> Gradients:
        *inputs, cotangent = _join(asked.value, chosen, rest)
        return _surrogate_gradients(problem, wanted, key, tuple(inputs), value, cotangent)

    _, vjp = jax.vjp(gradients_of, chosen)
    *in_inputs, in_cotangent = _spread(asked.value, vjp(jax.tree.map(_instantiate, cotangents))[0])
    return None, tuple(in_inputs), None, in_cotangent


estimate.defvjp(_estimate_fwd, _estimate_bwd, symbolic_zeros=True)
value_and_saved.defvjp(_value_and_saved_fwd, _value_and_saved_bwd, symbolic_zeros=True)
pull_back.defvjp(_pull_back_fwd, _pull_back_bwd, symbolic_zeros=True)


# --- some of a tuple --------------------------------------------------------------------------------


def _split(chosen: Wanted, items: Inputs) -> tuple[list[Any], list[Any]]:
    """Splits `items` into those chosen and the rest."""
    pairs = list(zip(chosen, items, strict=True))
    return [item for choice, item in pairs if choice], [item for choice, item in pairs if not choice]


def _join(chosen: Wanted, ones: list[Any], others: list[Any]) -> Inputs:
    """The inverse of `_split`."""
    sources = {True: iter(ones), False: iter(others)}
    return tuple(next(sources[choice]) for choice in chosen)


def _spread(chosen: Wanted, ones: list[Any]) -> Gradients:
    """Puts `ones` where they were chosen from, None elsewhere."""
    items = iter(ones)
    return tuple(next(items) if choice else None for choice in chosen)
