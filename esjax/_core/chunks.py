"""Many evaluations, as many at once as fit the cache or, on an accelerator, as keep it busy."""

from collections.abc import Callable
from typing import Any

import jax

_CPU_FLOATS = 2**19
"""2 MB in float32. Measured: XLA does not give smaller chunks a second thread, and larger ones overflow the
cache."""

_ACCELERATOR_FLOATS = 2**23
"""32 MB in float32. Measured on an H100: smaller chunks leave it idle, and larger ones gain little for the
memory that they take."""


def floats_at_once() -> int:
    """Returns how many perturbations or values to hold at once on JAX's default device."""
    return _CPU_FLOATS if jax.default_backend() == "cpu" else _ACCELERATOR_FLOATS


def at_once(count: int, width: int, multiple_of: int = 1) -> int:
    """Returns how many of `count` to hold at once, each of `width` floats, in groups of `multiple_of`.

    As many as `floats_at_once` allows, and at least one group; a number that divides `count` is preferred
    where there is one above half of that: the mapped function is then compiled only once.
    """
    most = min(max(floats_at_once() // (width * multiple_of), 1) * multiple_of, count)
    sizes = range(most, most // 2, -multiple_of)
    return next((size for size in sizes if count % size == 0), most)


def over(function: Callable[..., Any], num_at_once: int, *arrays: Any) -> Any:
    """Maps `function` over the first axis of arrays (or pytrees of them), `num_at_once` at a time."""
    if jax.tree.leaves(arrays)[0].shape[0] <= num_at_once:
        return jax.vmap(function)(*arrays)
    return jax.lax.map(lambda row: function(*row), arrays, batch_size=num_at_once)


# --- inside jax.shard_map ----------------------------------------------------------------------------


def _axes(tree: Any) -> frozenset[str]:
    """Returns the axes of `jax.shard_map` that any array of `tree` varies over."""
    return frozenset[str]().union(
        *(jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(tree))
    )


def varying_like(tree: Any, like: Any) -> Any:
    """Returns the arrays of `tree`, made to vary over all the axes that those of `like` vary over.

    A scan or a branch that starts from constants needs this where its results vary. So does a derivative
    rule: the gradient in what all devices share is then the sum of theirs, as JAX defines it.
    """
    axes = _axes(like)

    def varying(leaf: Any) -> Any:
        missing = tuple(sorted(axes - _axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(varying, tree) if axes else tree


def varying_alike(tree: Any) -> Any:
    """Returns the arrays of `tree`, made to vary over the same axes."""
    return varying_like(tree, tree)


def vary_alike(tree: Any) -> bool:
    """Whether all arrays of `tree` vary over the same axes."""
    return len({_axes(leaf) for leaf in jax.tree.leaves(tree)}) <= 1


def varies_more(tree: Any, like: Any) -> bool:
    """Whether any array of `tree` varies over an axis that none of `like` does."""
    return not _axes(tree) <= _axes(like)
