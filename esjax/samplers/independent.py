"""Independent draws, and pairs of opposite ones."""

from typing import Any

import jax
import jax.numpy as jnp

from esjax.noise import Noise
from esjax.samplers.groups import Groups, check

Array = jax.Array


def iid(num_samples: int, dim: int, noise: Noise) -> Groups:
    """Independent draws: N groups of one."""
    check(num_samples, dim, noise)
    return Groups(1, lambda key, dtype: noise.sample(key, (1, dim), dtype))


def antithetic(num_samples: int, dim: int, noise: Noise) -> Groups:
    """Pairs (ε, −ε): N/2 groups of two (Hammersley and Morton 1956).

    Even parts of the block cancel out of the gradient in x.

    Raises:
        ValueError: the noise is not symmetric, or N is odd.
    """
    check(num_samples, dim, noise)
    if not noise.symmetric:
        raise ValueError(
            "sampler=antithetic pairs ε with −ε, which needs symmetric noise; "
            "use symmetric noise such as esjax.noise.normal, or sampler=esjax.samplers.iid"
        )
    if num_samples % 2:
        raise ValueError(
            f"num_samples={num_samples} is odd, and sampler=antithetic draws pairs (ε, −ε); "
            f"use num_samples={max(num_samples + 1, 4)}, or sampler=esjax.samplers.iid"
        )

    def draw(key: Any, dtype: Any) -> Array:
        eps = noise.sample(key, (1, dim), dtype)
        return jnp.concatenate([eps, -eps])

    return Groups(2, draw)
