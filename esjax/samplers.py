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


class Groups(NamedTuple):
    """How one group is drawn.

    Attributes:
        size: samples in a group, in [1, N]; the last group is cut short where N is no multiple.
        draw: `(key, dtype) -> (size, dim)` perturbations ε.
    """

    size: int
    draw: Callable[[Any, Any], Array]


Sampler = Callable[[int, int, Noise], Groups]
"""`(num_samples, dim, noise) -> Groups`; raises `ValueError` where it cannot serve these."""


def iid(num_samples: int, dim: int, noise: Noise) -> Groups:
    """Independent draws: N groups of one."""
    del num_samples
    return Groups(1, lambda key, dtype: noise.sample(key, (1, dim), dtype))


def antithetic(num_samples: int, dim: int, noise: Noise) -> Groups:
    """Pairs (ε, −ε): N/2 groups of two. Even parts of the block cancel out of the gradient in x.

    Raises:
        ValueError: the noise is not symmetric, or N is odd.
    """
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

    def draw(key: Any, dtype: Any) -> Array:
        eps = noise.sample(key, (1, dim), dtype)
        return jnp.concatenate([eps, -eps])

    return Groups(2, draw)
