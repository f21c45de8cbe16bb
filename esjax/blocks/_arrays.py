"""What all blocks do with their arguments: shapes, kinds and masks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax._check import as_array, known

Array = jax.Array


def mask_like(mask: Any, array: Array, name: str) -> Array:
    """Returns the mask as booleans of the array's shape, all true for None.

    Raises:
        ValueError: it is of another shape, or not boolean.
    """
    if mask is None:
        mask = np.ones(array.shape, bool)
    mask = as_array("mask", mask, "give booleans")
    if mask.shape != array.shape or mask.dtype != jnp.bool_:
        raise ValueError(
            f"mask is {mask.dtype}{list(mask.shape)}, and {name} has shape {array.shape}; give a bool for "
            "each, True for those that count"
        )
    return mask


def same_length(**arrays: Any) -> list[Array]:
    """Returns vectors of one length (n,), n ≥ 1.

    Raises:
        ValueError: they are not.
    """
    found = [as_array(name, array) for name, array in arrays.items()]
    if found[0].ndim != 1 or not found[0].size or any(array.shape != found[0].shape for array in found):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(arrays, found, strict=True))
        raise ValueError(f"{shapes}: give vectors of one length (n,), and use jax.vmap over lists")
    return found


def as_floating(name: str, array: Array) -> Array:
    """Returns numbers or booleans as floating ones; raises `ValueError` for others."""
    if jnp.issubdtype(array.dtype, jnp.complexfloating) or jnp.issubdtype(array.dtype, jax.dtypes.extended):
        raise ValueError(f"{name} has dtype {array.dtype}; give real numbers")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array.astype(jnp.result_type(float))
    return array.astype(jnp.float32) if array.dtype.itemsize < 4 else array


def check_known(name: str, array: Array, counted: Array, is_right: Callable[[Any], Any], remedy: str) -> None:
    """Raises `ValueError` for a number that counts and is not right, unless it is traced."""
    values = known(array, counted)
    if values is None:
        return
    wrong = values[~is_right(values)]
    if wrong.size:
        raise ValueError(f"{name} holds {wrong.flat[0]}; {remedy}")


def divided(numerator: Array, denominator: Array, otherwise: float = 0.0) -> Array:
    """Returns the ratio, or `otherwise` where the denominator is 0."""
    is_zero = denominator == 0
    return jnp.where(is_zero, otherwise, numerator / jnp.where(is_zero, 1, denominator))
