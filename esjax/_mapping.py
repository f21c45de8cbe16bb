"""Many evaluations, as many at once as fit the cache."""

from collections.abc import Callable
from typing import Any

import jax

CHUNK_FLOATS = 2**19
"""Perturbations or values held at once where the caller does not say: 2 MB in float32. Measured on CPUs:
smaller chunks are not worth a second thread to XLA, larger ones leave the cache."""


def at_once(count: int, width: int, multiple_of: int = 1) -> int:
    """Returns how many of `count` to hold at once, each of `width` floats, in groups of `multiple_of`.

    As many as fit the cache; of those, a number that divides `count` is preferred where there is one of at
    least half the most: what is mapped is then compiled once.
    """
    most = min(max(CHUNK_FLOATS // (width * multiple_of), 1) * multiple_of, count)
    sizes = range(most, most // 2, -multiple_of)
    return next((size for size in sizes if count % size == 0), most)


def over(function: Callable[..., Any], num_at_once: int, *arrays: Any) -> Any:
    """Maps `function` over the first axis of arrays (or pytrees of them), `num_at_once` at once."""
    if jax.tree.leaves(arrays)[0].shape[0] <= num_at_once:
        return jax.vmap(function)(*arrays)
    return jax.lax.map(lambda row: function(*row), arrays, batch_size=num_at_once)
