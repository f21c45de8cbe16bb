"""Matrix products in the full precision of their dtype, whatever the device; imports only jax.

Unless told otherwise, a GPU rounds the factors of a float32 product to 11 bits, and a TPU to 8.
"""

from functools import partial

import jax.numpy as jnp

matmul = partial(jnp.matmul, precision="highest")
einsum = partial(jnp.einsum, precision="highest")
