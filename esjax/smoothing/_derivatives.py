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
from jax.extend.core import Jaxpr, jaxprs_in_params

from esjax._core import chunks
from esjax._core.products import matmul
from esjax._core.rules import with_rule
from esjax._core.traceable import refuse_axes_of_vmap
from esjax.smoothing import _folding, _inputs, _samples, _sums, _weights
from esjax.smoothing._inputs import Gradients, Inputs, Wanted
from esjax.smoothing._problem import Problem
from esjax.smoothing._surrogate import surrogate
from esjax.smoothing._weights import Values

Array = jax.Array


# --- the three functions with rules ------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def estimate(problem: Problem, key: Any, inputs: Inputs) -> tuple[Array, Any]:
    """Returns the mean (num_values,) of the block's values over the samples kept, and any information."""
    if problem.informs is not None:
        value, saved = _sums.value_and_values(problem, key, inputs, for_derivatives=False)
        return value, problem.informs(problem, key, inputs, saved)

    def step(carry: Any, start: Array, count: int) -> tuple[Any, None]:
        total, num_kept = carry
        drawn = _samples.draw(problem, key, inputs, start, count)
        terms, kept = _weights.kept_terms(problem, inputs, drawn)
        return (total + terms.sum(0), num_kept + kept.sum()), None

    zeros = partial(_folding.zeros, problem, key)
    (total, num_kept), _ = _folding.fold(problem, step, (zeros(problem.num_terms), zeros()))
    return _samples.combined(problem, inputs, total / num_kept), None


def value_and_saved(problem: Problem, wanted: Wanted, key: Any, inputs: Inputs) -> tuple[Array, Any]:
    """Returns the mean, and what `pull_back` needs: gradients (of one pass) or `Values`, as constants."""
    held = jax.lax.stop_gradient(inputs)
    if _sums.one_pass(problem):
        value, saved = _sums.value_and_gradients(problem, wanted, key, held)
    else:
        value, saved = _sums.value_and_values(problem, key, held, for_derivatives=any(wanted[2:]))
    return with_rule(value, partial(_value_dot, problem), (key, inputs)), saved


def pull_back(
    problem: Problem, wanted: Wanted, key: Any, inputs: Inputs, saved: Any, cotangent: Array
) -> Gradients:
    """Returns the gradients of ⟨cotangent, mean⟩ in the wanted inputs.

    It does not evaluate f again, except for gradients in args where values were saved.
    """
    held, saved, factors = jax.lax.stop_gradient((inputs, saved, cotangent))
    if _sums.one_pass(problem):
        gradients = jax.tree.map(lambda gradient: factors[0].astype(gradient.dtype) * gradient, saved)
    else:
        gradients = _sums.gradients_from_values(problem, wanted, key, held, saved, factors)
    return with_rule(gradients, partial(_gradients_dot, problem, wanted), (key, inputs, cotangent))


_NOTHING = np.zeros(0, np.float32)
_MARKS = {False: np.zeros((0, 0), np.float32), True: np.zeros((0, 1), np.float32)}
"""Empty arrays whose shapes say whether an input is perturbed."""


def _is_none(leaf: Any) -> bool:
    return leaf is None


# --- rules -------------------------------------------------------------------------------------------


def _estimate_fwd(problem: Problem, key: Any, inputs: Any) -> tuple[tuple[Array, Any], Any]:
    """Saves one structure, whatever is perturbed: JAX keeps only one, but traces this for each pattern.

    Shapes say which inputs are perturbed, and an empty array stands where nothing is saved.
    """
    wanted = tuple(leaf.perturbed for leaf in inputs)
    _refuse_constant_args(problem, wanted)
    key, inputs = key.value, tuple(leaf.value for leaf in inputs)
    refuse_axes_of_vmap(jax.make_jaxpr(problem.fun)(inputs[0], inputs[2:]))
    value, saved = value_and_saved(problem, wanted, key, inputs)
    info = None if problem.informs is None else problem.informs(problem, key, inputs, saved)
    saved = jax.tree.map(lambda leaf: _NOTHING if leaf is None else leaf, saved, is_leaf=_is_none)
    return (value, info), (tuple(_MARKS[want] for want in wanted), key, inputs, saved)


def _estimate_bwd(problem: Problem, residuals: Any, cotangents: Any) -> tuple[None, Gradients]:
    """Ignores the cotangents of what is told of the samples, which is constant."""
    marks, key, inputs, saved = residuals
    wanted = tuple(mark.shape == _MARKS[True].shape for mark in marks)
    if _sums.one_pass(problem):
        saved = tuple(leaf if want else None for leaf, want in zip(saved, wanted, strict=True))
    cotangent = cotangents[0]
    if isinstance(cotangent, SymbolicZero):
        cotangent = _folding.zeros(problem, key, problem.num_values)
    return None, pull_back(problem, wanted, key, inputs, saved, cotangent)


estimate.defvjp(_estimate_fwd, _estimate_bwd, symbolic_zeros=True)


def _refuse_constant_args(problem: Problem, moved: Wanted) -> None:
    """Raises `ValueError` where a derivative is asked for in an input that has none."""
    if any(moved[number] for number in problem.constant_args):
        raise ValueError(
            "noise, sampler, discard or a transform closes over a value that is differentiated, and a "
            "smoothed function has no gradient in it; close over jax.lax.stop_gradient of it"
        )


def _value_dot(problem: Problem, primals: Any, tangents: Any) -> Array:
    (key, inputs), (_, inputs_dot) = primals, tangents
    _refuse_constant_args(problem, _moved(inputs_dot))
    samples = _constant_values(problem, key, inputs)

    def value_of(inputs: Inputs) -> Array:
        return surrogate(problem, key, inputs, samples)

    return _tangent(value_of, inputs, inputs_dot)


def _gradients_dot(problem: Problem, wanted: Wanted, primals: Any, tangents: Any) -> Gradients:
    (key, inputs, cotangent), (_, inputs_dot, cotangent_dot) = primals, tangents
    _refuse_constant_args(problem, _moved(inputs_dot))
    samples = _constant_values(problem, key, inputs)

    def gradients(items: Inputs) -> Gradients:
        *inputs, cotangent = items
        chosen, rest = _inputs.split(wanted, tuple(inputs))

        def value_of(chosen: list[Any]) -> Array:
            return surrogate(problem, key, _inputs.join(wanted, chosen, rest), samples)

        _, vjp = jax.vjp(value_of, chosen)
        return _inputs.spread(wanted, vjp(cotangent)[0])

    gradients_of, chosen, directions = _in_moved(
        gradients, (*inputs, cotangent), (*inputs_dot, cotangent_dot)
    )
    return jax.jvp(gradients_of, (chosen,), (directions,))[1]


def _constant_values(problem: Problem, key: Any, inputs: Inputs) -> Values:
    """Returns the values of all samples, which no derivative goes through."""
    return _sums.value_and_values(problem, key, jax.lax.stop_gradient(inputs), for_derivatives=True)[1]


def _moved(tangents: Inputs) -> Wanted:
    return tuple(tangent is not None for tangent in tangents)


def _in_moved(
    function: Callable[[Inputs], Any], items: Inputs, tangents: Inputs
) -> tuple[Callable[[list[Any]], Any], list[Any], list[Any]]:
    """Returns `function` of only those items that have a tangent, those items, and their tangents.

    (The block may have no derivative in the others.)
    """
    moved = _moved(tangents)
    chosen, rest = _inputs.split(moved, items)
    directions, _ = _inputs.split(moved, tangents)
    return lambda chosen: function(_inputs.join(moved, chosen, rest)), chosen, directions


def _tangent(function: Callable[[Inputs], Array], items: Inputs, tangents: Inputs) -> Array:
    """Returns the tangent J ẋ of `function`: by forward mode or, where the block has none, row by row.

    (A block's own `jax.custom_vjp` has none, and its backward pass may be a program on the host.)
    """
    value_of, chosen, directions = _in_moved(function, items, tangents)
    if not _has_custom_vjp(jax.make_jaxpr(value_of)(chosen).jaxpr):
        return jax.jvp(value_of, (chosen,), (directions,))[1]
    value, vjp = jax.vjp(value_of, chosen)
    each_value = chunks.varying_like(jnp.eye(value.size, dtype=value.dtype), value)
    (rows,) = jax.vmap(vjp)(each_value)
    products = (
        matmul(row.reshape(value.size, -1), direction.reshape(-1))
        for row, direction in zip(rows, directions, strict=True)
    )
    return sum((jnp.real(each).astype(value.dtype) for each in products), jnp.zeros_like(value))


def _has_custom_vjp(jaxpr: Jaxpr) -> bool:
    return any(
        equation.primitive.name.startswith("custom_vjp")
        or any(_has_custom_vjp(inner) for inner in jaxprs_in_params(equation.params))
        for equation in jaxpr.eqns
    )
