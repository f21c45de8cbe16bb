"""The samples behind `smooth`: drawn and evaluated chunk by chunk, on one vector x (dim,).

It knows no pytrees, checks no options and has no derivative rule; it imports jax and the NamedTuples of
`noise`, `samplers` and `baselines`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from esjax import _mapping, _random
from esjax.baselines import Baseline
from esjax.noise import Noise
from esjax.samplers import Groups

Array = jax.Array
Inputs = tuple[Any, ...]  # (x, sigma, *args): (dim,), () or (dim,), arrays of any shape and dtype


_psum: Any = jax.lax.psum  # JAX gives these two no types
_spec: Any = jax.sharding.PartitionSpec
_EVERYWHERE = _spec()


class Shards(NamedTuple):
    """Devices that share the samples: equal runs of them, in the order of the mesh.

    Attributes:
        mesh: of the devices.
        axes: its axes over which the samples are spread; along others the work is repeated.
        num_devices: how many shards there are.
    """

    mesh: Any
    axes: tuple[str, ...]
    num_devices: int


class Problem(NamedTuple):
    """What is estimated and how: static, so that it can be an argument that JAX never traces.

    Attributes:
        fun: `(z, args) -> values`: (dim,) and a tuple of arrays → (num_values,) in `dtype`.
        noise: the distribution of ε.
        groups: how the ε are drawn together.
        baseline: what is subtracted from the values.
        discard: `(values (num_values,), args) -> bool ()`, which samples to leave out; None: none.
        num_samples: N.
        evaluated_at_once: samples in one call of the vmapped `fun`.
        drawn_at_once: samples whose ε are held at once, a multiple of the groups' size.
        shards: the devices that share the samples; None: one has all.
        informed: whether a report on the gradient is wanted, for which all values are kept.
        dim: length of x.
        num_values: length of the values.
        dtype: dtype of x, ε, the values and every sum.
    """

    fun: Callable[[Array, tuple[Any, ...]], Array]
    noise: Noise
    groups: Groups
    baseline: Baseline
    discard: Callable[[Array, tuple[Any, ...]], Array] | None
    num_samples: int
    evaluated_at_once: int
    drawn_at_once: int
    shards: Shards | None
    informed: bool
    dim: int
    num_values: int
    dtype: Any


def fold(
    problem: Problem,
    step: Callable[..., tuple[Any, Any]],
    sums: Any,
    on_each_device: Callable[[Any], Any] = lambda sums: sums,
) -> tuple[Any, Any]:
    """Folds `step(sums, start, count) -> (sums, out)` over the chunks of samples, on all devices.

    Args:
        problem: its num_samples and drawn_at_once; a device's last chunk holds what is left over.
        step: `start` (int32) is the first sample of the chunk, `count` (int) how many it has.
        sums: any pytree of zeros, to which `step` adds; not zeros where `on_each_device` takes them out.
        on_each_device: applied to a device's sums before they are added to those of the others.

    Returns:
        The sums over all samples, and the outs (count, ...) of all chunks joined, (num_samples, ...).
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


def samples_of_device(problem: Problem) -> int:
    """Returns how many of the samples one device has."""
    return problem.num_samples // (1 if problem.shards is None else problem.shards.num_devices)


def sum_over_devices(problem: Problem, value: Array) -> Array:
    """Returns the sum of what each device has; for `on_each_device` of `fold`."""
    return value if problem.shards is None else _psum(value, problem.shards.axes)


def mean_over_devices(problem: Problem, value: Array) -> Array:
    """Returns the mean of what each device has; for `on_each_device` of `fold`."""
    return sum_over_devices(problem, value) / (problem.num_samples // samples_of_device(problem))


def draw(problem: Problem, key: Any, start: Array, count: int) -> Array:
    """Returns ε (count, dim) of the samples start, start + 1, ...; `start` begins a group."""
    size = problem.groups.size
    num_groups = -(-count // size)
    groups = start // size + jnp.arange(num_groups, dtype=jnp.int32)

    def draw_group(group: Array) -> Array:
        return problem.groups.draw(jax.random.fold_in(key, group), problem.dtype)

    eps = (
        jax.vmap(draw_group)(groups)
        if _random.is_threefry(key)  # for others JAX does not promise that vmap draws what a loop does
        else jax.lax.map(draw_group, groups)
    )
    return eps.reshape(num_groups * size, problem.dim)[:count]


def draw_one(problem: Problem, key: Any, index: Array) -> Array:
    """Returns ε (dim,) of sample `index`."""
    size = problem.groups.size
    return draw(problem, key, index // size * size, size)[index % size]


def evaluate(problem: Problem, inputs: Inputs, eps: Array) -> Array:
    """Returns the values (count, num_values) at x + σ ε, constant with respect to x and σ."""
    x, sigma, *args = inputs

    def value(eps: Array) -> Array:
        return problem.fun(jax.lax.stop_gradient(x + sigma * eps), tuple(args))

    return over_samples(problem, value, eps)


def over_samples(problem: Problem, function: Callable[..., Any], *arrays: Array) -> Any:
    """Maps `function` of one sample over arrays (count, ...), `evaluated_at_once` at once."""
    return _mapping.over(function, problem.evaluated_at_once, *arrays)


def value_at_input(problem: Problem, inputs: Inputs) -> Array:
    """Returns `at_input` · f(x), (num_values,), without evaluating f where the share is 0."""
    share = problem.baseline.at_input
    if share == 0:
        return jnp.zeros(problem.num_values, problem.dtype)
    x, _, *args = inputs
    return jax.lax.stop_gradient(share * problem.fun(x, tuple(args)))


def in_groups(rows: Array, size: int) -> Array:
    """Returns rows (count, ...) as groups (groups, size, ...) of neighbours, the last one filled with 0."""
    padded = jnp.pad(rows, [(0, -rows.shape[0] % size)] + [(0, 0)] * (rows.ndim - 1))
    return padded.reshape(-1, size, *rows.shape[1:])


def group_sums(values: Array, size: int) -> Array:
    """Returns for each of the values (count, ...) the sum over its group of `size` neighbours."""
    if size == 1:
        return values
    return jnp.repeat(in_groups(values, size).sum(1), size, axis=0)[: values.shape[0]]
