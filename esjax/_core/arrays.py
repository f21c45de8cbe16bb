"""What blocks and their closed forms do with their arguments: shapes, kinds and masks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.check import as_array, as_given, known

Array = jax.Array


def mask_like(mask: Any, array: Any, name: str) -> Array:
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


def same_length(**arrays: Any) -> list[Any]:
    """Returns vectors of one length (n,), n ≥ 1, of the dtypes that they came in.

    Raises:
        ValueError: they are not.
    """
    found = [as_given(name, array) for name, array in arrays.items()]
    if found[0].ndim != 1 or not found[0].size or any(array.shape != found[0].shape for array in found):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(arrays, found, strict=True))
        raise ValueError(f"{shapes}: give vectors of one length (n,), and use jax.vmap over lists")
    return found


def as_floating(name: str, given: Any) -> Array:
    """Returns numbers or booleans as floating numbers; raises `ValueError` for others."""
    _check_real(name, given)
    if not jnp.issubdtype(given.dtype, jnp.floating):
        given = given.astype(jnp.result_type(float))
    return as_array(name, given.astype(jnp.float32) if given.dtype.itemsize < 4 else given)


def as_positive(name: str, given: Any) -> Array:
    """Returns which of numbers or booleans are > 0; raises `ValueError` for others."""
    _check_real(name, given)
    return as_array(name, given if given.dtype == jnp.bool_ else given > 0)


def as_ordered(name: str, given: Any) -> Array:
    """Returns numbers (n,) that compare with each other as the given ones do; NaN stays NaN.

    Floats stay floats and integers integers, since float32 cannot tell all of int32 apart. Known numbers of
    more bits than JAX would keep are replaced by their ranks.

    Raises:
        ValueError: they are not real numbers or booleans.
    """
    _check_real(name, given)
    if isinstance(given, np.ndarray):
        ranks = np.unique(given, return_inverse=True)[1].astype(np.int32)
        is_nan = np.isnan(given)
        return as_array(name, np.where(is_nan, np.float32(np.nan), ranks) if is_nan.any() else ranks)
    if jnp.issubdtype(given.dtype, jnp.floating):
        return as_floating(name, given)
    return given.astype(jnp.int32) if given.dtype.itemsize < 4 else given


def _check_real(name: str, given: Any) -> None:
    if jnp.issubdtype(given.dtype, jnp.complexfloating) or jnp.issubdtype(given.dtype, jax.dtypes.extended):
        raise ValueError(f"{name} has dtype {given.dtype}; give real numbers")


def check_known(name: str, given: Any, counted: Array, is_right: Callable[[Any], Any], remedy: str) -> None:
    """Raises `ValueError` if a number that counts is not right, unless it is traced."""
    values = known(given, counted)
    if values is None:
        return
    wrong = values[~is_right(values)]
    if wrong.size:
        raise ValueError(f"{name} holds {wrong.flat[0]}; {remedy}")


def how_many(which: Array) -> Array:
    """Returns how many booleans are true, floating."""
    return which.sum(dtype=jnp.int32).astype(jnp.result_type(float))


def divided(numerator: Array, denominator: Array, otherwise: float = 0.0) -> Array:
    """Returns the ratio, or `otherwise` where the denominator is 0."""
    is_zero = denominator == 0
    return jnp.where(is_zero, otherwise, numerator / jnp.where(is_zero, 1, denominator))


def exponential_gains(grades: Array) -> Array:
    """Returns 2^grade − 1 (n,), in units of a power of 2 where the largest would overflow."""
    excess = jnp.maximum(grades.max() - 64, 0)
    return 2.0 ** (grades - excess) - 2.0**-excess
