"""Samplers: how the N perturbations of one gradient are drawn together.

A sampler draws in *groups*. Samples of one group may depend on each other (that is where variance is
saved); each sample by itself has the distribution of the noise (so every estimate stays unbiased), and
groups are independent (so a group may be compared with the others, see `esjax.baselines`).
Group g of a call is drawn from `jax.random.fold_in(key, g)`: the draws do not depend on the chunking.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from esjax.noise import Noise

Array = jax.Array


class Sampler(NamedTuple):
    """Draws the perturbations of one group.

    Attributes:
      group_size: `(num_samples, dim, noise) -> int`, the number of samples in a group; raises
        `ValueError` where the sampler cannot serve these.
      draw: `(key, noise, group_size, dim, dtype) -> (group_size, dim)` perturbations ε.
    """

    group_size: Callable[[int, int, Noise], int]
    draw: Callable[[Any, Noise, int, int, Any], Array]


def _iid_group_size(num_samples: int, dim: int, noise: Noise) -> int:
    del num_samples, dim, noise
    return 1


def _iid_draw(key: Any, noise: Noise, group_size: int, dim: int, dtype: Any) -> Array:
    return noise.sample(key, (group_size, dim), dtype)


def _antithetic_group_size(num_samples: int, dim: int, noise: Noise) -> int:
    del dim
    if not noise.symmetric:
        raise ValueError(
            "sampler=antithetic pairs ε with −ε, which needs symmetric noise; "
            "use symmetric noise such as esjax.noise.normal, or sampler=esjax.samplers.iid"
        )
    if num_samples % 2:
        raise ValueError(
            f"num_samples={num_samples} is odd, and sampler=antithetic draws pairs (ε, −ε); "
            f"use num_samples={num_samples + 1}, or sampler=esjax.samplers.iid"
        )
    return 2


def _antithetic_draw(key: Any, noise: Noise, group_size: int, dim: int, dtype: Any) -> Array:
    del group_size
    eps = noise.sample(key, (1, dim), dtype)
    return jnp.concatenate([eps, -eps])


iid = Sampler(_iid_group_size, _iid_draw)
"""Independent draws: N groups of one."""

antithetic = Sampler(_antithetic_group_size, _antithetic_draw)
"""Pairs (ε, −ε): N/2 groups of two. Even parts of the block cancel out of the gradient in x."""
