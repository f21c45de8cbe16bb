"""One vector for a pytree of arrays, so that the estimators see (dim,) and (num_samples, dim) only."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def accumulator_dtype(tree: Any) -> Any:
    """Returns the dtype to sum in: float32, or wider where a leaf is wider."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(tree)]
    return max((jnp.dtype(jnp.float32), *dtypes), key=lambda dtype: dtype.itemsize)


def check_floating(tree: Any, name: str, remedy: str) -> None:
    """Raises `ValueError` for the first leaf of `tree` that is not floating, naming its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise ValueError(f"{name} has no arrays in it; {remedy}")
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            where = f"{name}{jax.tree_util.keystr(path)}"
            raise ValueError(f"{where} has dtype {leaf.dtype}, which cannot be smoothed; {remedy}")


def flatten(tree: Any, dtype: Any) -> Array:
    """Joins the leaves of `tree` (arrays) into one vector (dim,) of `dtype`."""
    leaves = [jnp.ravel(leaf).astype(dtype) for leaf in jax.tree.leaves(tree)]
    return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves)


def unflattener(tree: Any) -> Callable[[Array], Any]:
    """Returns the function that turns a vector (dim,) back into the shapes and dtypes of `tree`."""
    leaves, treedef = jax.tree.flatten(tree)
    shapes = [(leaf.shape, leaf.dtype) for leaf in leaves]
    ends = np.cumsum([math.prod(shape) for shape, _ in shapes])[:-1]

    def unflatten(vector: Array) -> Any:
        parts = jnp.split(vector, ends)
        leaves = [
            part.reshape(shape).astype(dtype) for part, (shape, dtype) in zip(parts, shapes, strict=True)
        ]
        return jax.tree.unflatten(treedef, leaves)

    return unflatten


def flatten_sigma(sigma: Any, x: Any, dtype: Any) -> Array:
    """Turns σ into () where it is one number, else into (dim,), one number for each coordinate of x.

    Args:
        sigma: one number; or x's structure with, for each leaf, one number or an array of its shape.
        x: pytree of arrays.
        dtype: of the result.

    Raises:
        ValueError: σ has another structure, or a leaf another shape.
    """
    if jax.tree_util.all_leaves([sigma]) and jnp.ndim(sigma) == 0:
        return jnp.asarray(sigma, dtype)
    remedy = "give one number, or x's structure with one number or an array of the leaf's shape for each leaf"
    found, wanted = str(jax.tree.structure(sigma)), str(jax.tree.structure(x))
    if found != wanted:
        raise ValueError(f"sigma has structure {found}, and x has {wanted}; {remedy}")
    for (path, leaf), like in zip(
        jax.tree_util.tree_leaves_with_path(sigma), jax.tree.leaves(x), strict=True
    ):
        if jnp.shape(leaf) not in ((), like.shape):
            name = f"sigma{jax.tree_util.keystr(path)}"
            raise ValueError(f"{name} has shape {jnp.shape(leaf)}, and x there has {like.shape}; {remedy}")
    spread = jax.tree.map(lambda leaf, like: jnp.broadcast_to(jnp.asarray(leaf, dtype), like.shape), sigma, x)
    return flatten(spread, dtype)
