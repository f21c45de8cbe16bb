"""Values whose derivatives come from a rule that no transformation forgets.

JAX forgets a `jax.custom_jvp` in the body of a `jax.lax.scan` that it linearises, and differentiates what was
computed inside instead: second derivatives would silently be wrong. The rule of a primitive is kept.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Array = jax.Array
Rule = Callable[[Any, Any], Any]
"""`(inputs, tangents) -> tangents of the values`: an input's tangent is None where it is known to be 0."""

_with_rule: Any = Primitive("esjax_with_rule")
_with_rule.multiple_results = True


def with_rule(values: Any, rule: Rule, inputs: Any) -> Any:
    """Returns `values`, with derivatives in `inputs` given by `rule`, and higher ones by its derivatives.

    Args:
        values: a pytree of arrays, computed from `jax.lax.stop_gradient(inputs)`; the computation is never
            differentiated.
        rule: must not close over traced values.
        inputs: a pytree of arrays.
    """
    leaves, structure = jax.tree.flatten(values)
    arrays, of_inputs = jax.tree.flatten(inputs)

    def rule_of_leaves(arrays: list[Array], tangents: list[Any]) -> list[Array]:
        return jax.tree.leaves(rule(*(jax.tree.unflatten(of_inputs, each) for each in (arrays, tangents))))

    found = _with_rule.bind(*leaves, *arrays, rule=rule_of_leaves, num_values=len(leaves))
    return jax.tree.unflatten(structure, found)


def _jvp(primals: Any, tangents: Any, *, rule: Rule, num_values: int) -> tuple[Any, Any]:
    found = _with_rule.bind(*primals, rule=rule, num_values=num_values)
    moved = [None if isinstance(each, ad.Zero) else each for each in tangents[num_values:]]
    if all(each is None for each in moved):
        return found, tangents[:num_values]
    return found, rule(list(primals[num_values:]), moved)


def _batch(arrays: Any, axes: Any, *, rule: Rule, num_values: int) -> tuple[Any, Any]:
    """Batches all values, along their first axis, as the rule's tangents are."""
    size = next(array.shape[place] for array, place in zip(arrays, axes, strict=True) if place is not None)

    def moved(array: Array, place: int | None) -> Array:
        if place is None:
            return jnp.broadcast_to(array[None], (size, *array.shape))
        return jnp.moveaxis(array, place, 0)

    values = [moved(*each) for each in zip(arrays[:num_values], axes[:num_values], strict=True)]
    places = list(axes[num_values:])

    def rule_of_many(inputs: list[Array], tangents: list[Any]) -> Any:
        which = [None if tangent is None else place for tangent, place in zip(tangents, places, strict=True)]
        return jax.vmap(rule, (places, which), axis_size=size)(inputs, tangents)

    found = _with_rule.bind(*values, *arrays[num_values:], rule=rule_of_many, num_values=num_values)
    return found, [0] * num_values


_with_rule.def_impl(lambda *arrays, rule, num_values: list(arrays[:num_values]))
_with_rule.def_abstract_eval(lambda *arrays, rule, num_values: list(arrays[:num_values]))
mlir.register_lowering(_with_rule, lambda context, *arrays, rule, num_values: list(arrays[:num_values]))
ad.primitive_jvps[_with_rule] = _jvp
batching.primitive_batchers[_with_rule] = _batch
