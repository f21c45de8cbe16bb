"""Samples by the groups that a sampler draws together: rows of neighbours."""

import jax
import jax.numpy as jnp

Array = jax.Array


def in_groups(rows: Array, size: int) -> Array:
    """Returns rows (count, ...) as groups (groups, size, ...) of neighbours, the last one padded with 0."""
    num_groups = -(-rows.shape[0] // size)
    padded = jnp.pad(rows, [(0, num_groups * size - rows.shape[0])] + [(0, 0)] * (rows.ndim - 1))
    return padded.reshape(num_groups, size, *rows.shape[1:])


def group_sums(values: Array, size: int) -> Array:
    """Returns for each of the values (count, ...) the sum over its group of `size` neighbours."""
    if size == 1:
        return values
    return jnp.repeat(in_groups(values, size).sum(1), size, axis=0)[: values.shape[0]]
