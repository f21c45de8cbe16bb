"""Sums over the samples of a problem: chunk by chunk, on one device or on all that share them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from esjax._core import chunks
from esjax.smoothing._problem import Problem

Array = jax.Array

_psum: Any = jax.lax.psum  # JAX gives these three no types
_pmin: Any = jax.lax.pmin
_spec: Any = jax.sharding.PartitionSpec
_EVERYWHERE = _spec()


def fold(
    problem: Problem,
    step: Callable[..., tuple[Any, Any]],
    sums: Any,
    on_each_device: Callable[[Any], Any] = lambda sums: sums,
) -> tuple[Any, Any]:
    """Folds `step(sums, start, count) -> (sums, out)` over the chunks of samples, on all devices.

    Args:
        problem: gives num_samples and drawn_at_once; a device's last chunk holds what is left over.
        step: `start` (int32) is the first sample of the chunk, `count` (int) how many it has.
        sums: any pytree of `zeros`, to which `step` adds, or other values that `on_each_device` takes out.
        on_each_device: applied to a device's sums before they are added to those of the others.

    Returns:
        The sums over all samples, and the outs (count, ...) of all chunks, joined to (num_samples, ...).
    """
    if problem.shards is None:
        sums, outs = _fold_run(problem, step, sums, jnp.int32(0))
        return on_each_device(sums), outs
    mesh, axes, _ = problem.shards

    def on_device() -> tuple[Any, Any]:
        first = jax.lax.axis_index(axes) * samples_of_device(problem)
        own, outs = _fold_run(problem, step, sums, first)
        outs = jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, axes, tiled=True), outs)
        return _psum(on_each_device(own), axes), outs

    spread = jax.shard_map(
        on_device, mesh=mesh, axis_names=set(axes), in_specs=(), out_specs=_EVERYWHERE, check_vma=False
    )
    return spread()


def _fold_run(
    problem: Problem, step: Callable[..., tuple[Any, Any]], sums: Any, first: Array
) -> tuple[Any, Any]:
    """Folds over the samples of one device, from `first` on."""
    size = problem.drawn_at_once
    full, rest = divmod(samples_of_device(problem), size)
    outs = []
    if full > 1:
        starts = first + size * jnp.arange(full, dtype=jnp.int32)
        sums, out = jax.lax.scan(lambda c, i: step(c, i, size), sums, starts)
        outs.append(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), out))
    elif full == 1:
        sums, out = step(sums, first, size)
        outs.append(out)
    if rest:
        sums, out = step(sums, first + jnp.int32(full * size), rest)
        outs.append(out)
    return sums, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *outs)


def zeros(problem: Problem, key: Array, *shape: int) -> Array:
    """Returns zeros to start a sum from; inside `jax.shard_map`, they vary as the key's data do."""
    return chunks.varying_like(jnp.zeros(shape, problem.dtype), key)


def on_own_device(problem: Problem, tree: Any) -> Any:
    """Returns what `step` of `fold` closes over as it is to be used there.

    (Outside of `jax.jit`, derivative rules are given arrays whose types still say that they are on the mesh.)
    """
    return tree if problem.shards is None else jax.tree.map(jnp.copy, tree)


def samples_of_device(problem: Problem) -> int:
    """Returns how many of the samples one device has."""
    return problem.num_samples // (1 if problem.shards is None else problem.shards.num_devices)


def sum_over_devices(problem: Problem, value: Array) -> Array:
    """Returns the sum of what each device has; for `on_each_device` of `fold`."""
    return value if problem.shards is None else _psum(value, problem.shards.axes)


def of_first_device(problem: Problem, has_it: Array, value: Array) -> Array:
    """Returns `value` on the first device that has it, 0 on others; for `on_each_device` of `fold`."""
    if problem.shards is None:
        return value
    number = jax.lax.axis_index(problem.shards.axes)
    first = _pmin(jnp.where(has_it, number, problem.shards.num_devices), problem.shards.axes)
    return jnp.where(number == first, value, 0)


def mean_over_devices(problem: Problem, value: Array) -> Array:
    """Returns the mean of what each device has; for `on_each_device` of `fold`."""
    return sum_over_devices(problem, value) / (problem.num_samples // samples_of_device(problem))
