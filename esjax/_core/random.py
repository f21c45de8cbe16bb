"""The numbers of `jax.random.uniform` and `jax.random.normal`, bit for bit, in half the time on a CPU.

There JAX computes a threefry hash as a loop over its rounds, with a pass through memory in each. Here the
rounds are unrolled into one pass. Other keys, dtypes and devices, and short draws, are left to `jax.random`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core import chunks

Array = jax.Array
_LEAST_SIZE = 256
"""Numbers per key. Shorter draws are left to JAX; XLA merges those that a backward pass repeats."""

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def normal(key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """Returns `jax.random.normal(key, shape, dtype)`."""
    return _drawn(jax.random.normal, _normal_of_cpu, key, shape, dtype)


def uniform(key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """Returns `jax.random.uniform(key, shape, dtype)`, in [0, 1)."""
    return _drawn(jax.random.uniform, _uniform_of_cpu, key, shape, dtype)


def consume(key: Any) -> None:
    """Tells JAX's checker of key reuse, where it is on, that `key` is used up.

    What is drawn from it is drawn again, on purpose, for a gradient, which the checker cannot know; so
    derivative rules take the key's data, from `data_of`, which it does not follow.
    """
    config: Any = jax.config  # JAX gives its options no types
    if config.jax_debug_key_reuse and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        jax.random.split(key)


def data_of(key: Any) -> tuple[Array, Callable[[Array], Any]]:
    """Returns the data of `key`, new-style or raw, and the function that makes a key from such data."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key, lambda data: data
    impl: Any = jax.random.key_impl(key)
    return jax.random.key_data(key), partial(jax.random.wrap_key_data, impl=impl)


def is_threefry(key: Any) -> bool:
    """Whether `key`, new-style or raw, is a threefry key."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return "threefry" in str(jax.random.key_impl(key))
    return bool(key.shape[-1] == 2)


def _drawn(of_jax: Any, of_cpu: Any, key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    if not _is_served(key, shape, dtype):
        return of_jax(key, shape, dtype)
    words = key if jnp.issubdtype(key.dtype, jnp.uint32) else jax.random.key_data(key)
    return _by_device(of_jax, of_cpu, tuple(shape), words)


def _is_served(key: Any, shape: tuple[int, ...], dtype: Any) -> bool:
    # Otherwise JAX counts in another order. The option is on by default since 0.5, and will go one day.
    partitionable = getattr(jax.config, "jax_threefry_partitionable", True)
    return bool(
        np.dtype(dtype) == np.float32
        and partitionable
        and is_threefry(key)
        and _LEAST_SIZE <= math.prod(shape) < 2**32
    )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _by_device(of_jax: Callable[..., Array], of_cpu: Callable[..., Array], shape: Any, words: Array) -> Array:
    """Returns float32 draws of the shape, from a key's two words."""

    def of_others(words: Array) -> Array:
        return of_jax(jax.random.wrap_key_data(words, impl="threefry2x32"), shape, jnp.float32)

    return jax.lax.platform_dependent(words, cpu=partial(of_cpu, shape), default=of_others)


def _normal_of_cpu(shape: tuple[int, ...], words: Array) -> Array:
    least = np.nextafter(np.float32(-1), np.float32(0))
    between = _uniform_of_cpu(shape, words) * (1 - least) + least
    return np.float32(2**0.5) * jax.lax.erf_inv(jnp.maximum(between, least))


def _uniform_of_cpu(shape: tuple[int, ...], words: Array) -> Array:
    """Returns floats in [0, 1), from the 23 upper bits of each word."""
    bits = _bits_of_cpu(math.prod(shape), words)
    exponent_of_one = np.uint32(0x3F800000)
    floats = jax.lax.bitcast_convert_type((bits >> np.uint32(9)) | exponent_of_one, jnp.float32)
    return (floats - 1).reshape(shape)


def _bits_of_cpu(size: int, words: Array) -> Array:
    """Returns `_hashed` (size,) of one key, or of many under `jax.vmap`, kept apart from what uses it.

    XLA takes integer operations to be cheap, and would hash again for each operation that uses the bits.
    It does not merge branches with what is around them, nor see that this one is always taken.
    (`jax.lax.optimization_barrier` does not help: XLA's CPU compiler drops it before fusing, as the compiled
    program shows, and a gradient takes as long as without it.)
    """

    @jax.custom_batching.custom_vmap
    def bits(keys: Array) -> Array:
        rows = keys.reshape(-1, 2)
        always = jnp.any(rows[:, 0] != (rows[:, 0] ^ np.uint32(1)))
        nothing = chunks.varying_like(jnp.zeros((rows.shape[0], size), jnp.uint32), rows)
        drawn = jax.lax.cond(always, lambda: _hashed(rows, size), lambda: nothing)
        return drawn.reshape(*keys.shape[:-1], size)

    @bits.def_vmap
    def bits_of_many(axis_size: int, in_batched: Any, keys: Array) -> tuple[Array, bool]:
        del axis_size, in_batched
        return bits(keys), True

    return bits(words)


def _hashed(keys: Array, size: int) -> Array:
    """Returns (n, size) uint32 for keys (n, 2): threefry-2x32 of 0, 1, 2, ..., the two words of each xored.

    Twenty rounds (Salmon et al. 2011, sec. 4.1), in the order of JAX's partitionable threefry.
    """
    key = (keys[:, 0, None], keys[:, 1, None])
    schedule = (*key, key[0] ^ key[1] ^ _PARITY)
    counts = jax.lax.broadcasted_iota(jnp.uint32, (keys.shape[0], size), 1)
    left, right = jnp.zeros_like(counts) + schedule[0], counts + schedule[1]
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            left = left + right
            right = left ^ _rotated(right, distance)
        left = left + schedule[(group + 1) % 3]
        right = right + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return left ^ right


def _rotated(words: Array, distance: int) -> Array:
    return (words << np.uint32(distance)) | (words >> np.uint32(32 - distance))
