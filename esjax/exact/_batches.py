"""Many examples or lists, some at a time and in one batch under `jax.vmap`, and sums of many terms."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp

Array = jax.Array

BLOCK_FLOATS = 2**18
"""Examples × nodes × classes held at once, at least one example: 1 MB in float32, what the cache holds."""

_RUN = 256
"""Terms that are summed one by one."""


def by_rows(function: Callable[..., Any], floats: int, *arrays: Array) -> Any:
    """Applies `function`, batched over one axis, to arrays (..., K), a few examples at a time.

    `floats` is how many numbers one example takes meanwhile.
    """
    batch = arrays[0].shape[:-1]
    flat = tuple(array.reshape(-1, array.shape[-1]) for array in arrays)

    def one(row: tuple[Array, ...]) -> Any:
        return jax.tree.map(lambda leaf: leaf[0], function(*(array[None] for array in row)))

    at_once = max(BLOCK_FLOATS // floats, 1)
    all_at_once = at_once >= flat[0].shape[0]
    results = function(*flat) if all_at_once else jax.lax.map(one, flat, batch_size=at_once)
    return jax.tree.map(lambda leaf: leaf.reshape(batch + leaf.shape[1:]), results)


def flattened_under_vmap(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function`, batched over leading axes, so that `jax.vmap` only adds one more of them."""
    apply = jax.custom_batching.custom_vmap(function)

    @apply.def_vmap
    def rule(axis_size: int, in_batched: Any, *arrays: Array) -> Any:
        whole = (
            array if is_batched else jnp.broadcast_to(array[None], (axis_size, *array.shape))
            for array, is_batched in zip(arrays, in_batched, strict=True)
        )
        results = apply(*whole)
        return results, jax.tree.map(lambda _: True, results)

    return cast(Callable[..., Any], apply)


def long_sum(terms: Array, axis: int = -1) -> Array:
    """Returns the sum over an axis, in two steps: 1e5 terms of float32 in one would lose two digits."""
    size, axis = terms.shape[axis], axis % terms.ndim
    if size <= _RUN:
        return terms.sum(axis)
    before, after = terms.shape[:axis], terms.shape[axis + 1 :]
    padded = jnp.pad(terms, [(0, -size % _RUN if each == axis else 0) for each in range(terms.ndim)])
    return padded.reshape(*before, -1, _RUN, *after).sum(axis + 1).sum(axis)
