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

from esjax import _sampling, _sums
from esjax._sampling import Inputs, Problem
from esjax._sums import Gradients, Wanted
from esjax._surrogate import surrogate

Array = jax.Array


# --- the three functions with rules ------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def estimate(problem: Problem, key: Any, inputs: Inputs) -> tuple[Array, Array]:
    """Returns the mean (num_values,) of the block's values over the samples kept, and their number ()."""

    def step(carry: Any, start: Array, count: int) -> tuple[Any, None]:
        total, num_kept = carry
        values = _sampling.evaluate(problem, inputs, _sampling.draw(problem, key, start, count))
        kept = _sums.keep(problem, values)
        total = total + jnp.where(kept[:, None] > 0, values, 0).sum(0)
        return (total, num_kept + kept.sum()), None

    carry = jnp.zeros(problem.num_values, problem.dtype), jnp.zeros((), problem.dtype)
    (total, num_kept), _ = _sampling.fold(problem, step, carry)
    return total / num_kept, num_kept


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def value_and_saved(problem: Problem, wanted: Wanted, key: Any, inputs: Inputs) -> tuple[Array, Any]:
    """Returns the mean, and what `pull_back` needs: gradients (of one pass) or `Values`."""
    if _sums.one_pass(problem):
        return _sums.value_and_gradients(problem, wanted, key, inputs)
    return _sums.value_and_values(problem, key, inputs)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def pull_back(
    problem: Problem, wanted: Wanted, key: Any, inputs: Inputs, forward: Any, cotangent: Array
) -> Gradients:
    """Returns the gradients of ⟨cotangent, mean⟩ in the wanted inputs; evaluates f no more.

    (Except for gradients in args where values were saved, which need the block again.)
    """
    _, saved = forward
    if _sums.one_pass(problem):
        return jax.tree.map(lambda gradient: cotangent[0].astype(gradient.dtype) * gradient, saved)
    return _sums.gradients_from_values(problem, wanted, key, inputs, saved, cotangent)


def _surrogate_gradients(
    problem: Problem, wanted: Wanted, key: Any, inputs: Inputs, cotangent: Array
) -> Gradients:
    """What `pull_back` estimates, by autodiff of `surrogate`: it can be differentiated again."""
    chosen, rest = _sums.split(wanted, inputs)
    _, saved = _sums.value_and_values(problem, key, jax.lax.stop_gradient(inputs))

    def value_of(chosen: list[Any]) -> Array:
        return surrogate(problem, key, _sums.join(wanted, chosen, rest), saved)

    _, vjp = jax.vjp(value_of, chosen)
    return _sums.spread(wanted, vjp(cotangent)[0])


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


def _estimate_fwd(problem: Problem, key: Any, inputs: Any) -> tuple[tuple[Array, Array], Any]:
    inputs, wanted = _primals(inputs)
    value, saved = value_and_saved(problem, wanted, key.value, inputs)
    kept = None if _sums.one_pass(problem) else saved.kept
    num_kept = jnp.asarray(problem.num_samples, problem.dtype) if kept is None else kept.sum()
    return (value, num_kept), (_Static(wanted), key.value, inputs, (value, saved))


def _estimate_bwd(problem: Problem, residuals: Any, cotangents: Any) -> tuple[None, Gradients]:
    """Ignores the cotangent of the number of samples kept, which is a constant."""
    wanted, key, inputs, forward = residuals
    cotangent = _instantiate(cotangents[0])
    return None, pull_back(problem, wanted.value, key, inputs, forward, cotangent)


def _value_and_saved_fwd(problem: Problem, wanted: Wanted, key: Any, inputs: Any) -> tuple[Any, Any]:
    """Serves the caller's `wanted` and this rule's own from one pass."""
    inputs, own = _primals(inputs)
    both = tuple(a or b for a, b in zip(wanted, own, strict=True))
    value, saved = forward = value_and_saved(problem, both, key.value, inputs)
    if _sums.one_pass(problem):
        saved = tuple(s if want else None for s, want in zip(saved, wanted, strict=True))
    return (value, saved), (_Static(both), key.value, inputs, forward)


def _value_and_saved_bwd(
    problem: Problem, wanted: Wanted, residuals: Any, cotangents: Any
) -> tuple[None, Gradients]:
    """Ignores the cotangent of `saved`: only `pull_back` consumes it, and says it is constant."""
    del wanted
    return _estimate_bwd(problem, residuals, cotangents)


def _pull_back_fwd(
    problem: Problem, wanted: Wanted, key: Any, inputs: Any, forward: Any, cotangent: Any
) -> tuple[Gradients, Any]:
    (inputs, cotangent), asked = _primals((inputs, cotangent))
    forward, _ = _primals(forward)
    gradients = pull_back(problem, wanted, key.value, inputs, forward, cotangent)
    return gradients, (_Static(asked), key.value, inputs, cotangent)


def _pull_back_bwd(
    problem: Problem, wanted: Wanted, residuals: Any, cotangents: Any
) -> tuple[None, Gradients, None, Any]:
    asked, key, inputs, cotangent = residuals
    chosen, rest = _sums.split(asked.value, (*inputs, cotangent))

    def gradients_of(chosen: list[Any]) -> Gradients:
        *inputs, cotangent = _sums.join(asked.value, chosen, rest)
        return _surrogate_gradients(problem, wanted, key, tuple(inputs), cotangent)

    _, vjp = jax.vjp(gradients_of, chosen)
    *in_inputs, in_cotangent = _sums.spread(asked.value, vjp(jax.tree.map(_instantiate, cotangents))[0])
    return None, tuple(in_inputs), None, in_cotangent


estimate.defvjp(_estimate_fwd, _estimate_bwd, symbolic_zeros=True)
value_and_saved.defvjp(_value_and_saved_fwd, _value_and_saved_bwd, symbolic_zeros=True)
pull_back.defvjp(_pull_back_fwd, _pull_back_bwd, symbolic_zeros=True)
