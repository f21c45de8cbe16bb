"""One vector for a pytree of arrays, so that the estimators see (dim,) and (num_samples, dim) only."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core import random

Array = jax.Array

_COMPLEX = (
    "use its real and imaginary parts as two leaves, (z.real, z.imag), and jax.lax.complex to join them again"
)


def accumulator_dtype(tree: Any) -> Any:
    """Returns the dtype to sum in: float32, or wider where a leaf is wider."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(tree)]
    return max((jnp.dtype(jnp.float32), *dtypes), key=lambda dtype: dtype.itemsize)


def check_arrays(tree: Any, name: str, remedy: str) -> None:
    """Raises `ValueError` for the first leaf of `tree` that is not an array or number, naming its path.

    The same goes for integers that JAX would wrap, since it holds them in 32 bits.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        where = f"{name}{jax.tree_util.keystr(path)}"
        try:
            jax.typeof(leaf)
        except TypeError:
            raise ValueError(f"{where}={leaf!r} is not an array or number; {remedy}") from None
        except OverflowError:
            wrapped = leaf
        else:
            wrapped = _wrapped(leaf)
        if wrapped is not None:
            raise ValueError(
                f"{where} holds {wrapped}, which JAX has too few bits for and would wrap to another number; "
                'renumber what it counts, or use jax.config.update("jax_enable_x64", True)'
            )


def _wrapped(leaf: Any) -> int | None:
    """Returns the first integer of `leaf` that JAX would wrap, if there is one."""
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return None
    given = np.asarray(leaf)
    if given.dtype.kind not in "iu":
        return None
    held = given.astype(jax.dtypes.canonicalize_dtype(given.dtype))
    wrong = given[given != held]
    return int(wrong.flat[0]) if wrong.size else None


def check_args(args: Any) -> None:
    """Raises `ValueError` for the first leaf of what is passed on to `fun` that is not an array or number."""
    remedy = (
        "let fun close over what all calls share, as functools.partial does; in place of text pass its index "
        "in a list, and have it looked up by the python_fun of esjax.host.wrap"
    )
    check_arrays(args, "args", remedy)


def canonical(leaf: Any) -> Array:
    """Returns a JAX array, even where `leaf` is a tracer of `jax.vmap` around a NumPy array.

    A derivative rule cannot take such a tracer inside `jax.jit`.
    """
    return jnp.copy(leaf) if isinstance(leaf, jax.core.Tracer) else jnp.asarray(leaf)


def check_floating(tree: Any, name: str, remedy: str) -> None:
    """Raises `ValueError` for the first leaf of `tree` that is not floating, naming its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise ValueError(f"{name} has no arrays in it; give at least one floating array")
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            where = f"{name}{jax.tree_util.keystr(path)}"
            if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
                remedy = _COMPLEX
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


def check_sigma_fits(sigma: Any, x: Any) -> Any:
    """Returns σ as one number, or as a list with one entry for each leaf of x.

    Args:
        sigma: one number; or x's structure with, for each leaf, one number or an array of its shape.
        x: pytree of arrays.

    Raises:
        ValueError: σ has a different structure, or a leaf of it a different shape.
    """
    if jax.tree_util.all_leaves([sigma]) and jnp.ndim(sigma) == 0:
        return sigma
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
    return jax.tree.leaves(sigma)


def flatten_sigma(sigma: Any, x: Any, dtype: Any) -> Array:
    """Turns what `check_sigma_fits` returns into () for one number, else (dim,), one for each coordinate."""
    if not isinstance(sigma, list):
        return jnp.asarray(sigma, dtype)
    pairs = zip(sigma, jax.tree.leaves(x), strict=True)
    return flatten([jnp.broadcast_to(jnp.asarray(leaf, dtype), like.shape) for leaf, like in pairs], dtype)


def widen(array: Array) -> Array:
    """Returns floating arrays narrower than float32 as float32, others as they are."""
    narrow = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4
    return array.astype(jnp.float32) if narrow else array


def plain(leaves: list[Array]) -> tuple[tuple[Array, ...], Callable[[tuple[Array, ...]], list[Array]]]:
    """Returns arrays as derivative rules take them, and a function that restores what they were.

    Narrow floating ones are widened, so that gradients in them are summed in float32. Keys are replaced by
    their data, so that JAX's checker of key reuse does not follow them into rules, which evaluate a block
    again on purpose.
    """
    pairs = [_plain(leaf) for leaf in leaves]
    restorers = [restore for _, restore in pairs]

    def restore(arrays: tuple[Array, ...]) -> list[Array]:
        return [restore(array) for restore, array in zip(restorers, arrays, strict=True)]

    return tuple(array for array, _ in pairs), restore


def _plain(leaf: Array) -> tuple[Array, Callable[[Array], Array]]:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return random.data_of(leaf)
    dtype, wide = leaf.dtype, widen(leaf)
    if wide.dtype == dtype:
        return wide, lambda array: array
    return wide, lambda array: array.astype(dtype)
