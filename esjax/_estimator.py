"""The derivative rules behind `smooth`: one pass for the first order, unbiased at every order.

`estimate` is the value; its gradient comes from values of the block alone. A rule that is itself
differentiated would ask for the block's derivative, so the two functions that `estimate`'s rule calls have
rules of their own, which fall back on `surrogate`, whose derivatives of every order are unbiased.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from esjax import _mapping, _sampling, _statistics, _sums
from esjax._guard import guarded
from esjax._products import matmul
from esjax._sampling import Inputs, Problem
from esjax._sums import Gradients, Values, Wanted
from esjax._surrogate import surrogate
from esjax.diagnostics import Report

Array = jax.Array


# --- the three functions with rules ------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def estimate(problem: Problem, key: Any, inputs: Inputs) -> tuple[Array, Report | None]:
    """Returns the mean (num_values,) of the block's values over the samples kept, and a report if wanted."""
    if problem.informed:
        value, saved = _sums.value_and_values(problem, key, inputs, for_derivatives=False)
        return value, _statistics.report(problem, key, inputs, saved)

    def step(carry: Any, start: Array, count: int) -> tuple[Any, None]:
        total, num_kept = carry
        values = _sampling.evaluate(problem, inputs, _sampling.draw(problem, key, inputs, start, count))
        kept = _sums.keep(problem, inputs, values)
        total = total + jnp.where(kept[:, None] > 0, values, 0).sum(0)
        return (total, num_kept + kept.sum()), None

    zeros = partial(_sampling.zeros, problem, key)
    (total, num_kept), _ = _sampling.fold(problem, step, (zeros(problem.num_values), zeros()))
    return total / num_kept, None


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def value_and_saved(problem: Problem, wanted: Wanted, key: Any, inputs: Inputs) -> tuple[Array, Any]:
    """Returns the mean, and what `pull_back` needs: gradients (of one pass) or `Values`."""
    if _sums.one_pass(problem):
        value, saved = _sums.value_and_gradients(problem, wanted, key, inputs)
    else:
        value, saved = _sums.value_and_values(problem, key, inputs, for_derivatives=any(wanted[2:]))
    return guarded(value, *inputs[:2]), saved


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def pull_back(
    problem: Problem, wanted: Wanted, key: Any, inputs: Inputs, saved: Any, cotangent: Array
) -> Gradients:
    """Returns the gradients of ⟨cotangent, mean⟩ in the wanted inputs; evaluates f no more.

    (Except for gradients in args where values were saved, which need the block again.)
    """
    if _sums.one_pass(problem):
        return jax.tree.map(lambda gradient: cotangent[0].astype(gradient.dtype) * gradient, saved)
    return _sums.gradients_from_values(problem, wanted, key, inputs, saved, cotangent)


# --- rules -------------------------------------------------------------------------------------------


def _estimate_fwd(problem: Problem, key: Any, inputs: Any) -> tuple[tuple[Array, Report | None], Any]:
    """Saves one structure, whatever is perturbed: JAX keeps one, and traces this once for each pattern.

    Which inputs are perturbed is said by shapes, and where nothing is saved there is an empty array.
    """
    wanted = tuple(leaf.perturbed for leaf in inputs)
    _refuse_density_args(problem, wanted)
    key, inputs = key.value, tuple(leaf.value for leaf in inputs)
    value, saved = value_and_saved(problem, wanted, key, inputs)
    report = _statistics.report(problem, key, inputs, saved) if problem.informed else None
    saved = jax.tree.map(lambda leaf: _NOTHING if leaf is None else leaf, saved, is_leaf=_is_none)
    return (value, report), (tuple(_MARKS[want] for want in wanted), key, inputs, saved)


def _estimate_bwd(problem: Problem, residuals: Any, cotangents: Any) -> tuple[None, Gradients]:
    """Ignores the cotangents of the report, which is a constant."""
    marks, key, inputs, saved = residuals
    wanted = tuple(mark.shape == _MARKS[True].shape for mark in marks)
    if _sums.one_pass(problem):
        saved = tuple(leaf if want else None for leaf, want in zip(saved, wanted, strict=True))
    cotangent = cotangents[0]
    if isinstance(cotangent, SymbolicZero):
        cotangent = _sampling.zeros(problem, key, problem.num_values)
    return None, pull_back(problem, wanted, key, inputs, saved, cotangent)


estimate.defvjp(_estimate_fwd, _estimate_bwd, symbolic_zeros=True)

_NOTHING = np.zeros(0, np.float32)
_MARKS = {False: np.zeros((0, 0), np.float32), True: np.zeros((0, 1), np.float32)}
"""Empty arrays that say by their shapes whether an input is perturbed."""


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _refuse_density_args(problem: Problem, moved: Wanted) -> None:
    """Raises `ValueError` where a derivative is asked in what the density of ε depends on."""
    if any(moved[number] for number in problem.density_args):
        raise ValueError(
            "noise or sampler closes over a value that is differentiated, and a smoothed function has no "
            "gradient in it; use jax.lax.stop_gradient on it, or let sigma, which has one, scale the noise"
        )


def _value_and_saved_jvp(problem: Problem, wanted: Wanted, primals: Any, tangents: Any) -> tuple[Any, Any]:
    """Gives what is saved no tangent: only `pull_back` consumes it, and has a rule that needs none."""
    (key, inputs), (_, inputs_dot) = primals, tangents
    value, saved = value_and_saved(problem, wanted, key, inputs)
    samples = _samples(problem, key, inputs)
    _refuse_density_args(problem, _moved(inputs_dot))

    def value_of(inputs: Inputs) -> Array:
        return surrogate(problem, key, inputs, samples)

    value_dot = _jvp_by_reverse_mode(value_of, inputs, inputs_dot)
    return (value, saved), (value_dot, jax.tree.map(jnp.zeros_like, saved))


def _pull_back_jvp(
    problem: Problem, wanted: Wanted, primals: Any, tangents: Any
) -> tuple[Gradients, Gradients]:
    (key, inputs, _, cotangent), (_, inputs_dot, _, cotangent_dot) = primals, tangents
    _refuse_density_args(problem, _moved(inputs_dot))
    samples = _samples(problem, key, inputs)

    def gradients(items: Inputs) -> Gradients:
        *inputs, cotangent = items
        chosen, rest = _sums.split(wanted, tuple(inputs))

        def value_of(chosen: list[Any]) -> Array:
            return surrogate(problem, key, _sums.join(wanted, chosen, rest), samples)

        _, vjp = jax.vjp(value_of, chosen)
        return _sums.spread(wanted, vjp(cotangent)[0])

    gradients_of, chosen, directions = _in_moved(
        gradients, (*inputs, cotangent), (*inputs_dot, cotangent_dot)
    )
    _, gradients_dot = jax.jvp(gradients_of, (chosen,), (directions,))
    return pull_back(problem, wanted, *primals), gradients_dot


value_and_saved.defjvp(_value_and_saved_jvp, symbolic_zeros=True)
pull_back.defjvp(_pull_back_jvp, symbolic_zeros=True)


def _samples(problem: Problem, key: Any, inputs: Inputs) -> Values:
    """Returns the values of all samples, which no derivative goes through."""
    return _sums.value_and_values(problem, key, jax.lax.stop_gradient(inputs), for_derivatives=True)[1]


def _moved(tangents: Inputs) -> Wanted:
    return tuple(not isinstance(tangent, SymbolicZero) for tangent in tangents)


def _in_moved(
    function: Callable[[Inputs], Any], items: Inputs, tangents: Inputs
) -> tuple[Callable[[list[Any]], Any], list[Any], list[Any]]:
    """Returns `function` of those items only that have a tangent, these, and their tangents.

    (The block may have no derivative in the others.)
    """
    moved = _moved(tangents)
    chosen, rest = _sums.split(moved, items)
    directions, _ = _sums.split(moved, tangents)
    return lambda chosen: function(_sums.join(moved, chosen, rest)), chosen, directions


def _jvp_by_reverse_mode(function: Callable[[Inputs], Array], items: Inputs, tangents: Inputs) -> Array:
    """Returns the tangent of `function` (m,), as the product of what its vjp says: Σ J ẋ.

    So a block with a `jax.custom_vjp` of somebody's is never asked for forward mode, which it has not.
    """
    value_of, chosen, directions = _in_moved(function, items, tangents)
    value, vjp = jax.vjp(value_of, chosen)
    each_value = _mapping.varying_like(jnp.eye(value.size, dtype=value.dtype), value)
    (rows,) = jax.vmap(vjp)(each_value)
    moved = jnp.zeros_like(value)
    for row, direction in zip(rows, directions, strict=True):
        product = matmul(row.reshape(value.size, -1), direction.reshape(-1))
        moved = moved + jnp.real(product).astype(value.dtype)
    return moved
