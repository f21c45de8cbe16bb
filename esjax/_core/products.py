"""Products of matrices with the precision of their dtype, whatever the device; it imports jax only.

Where nothing else is said, a GPU rounds the factors of a float32 product to 11 bits, and a TPU to 8.
"""

from functools import partial

import jax.numpy as jnp

matmul = partial(jnp.matmul, precision="highest")
einsum = partial(jnp.einsum, precision="highest")
