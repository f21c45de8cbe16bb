"""What every sampler says of its groups, what it checks, and how large groups may be."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.check import check_count
from esjax.noise import Noise

Array = jax.Array


class Groups(NamedTuple):
    """How one group is drawn.

    Attributes:
        size: samples in a group, in [1, N]; the last group is cut short where N is not a multiple.
        draw: `(key, dtype) -> (size, dim)` perturbations ε.
    """

    size: int
    draw: Callable[[Any, Any], Array]


Sampler = Callable[[int, int, Noise], Groups]
"""`(num_samples, dim, noise) -> Groups`, N ≥ 1, D ≥ 0; raises `ValueError` where it cannot serve these."""

_GROUP_FLOATS = 2**16
"""The most numbers in one group, 256 KB in float32: where a group fits the cache, structure costs little."""


def check(num_samples: Any, dim: Any, noise: Any) -> None:
    """Raises `ValueError` for what no sampler can draw."""
    check_count("num_samples", num_samples)
    if dim != 0:
        check_count("dim", dim)
    if not isinstance(noise, Noise):
        raise ValueError(f"noise={noise!r} is not a Noise; use one of esjax.noise, such as normal")


def half(num_samples: int, dim: int) -> int:
    """Returns the largest group size that leaves two groups, where N ≥ 2, and respects the bound."""
    return max(min(-(-num_samples // 2), _GROUP_FLOATS // max(dim, 1)), 1)


def log2_half(num_samples: int, dim: int) -> int:
    """Returns the logarithm of the largest power of two up to `half`."""
    return half(num_samples, dim).bit_length() - 1


def inside(u: Array) -> Array:
    """Moves what was rounded to 0 or 1 back inside (0, 1), by half the spacing of numbers below 2."""
    margin = float(np.finfo(u.dtype).eps) / 2
    return jnp.clip(u, margin, 1 - margin)
