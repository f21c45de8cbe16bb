"""The samples behind `smooth`: drawn, evaluated and summed chunk by chunk, on one vector x (dim,).

It knows no pytrees, checks no options and has no derivative rule (see `smoothing` and
`_estimator`); it imports jax and the NamedTuples of `noise`, `samplers` and `baselines`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esjax.baselines import Baseline
from esjax.noise import Noise
from esjax.samplers import Groups

Array = jax.Array


class Problem(NamedTuple):
    """What is estimated and how: static, so that it can be an argument that JAX never traces.

    Attributes:
        fun: `(z, args) -> values`: (dim,) and a tuple of arrays → (num_values,) in `dtype`.
        noise: the distribution of ε.
        groups: how the ε are drawn together.
        baseline: what is subtracted from the values.
        num_samples: N.
        chunk_size: samples evaluated at once, a multiple of the groups' size.
        dim: length of x.
        num_values: length of the values.
        dtype: dtype of x, ε, the values and every sum.
    """

    fun: Callable[[Array, tuple[Any, ...]], Array]
    noise: Noise
    groups: Groups
    baseline: Baseline
    num_samples: int
    chunk_size: int
    dim: int
    num_values: int
    dtype: Any


def fold(problem: Problem, step: Callable[..., tuple[Any, Any]], carry: Any) -> tuple[Any, Any]:
    """Folds `step(carry, start, count) -> (carry, out)` over the chunks of samples.

    Args:
        problem: its num_samples and chunk_size; the last chunk holds what is left over.
        step: `start` (int32) is the first sample of the chunk, `count` (int) how many it has.
        carry: any pytree.

    Returns:
        The last carry, and the outs (count, ...) of all chunks joined, (num_samples, ...).
    """
    full, rest = divmod(problem.num_samples, problem.chunk_size)
    outs = []
    if full > 1:
        starts = problem.chunk_size * jnp.arange(full, dtype=jnp.int32)
        carry, out = jax.lax.scan(lambda c, i: step(c, i, problem.chunk_size), carry, starts)
        outs.append(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), out))
    elif full == 1:
        carry, out = step(carry, jnp.int32(0), problem.chunk_size)
        outs.append(out)
    if rest:
        carry, out = step(carry, jnp.int32(full * problem.chunk_size), rest)
        outs.append(out)
    return carry, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *outs)


def draw(problem: Problem, key: Any, start: Array, count: int) -> Array:
    """Returns ε (count, dim) of the samples start, start + 1, ...; `start` begins a group."""
    size = problem.groups.size
    num_groups = -(-count // size)
    groups = start // size + jnp.arange(num_groups, dtype=jnp.int32)

    def draw_group(group: Array) -> Array:
        group_key = jax.random.fold_in(key, group)
        return problem.groups.draw(group_key, problem.dtype)

    eps = jax.vmap(draw_group)(groups)
    return eps.reshape(num_groups * size, problem.dim)[:count]


def evaluate(problem: Problem, inputs: tuple[Any, ...], eps: Array) -> Array:
    """Returns the values (count, num_values) at x + σ ε, constant with respect to x and σ."""
    x, sigma, *args = inputs
    z = jax.lax.stop_gradient(x + sigma * eps)
    return jax.vmap(problem.fun, in_axes=(0, None))(z, tuple(args))


def baseline_coefficients(problem: Problem, count: int) -> tuple[Any, Any]:
    """Returns `(own, total)` of the baseline for `count` samples that begin with a whole group.

    Numbers where all groups are whole, arrays (count,) where the last one is cut short.
    """
    size, last = problem.groups.size, count % problem.groups.size
    whole = problem.baseline.coefficients(size, problem.num_samples)
    if not last:
        return whole
    cut = problem.baseline.coefficients(last, problem.num_samples)
    rows = [whole] * (count - last) + [cut] * last
    own, total = np.array(rows, problem.dtype).T
    return own, total


def baseline_averages(problem: Problem) -> bool:
    """Whether each b_n is an average of values, so that an offset of all values drops out."""
    own, total = problem.baseline.coefficients(problem.groups.size, problem.num_samples)
    return abs(own * problem.groups.size + total * problem.num_samples - 1) < 1e-9


def group_sums(values: Array, size: int) -> Array:
    """Returns for each of the values (count, ...) the sum over its group of `size` neighbours."""
    if size == 1:
        return values
    count = values.shape[0]
    num_groups = -(-count // size)
    missing = num_groups * size - count
    padded = jnp.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))
    sums = padded.reshape(num_groups, size, *values.shape[1:]).sum(1)
    return jnp.repeat(sums, size, axis=0)[:count]
