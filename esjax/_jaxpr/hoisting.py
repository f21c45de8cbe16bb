"""Functions freed of the traced values that they close over; imports only jax.

A derivative rule may be called where those tracers are no longer valid, so it takes them as arguments.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def hoisted(function: Callable[..., Any], *args: Any) -> tuple[Callable[..., Any], Any, list[Any]]:
    """Traces `function` at `args`, and takes out the traced values that it closes over.

    (`jax.closure_convert` takes out only floating ones: an integer label would stay behind.)

    Returns:
        `(consts, *args) -> value`; the value's structure, shapes and dtypes; and those consts.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    is_traced = [isinstance(const, jax.core.Tracer) for const in closed.consts]
    fixed = [const for const, traced in zip(closed.consts, is_traced, strict=True) if not traced]
    jaxpr, treedef = closed.jaxpr, jax.tree.structure(shape)

    def call(consts: list[Any], *args: Any) -> Any:
        sources = {True: iter(consts), False: iter(fixed)}
        both = [next(sources[traced]) for traced in is_traced]
        return jax.tree.unflatten(treedef, jax.core.eval_jaxpr(jaxpr, both, *jax.tree.leaves(args)))

    return call, shape, [const for const, traced in zip(closed.consts, is_traced, strict=True) if traced]


def hoisted_elementwise(
    function: Callable[..., Any], *numbers: Array
) -> tuple[Callable[..., Any], list[Any]]:
    """As `hoisted`, for a function of numbers that is applied elementwise to arrays of any one shape.

    Where it closes over nothing that is traced, it is called directly.
    """
    at_scalars, _, consts = hoisted(function, *numbers)
    if not consts:
        return lambda consts, *arrays: function(*arrays), consts

    def call(consts: list[Any], *arrays: Array) -> Any:
        mapped: Callable[..., Any] = partial(at_scalars, consts)
        for _ in range(jnp.ndim(arrays[0])):
            mapped = jax.vmap(mapped)
        return mapped(*arrays)

    return call, consts
