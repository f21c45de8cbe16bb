"""Groups in which each coordinate visits every stratum of the noise once."""

from typing import Any

import jax
import jax.numpy as jnp

from esjax._core import random
from esjax.noise import Noise
from esjax.samplers.groups import Groups, check, half, inside

Array = jax.Array


def latin_hypercube(num_samples: int, dim: int, noise: Noise) -> Groups:
    """Groups in which every coordinate visits every stratum of the noise once (McKay et al. 1979).

        ε_ij = icdf((π_j(i) + u_ij) / size),   u uniform on (0, 1)

    with an independent random permutation π_j of 0, ..., size − 1 for each coordinate j. It removes the
    variance of sums of functions of one coordinate each. That helps values and one-dimensional problems
    most; in a gradient, products f(x + σε) s(ε) of many coordinates keep their variance. Groups are of
    about N/2 samples, so that there are two to compare, and of at most 2¹⁶ numbers.
    """
    check(num_samples, dim, noise)
    size = half(num_samples, dim)

    def draw(key: Any, dtype: Any) -> Array:
        permutation_key, jitter_key = jax.random.split(key)
        ordered = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32)[:, None], (size, dim))
        strata = jax.random.permutation(permutation_key, ordered, axis=0, independent=True)
        jitter = random.uniform(jitter_key, (size, dim), dtype)
        return noise.icdf(inside((strata.astype(dtype) + jitter) / size))

    return Groups(size, draw)
