"""The samples behind `smooth`: drawn and evaluated chunk by chunk, on one vector x (dim,).

It knows no pytrees, checks no options and has no derivative rule; it imports jax and what maps and draws.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from esjax._core import chunks, random
from esjax._core.placement import Shards

Array = jax.Array
Args = tuple[Array, ...]  # the arrays that `fun` and the options take beside x: any shapes and dtypes
Inputs = tuple[Any, ...]  # (x, sigma, *args): (dim,), () or (dim,), and `Args`


_psum: Any = jax.lax.psum  # JAX gives these three no types
_pmin: Any = jax.lax.pmin
_spec: Any = jax.sharding.PartitionSpec
_EVERYWHERE = _spec()


class Problem(NamedTuple):
    """What is estimated and how: static, so that it can be an argument that JAX never traces.

    What the functions below close over of traced values is in their first or last argument, `args`.

    Attributes:
        fun: `(z, args) -> values`: (dim,) → (num_values,) in `dtype`.
        draw: `(args, key) -> ε` (group_size, dim), a group's perturbations.
        score: `(args, ε) -> s(ε)`, elementwise.
        coefficients: of the baseline, `(args, in_group, in_all) -> (own, total)`, elementwise.
        at_input: `args -> share` of f(x) in the baseline; None: it is 0, and f(x) need not be known.
        averages: whether each b_n is an average of values, so that an offset of all values drops out.
        transform: of the baseline, `(args, values (N,), kept (N,)) -> (N,)`; None: none.
        discard: `(args, values (num_values,)) -> bool ()`, which samples to leave out; None: none.
        is_uniform: whether `args` vary over the same axes of an outer `jax.shard_map` as all else.
        constant_args: which of `args` no derivative is made of, by their place among the inputs: those that
            say how ε is drawn, which samples are kept, and what weighs the scores.
        as_key: makes a key of the key's data, which is what the rules are given.
        group_size: samples that are drawn together.
        num_samples: N.
        evaluated_at_once: samples in one call of the vmapped `fun`.
        drawn_at_once: samples whose ε are held at once, a multiple of the groups' size.
        shards: the devices that share the samples; None: one has all.
        informed: whether a report on the gradient is wanted, for which all values are kept.
        dim: length of x.
        num_values: length of the values.
        dtype: dtype of x, ε, the values and every sum.
    """

    fun: Callable[[Array, Args], Array]
    draw: Callable[[Args, Any], Array]
    score: Callable[[Args, Array], Array]
    coefficients: Callable[[Args, Any, Any], tuple[Any, Any]]
    at_input: Callable[[Args], Any] | None
    averages: bool
    transform: Callable[[Args, Array, Array], Array] | None
    discard: Callable[[Args, Array], Array] | None
    is_uniform: bool
    constant_args: frozenset[int]
    as_key: Callable[[Array], Any]
    group_size: int
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
        sums: any pytree of `zeros`, to which `step` adds; not zeros where `on_each_device` takes them out.
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


def zeros(problem: Problem, key: Array, *shape: int) -> Array:
    """Returns zeros to sum up in: inside of `jax.shard_map`, they vary as the key's data do."""
    return chunks.varying_like(jnp.zeros(shape, problem.dtype), key)


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


def draw(problem: Problem, key: Array, inputs: Inputs, start: Array, count: int) -> Array:
    """Returns ε (count, dim) of the samples start, start + 1, ...; `start` begins a group."""
    size = problem.group_size
    num_groups = -(-count // size)
    groups = start // size + jnp.arange(num_groups, dtype=jnp.int32)
    key = problem.as_key(key)

    def draw_group(group: Array) -> Array:
        return problem.draw(inputs[2:], jax.random.fold_in(key, group))

    eps = (
        jax.vmap(draw_group)(groups)
        if random.is_threefry(key)  # for others JAX does not promise that vmap draws what a loop does
        else jax.lax.map(draw_group, groups)
    )
    return eps.reshape(num_groups * size, problem.dim)[:count]


def evaluate(problem: Problem, inputs: Inputs, eps: Array) -> Array:
    """Returns the values (count, num_values) at x + σ ε, constant with respect to x and σ."""
    x, sigma, *args = inputs

    def value(eps: Array) -> Array:
        return problem.fun(jax.lax.stop_gradient(x + sigma * eps), tuple(args))

    return over_samples(problem, value, eps)


def over_samples(problem: Problem, function: Callable[..., Any], *arrays: Array) -> Any:
    """Maps `function` of one sample over arrays (count, ...), `evaluated_at_once` at once."""
    return chunks.over(function, problem.evaluated_at_once, *arrays)


def value_at_input(problem: Problem, inputs: Inputs) -> Array:
    """Returns f(x) (num_values,), constant; zeros where the baseline does not ask for it."""
    if problem.at_input is None:
        return jnp.zeros(problem.num_values, problem.dtype)
    x, _, *args = inputs
    return jax.lax.stop_gradient(problem.fun(x, tuple(args)))


def in_groups(rows: Array, size: int) -> Array:
    """Returns rows (count, ...) as groups (groups, size, ...) of neighbours, the last one filled with 0."""
    num_groups = -(-rows.shape[0] // size)
    padded = jnp.pad(rows, [(0, num_groups * size - rows.shape[0])] + [(0, 0)] * (rows.ndim - 1))
    return padded.reshape(num_groups, size, *rows.shape[1:])


def group_sums(values: Array, size: int) -> Array:
    """Returns for each of the values (count, ...) the sum over its group of `size` neighbours."""
    if size == 1:
        return values
    return jnp.repeat(in_groups(values, size).sum(1), size, axis=0)[: values.shape[0]]
