"""Many evaluations, as many at once as fit the cache, or on an accelerator, as keep it busy."""

from collections.abc import Callable
from typing import Any

import jax

_CPU_FLOATS = 2**19
"""2 MB in float32. Measured: smaller chunks are not worth a second thread to XLA, larger ones leave the
cache."""

_ACCELERATOR_FLOATS = 2**23
"""32 MB in float32. Measured on an H100: smaller chunks leave it waiting, larger ones gain less than they
hold."""


def floats_at_once() -> int:
    """Returns how many perturbations or values to hold at once on JAX's default device."""
    return _CPU_FLOATS if jax.default_backend() == "cpu" else _ACCELERATOR_FLOATS


def at_once(count: int, width: int, multiple_of: int = 1) -> int:
    """Returns how many of `count` to hold at once, each of `width` floats, in groups of `multiple_of`.

    As many as `floats_at_once` says; of those, a number that divides `count` is preferred where there is
    one of at least half the most: what is mapped is then compiled once.
    """
    most = min(max(floats_at_once() // (width * multiple_of), 1) * multiple_of, count)
    sizes = range(most, most // 2, -multiple_of)
    return next((size for size in sizes if count % size == 0), most)


def over(function: Callable[..., Any], num_at_once: int, *arrays: Any) -> Any:
    """Maps `function` over the first axis of arrays (or pytrees of them), `num_at_once` at once."""
    if jax.tree.leaves(arrays)[0].shape[0] <= num_at_once:
        return jax.vmap(function)(*arrays)
    return jax.lax.map(lambda row: function(*row), arrays, batch_size=num_at_once)
