"""Refusals: the checks of options that every public function shares."""

import math
from collections.abc import Iterable
from functools import lru_cache
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_MOST_SAMPLES = 2**31 - 1
"""Samples are numbered by int32."""


def as_array(name: str, value: Any, remedy: str = "give an array of numbers") -> jax.Array:
    """Returns `value` as an array; inside a trace, as a concrete one where `value` is concrete.

    Raises:
        ValueError: it is neither an array nor a number or list of numbers.
    """
    try:
        if isinstance(value, str):  # which JAX may take for the name of a dtype
            raise TypeError
        with jax.ensure_compile_time_eval():
            return jnp.asarray(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name}={value!r} is not an array; {remedy}") from None


def as_given(name: str, value: Any, remedy: str = "give an array of numbers") -> np.ndarray | jax.Array:
    """Returns `value` as an array of its own dtype: NumPy's where JAX would wrap or round its numbers.

    Raises:
        ValueError: as for `as_array`.
    """
    if isinstance(value, jax.core.Tracer):
        return value
    try:
        given = value if isinstance(value, jax.Array) else np.asarray(value)
    except (TypeError, ValueError):  # a list of traced numbers, say
        return as_array(name, value, remedy)
    is_wide = given.dtype.itemsize > jnp.result_type(float).itemsize
    if is_wide and jnp.issubdtype(given.dtype, np.number):
        return np.asarray(given)
    return as_array(name, value, remedy)


def check_count(name: str, value: Any) -> int:
    """Returns `value` as an int.

    Raises:
        ValueError: it is not a whole number >= 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number >= 1")
    return int(value)


def check_num_samples(value: Any) -> int:
    """Returns `num_samples` as an int; raises `ValueError` unless it is in [1, 2³¹)."""
    count = check_count("num_samples", value)
    if count > _MOST_SAMPLES:
        raise ValueError(f"num_samples={count} must be at most {_MOST_SAMPLES}; average several calls")
    return count


def check_positive(name: str, value: Any, remedy: str) -> None:
    """Raises `ValueError` unless `value` is one finite number > 0."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise ValueError(f"{name}={value!r} must be a finite number > 0; {remedy}")


def check_sigma(sigma: Any) -> None:
    """Raises `ValueError` unless each leaf of σ holds positive numbers; a traced leaf cannot be checked.

    They must be positive in JAX's default precision: a σ that float32 rounds to 0 perturbs nothing.
    """
    if sigma is None:
        raise ValueError("sigma=None is not a number; use numbers > 0")
    dtype = jnp.result_type(float)
    for path, leaf in jax.tree_util.tree_leaves_with_path(sigma):
        name = f"sigma{jax.tree_util.keystr(path)}"
        if isinstance(leaf, jax.core.Tracer):
            continue
        try:
            if np.asarray(leaf).dtype == bool:
                raise TypeError
            given = np.asarray(leaf)
            with np.errstate(over="ignore", under="ignore"):
                values = given.astype(dtype, casting="same_kind")
        except (TypeError, ValueError):
            raise ValueError(f"{name}={leaf!r} is not a number; use numbers > 0") from None
        wrong = given[~((values >= np.finfo(dtype).tiny) & (values < math.inf))]
        if wrong.size or not values.size:
            found = wrong.flat[0] if wrong.size else leaf
            raise ValueError(
                f"{name}={found} must be a finite number > 0 in {dtype}; esjax.sigma.from_logits suggests one"
            )


def one_of(namespace: str, names: Iterable[str], value: Any) -> str:
    """Returns the remedy for an option that is not one of a namespace's, but may be the name of one."""
    names = [name for name in names if name.islower()]  # a name with a capital is a type's
    if isinstance(value, str) and value in names:
        return f"pass esjax.{namespace}.{value} itself, not its name"
    return f"use one of esjax.{namespace}: {', '.join(names)}"


def known(array: Any, counted: Any = True) -> np.ndarray | None:
    """Returns the numbers of an array where `counted` is true, or None where either is traced."""
    if isinstance(array, jax.core.Tracer) or isinstance(counted, jax.core.Tracer):
        return None
    return np.asarray(array) if counted is True else np.asarray(array)[np.asarray(counted)]


def as_classes(
    num_classes: int, counted: Any = True, *, option: str = "", **arrays: np.ndarray | jax.Array
) -> list[jax.Array]:
    """Returns integer classes, given in their original dtypes, as int32.

    `option` names the argument that allows more classes, if there is one.

    Raises:
        ValueError: they are not integers, or one that is known and counted is not in [0, num_classes).
    """
    for name, given in arrays.items():
        if not jnp.issubdtype(given.dtype, jnp.integer):
            raise ValueError(f"{name} has dtype {as_array(name, given).dtype}; give integer classes")
    seen = {name: known(given, counted) for name, given in arrays.items()}
    values = {name: array for name, array in seen.items() if array is not None and array.size}
    for name, array in values.items():
        wrong = array[(to_int32(array) < 0) | (to_int32(array) >= num_classes)]
        if wrong.size:
            largest = max(int(each.max()) for each in values.values())
            remedy = f", or pass {option}={largest + 1}" if option and largest >= num_classes else ""
            raise ValueError(
                f"{name}={wrong.flat[0]} is out of range for {num_classes} classes; "
                f"use 0 to {num_classes - 1}{remedy}"
            )
    return [as_array(name, to_int32(given)) for name, given in arrays.items()]


def to_int32(given: Any) -> Any:
    """Returns integers as int32, clipped to its range: an index that is out of range stays so."""
    if given.dtype.itemsize >= 4 and given.dtype != np.int32:
        own, wanted = np.iinfo(given.dtype), np.iinfo(np.int32)
        given = given.clip(max(own.min, wanted.min), wanted.max)
    return given.astype(np.int32)


@lru_cache
def _raw_shape(impl: str) -> tuple[int, ...]:
    return jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=impl))).shape


def check_key(key: Any) -> None:
    """Raises `ValueError` unless `key` is one PRNG key, typed or raw."""
    if type(key).__module__.startswith("flax.nnx") and type(key).__name__ in ("Rngs", "RngStream"):
        raise ValueError(
            f"key is an nnx.{type(key).__name__}, which makes keys when called; pass one, such as rngs() "
            "from its default stream, or rngs.params() from one named params"
        )
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ():
        return
    config: Any = jax.config  # JAX gives its options no types
    if dtype == jnp.uint32 and shape == _raw_shape(config.jax_default_prng_impl):
        return
    what = f"{dtype}{list(shape)}" if shape is not None else repr(key)
    raise ValueError(
        f"key={what} is not one PRNG key; pass jax.random.key(seed), and for many examples "
        "jax.vmap over jax.random.split(key, num_examples)"
    )
