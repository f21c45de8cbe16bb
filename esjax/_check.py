"""Refusals: the checks of options that every public function shares."""

import math
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_MOST_SAMPLES = 2**31 - 1
"""Samples are numbered by int32."""


def as_array(name: str, value: Any, remedy: str = "give an array of numbers") -> jax.Array:
    """Returns `value` as an array, inside a trace as one that can be looked at where `value` can.

    Raises:
        ValueError: it is none, nor a list of numbers.
    """
    try:
        if isinstance(value, str):  # which JAX may take for the name of a dtype
            raise TypeError
        with jax.ensure_compile_time_eval():
            return jnp.asarray(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r} is no array; {remedy}") from None


def check_count(name: str, value: Any) -> int:
    """Returns `value` as an int.

    Raises:
        ValueError: it is no whole number >= 1.
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
    """Raises `ValueError` unless each leaf of σ is of positive numbers; a traced one cannot be looked at.

    They must be so in JAX's default precision: one that float32 rounds to 0 perturbs nothing.
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


def known(array: Any, counted: Any = True) -> np.ndarray | None:
    """Returns the numbers of an array, where `counted`. None: it is traced, so they cannot be looked at."""
    if isinstance(array, jax.core.Tracer) or isinstance(counted, jax.core.Tracer):
        return None
    return np.asarray(array) if counted is True else np.asarray(array)[np.asarray(counted)]


def check_classes(name: str, classes: Any, num_classes: int, counted: Any = True) -> None:
    """Raises `ValueError` unless classes are integers and, where known and counted, in [0, num_classes)."""
    if not jnp.issubdtype(classes.dtype, jnp.integer):
        raise ValueError(f"{name} has dtype {classes.dtype}; give integer classes")
    values = known(classes, counted)
    if values is None:
        return
    wrong = values[(values < 0) | (values >= num_classes)]
    if wrong.size:
        raise ValueError(
            f"{name}={wrong.flat[0]} is out of range for {num_classes} classes; use 0 to {num_classes - 1}"
        )


def check_key(key: Any) -> None:
    """Raises `ValueError` unless `key` is one PRNG key, typed or raw."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ():
        return
    if dtype == jnp.uint32 and shape == jax.eval_shape(jax.random.PRNGKey, 0).shape:
        return
    what = f"{dtype}{list(shape)}" if shape is not None else repr(key)
    raise ValueError(
        f"key={what} is not one PRNG key; pass jax.random.key(seed), and for many examples "
        "jax.vmap over jax.random.split(key, num_examples)"
    )
