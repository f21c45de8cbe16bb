"""Integrals over u, the place of one score, on a grid that all items of a list share.

    ∫ g(u − s_1, …, u − s_n) du ≈ h Σ_i g(u_i − s_1, …, u_i − s_n)

g is made of the noise's density f, its distribution function F and 1 − F at z = u − s, and the trapezoidal
rule converges exponentially. Scores far apart are brought nearer first: a gap so long that it decides every
pair across it is shortened to the least such gap. Nodes then reach from above the best item to below the last
that matters, chunk by chunk; chunks below are skipped, so that time follows what a list needs and nothing is
cut. Inside, arrays are (n, lists, nodes).
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.chunks import varying_like
from esjax._core.rules import with_rule
from esjax.exact._batches import by_rows, flattened_under_vmap
from esjax.noise import Noise, gumbel, normal

Array = jax.Array
Integrand = Callable[..., Array]
"""`(z, weights, constants) -> values`: (n, lists, nodes), tuples of (n, lists, 1) -> (lists, nodes)."""

_CHUNK_FLOATS = 2**16
"""Nodes × items × width of one list in one chunk; all lists that are computed at once have 8 times that."""
_LOG_NEGLIGIBLE = {np.dtype(np.float32): math.log(1e-8), np.dtype(np.float64): math.log(1e-13)}
"""Mass of the noise of all items together that the window leaves out."""
_OUTSIDE = -(2.0**14)
"""Where an item is put that does not count: every u is above it."""
_FINEST = 2.0**-8
"""Spacings are multiples of it, so that differences of nodes and of places of clusters are exact."""


@lru_cache
def _tails(noise: Noise, size: int, dtype: Any) -> tuple[float, float]:
    """Returns beyond which ε below and above 0 the noise of none of `size` items is worth a node."""
    log_mass = _LOG_NEGLIGIBLE[dtype] - math.log(size)
    if noise == normal:
        from scipy import special

        reach = -special.ndtri_exp(log_mass)
        return _rounded_up(reach), _rounded_up(reach)
    if noise == gumbel:
        return _rounded_up(math.log(-log_mass) + np.euler_gamma), _rounded_up(-log_mass)
    return _rounded_up(-log_mass), _rounded_up(-log_mass)


def _reach(noise: Noise) -> float:
    """Returns a gap of scores that decides a pair, with an error of 10⁻²⁰."""
    return 14.0 if noise == normal else 48.0


def _rounded_up(x: Any) -> Any:
    return math.ceil(8 * float(x)) / 8


# --- where the items are -----------------------------------------------------------------------------


class Places(NamedTuple):
    """Scores in units of σ, (…, n): `near` + `far`, the best item at 0; only `near` is differentiable.

    `far` is of a cluster of items, in multiples of 1/8.
    """

    near: Array
    far: Array


def places(noise: Noise, scores: Array, sigma: Array, counted: Array) -> Places:
    """Returns where the items of one list are, (n,), with gaps between them no longer than needed.

    Infinite scores are as finite ones would be beyond all others. Items that are not counted are below all.
    """
    finite = jnp.isfinite(scores) & counted
    known = jax.lax.stop_gradient(scores)
    ends = jnp.where(finite, known, jnp.inf).min(), jnp.where(finite, known, -jnp.inf).max()
    lowest, highest = (jnp.where(finite.any(), end, 0) for end in ends)
    level = jnp.where(scores == jnp.inf, 1, jnp.where(scores == -jnp.inf, -1, 0)) * counted.astype(jnp.int32)
    known = jnp.where(finite, known, jnp.where(level > 0, highest, lowest))
    order = jnp.lexsort((-known, -level, (~counted).astype(jnp.int32)))
    inside, levels = known[order], level[order]
    far, head = _clusters(_reach(noise), inside, levels, sigma)
    back = jnp.zeros_like(order).at[order].set(jnp.arange(order.size, dtype=order.dtype))
    far, head = jnp.where(counted, far[back], _OUTSIDE), head[back]
    near = (jnp.where(finite, scores, head) - head) / sigma
    return Places(near, jax.lax.stop_gradient(far))


def _clusters(reach: float, falling: Array, levels: Array, sigma: Array) -> tuple[Array, Array]:
    """Returns, for scores from the best down, where the cluster of each begins, and its first score."""
    before = jnp.roll(falling, 1)
    sigma = jax.lax.stop_gradient(sigma)
    begins = ((before - falling) > reach * sigma) | (jnp.roll(levels, 1) != levels)
    index = jnp.arange(falling.size, dtype=jnp.int32)
    begins = begins | (index == 0)
    first = jax.lax.cummax(jnp.where(begins, index, 0))
    head = falling[first]
    width = (jnp.roll(head, 1) - before) / sigma
    step = jnp.where(begins & (index > 0), jnp.ceil(8 * width) / 8 + reach, 0)
    return -jnp.cumsum(step), head


# --- nodes -------------------------------------------------------------------------------------------


class Grid(NamedTuple):
    """How to integrate; everything is static.

    Attributes:
        noise: whose density and distribution function the integrand is made of.
        finest: no node is nearer to the next than this.
        most: items between which gaps can be, inside the window.
        width: numbers that the integrand holds for each item and node.
    """

    noise: Noise
    finest: float
    most: int
    width: int


class Window(NamedTuple):
    """Where one list's nodes are, arrays (): their `spacing`, and how many there are, `num`."""

    spacing: Array
    num: Array


def window(grid: Grid, found: Places, lowest: Array, spacing: Any) -> Window:
    """Returns the nodes for a list (n,) whose last item that matters is at `lowest` ()."""
    size, dtype = found.near.size, np.dtype(found.near.dtype)
    below, above = _tails(grid.noise, size, dtype)
    spacing = jnp.maximum(jnp.floor(spacing / _FINEST), 1) * _FINEST
    count = jnp.ceil((above + below - lowest) / spacing) + 1
    return Window(spacing.astype(dtype), jnp.where(jnp.isfinite(count), count, 0).astype(jnp.int32))


def _nodes(grid: Grid, size: int, dtype: Any, first: Array, num: int, spacing: Array) -> Array:
    """Returns the nodes (lists, num) from number `first` () on, the highest first."""
    steps = (first + jnp.arange(num, dtype=jnp.int32)).astype(dtype)
    return _tails(grid.noise, size, np.dtype(dtype))[1] - steps[None] * spacing[:, None]


def _num_chunks(grid: Grid, size: int, dtype: Any) -> tuple[int, int]:
    """Returns how many nodes a chunk has, and how many chunks a list may need at most."""
    nodes = min(max(_CHUNK_FLOATS // (size * grid.width), 4), 32)
    longest = (_reach(grid.noise) + 0.125) * (grid.most + 1) + sum(_tails(grid.noise, size, np.dtype(dtype)))
    finest = max(math.floor(grid.finest / _FINEST), 1) * _FINEST
    return nodes, math.ceil((longest / finest + 1) / nodes)


@jax.custom_batching.custom_vmap
def shared(number: Array) -> Array:
    """Returns the numbers (...), under `jax.vmap` the largest of each in the batch.

    So that a branch that they decide remains one there, and does not become a choice between two results.
    """
    return number


@shared.def_vmap
def _largest_of_batch(axis_size: int, in_batched: Any, number: Array) -> tuple[Array, bool]:
    del axis_size, in_batched
    return shared(number.max(0)), False


def over_nodes(
    grid: Grid, function: Callable[[Array], Any], found: Window, like: Array, combine: Any = jnp.add
) -> Any:
    """Returns `function(nodes)`, a pytree, over all nodes (lists, nodes) of lists: its sum over chunks.

    `like` is (lists, n), `found` of arrays (lists, 1). Another way to `combine` chunks begins with 0, too.
    """
    nodes, most = _num_chunks(grid, like.shape[-1], like.dtype)
    needed = shared((-(-found.num // nodes)).max())
    spacing = found.spacing[:, 0]

    def values(place: Array) -> Any:
        return function(_nodes(grid, like.shape[-1], like.dtype, place * nodes, nodes, spacing))

    shapes = jax.eval_shape(values, jnp.zeros((), jnp.int32))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return _combined(combine, values, varying_like(zero, like), needed, most)


def _combined(combine: Any, values: Callable[[Array], Any], zero: Any, needed: Array, most: int) -> Any:
    """Returns the sum, or what `combine` makes, of `values(i)` over i < needed, in blocks of √most."""
    inner = math.isqrt(most - 1) + 1 if most > 64 else most

    def add(whole: Any, place: Array) -> tuple[Any, None]:
        found = jax.checkpoint(lambda i: jax.lax.cond(i < needed, values, lambda _: zero, i))(place)
        return jax.tree.map(combine, whole, found), None

    def block(whole: Any, place: Array) -> tuple[Any, None]:
        numbers = place * inner + jnp.arange(inner, dtype=jnp.int32)
        of_block = jax.checkpoint(lambda numbers: jax.lax.scan(add, zero, numbers)[0])
        found = jax.lax.cond(numbers[0] < needed, of_block, lambda _: zero, numbers)
        return jax.tree.map(combine, whole, found), None

    if inner == most:
        return jax.lax.scan(add, zero, jnp.arange(most, dtype=jnp.int32))[0]
    return jax.lax.scan(jax.checkpoint(block), zero, jnp.arange(-(-most // inner), dtype=jnp.int32))[0]


# --- values and slopes -------------------------------------------------------------------------------


def integral(
    grid: Grid,
    integrand: Integrand,
    found: Places,
    nodes: Window,
    weights: tuple[Array, ...],
    constants: tuple[Array, ...] = (),
) -> Array:
    """Returns ∫ integrand(u − s, weights, constants) du (), for one list.

    The slopes in `near` and in the weights come with the value, and are all that is kept for its derivative.

    Args:
        grid: see `Grid`.
        integrand: static; of z = u − s.
        found: (n,) where the items are.
        nodes: where to integrate.
        weights: arrays (n,), in which the value is differentiable.
        constants: arrays (n,), in which it is not.
    """
    inputs = (found.near, *weights)
    others = (found.far, nodes.spacing[None], nodes.num[None], *constants)
    others = jax.lax.stop_gradient(others)
    arrays = (*jax.lax.stop_gradient(inputs), *others)
    value, slopes = flattened_under_vmap(partial(_rows, grid, integrand, len(inputs)))(*arrays)
    return with_rule(value, _value_dot(grid, integrand), (inputs, slopes, others))


def _rows(grid: Grid, integrand: Integrand, num_inputs: int, *arrays: Array) -> tuple[Array, Any]:
    """Returns values (…) and slopes, arrays (…, n), for lists along leading axes, some of them at once."""
    floats = arrays[0].shape[-1] * grid.width * _num_chunks(grid, arrays[0].shape[-1], arrays[0].dtype)[0]
    rows = partial(_value_and_slopes, grid, integrand, num_inputs)
    return by_rows(rows, max(floats // 2, 1), *arrays)


def _value_and_slopes(grid: Grid, integrand: Integrand, num_inputs: int, *arrays: Array) -> Any:
    inputs, (far, spacing, num, *constants) = arrays[:num_inputs], arrays[num_inputs:]

    def values_at(u: Array, near: Array, *weights: Array) -> Array:
        z = (u[None] - far.T[..., None]) - near.T[..., None]
        by_item = [tuple(each.T[..., None] for each in group) for group in (weights, constants)]
        return integrand(z, *by_item).sum(-1)

    def at_nodes(u: Array) -> tuple[Array, Any]:
        value, pull = jax.vjp(partial(values_at, u), *inputs)
        return value, pull(jnp.ones_like(value))

    value, slopes = over_nodes(grid, at_nodes, Window(spacing, num), inputs[0])
    return value * spacing[:, 0], tuple(each * spacing for each in slopes)


def _value_dot(grid: Grid, integrand: Integrand) -> Any:
    """Returns the rule: slopes · tangents, where the derivative of the slopes is that of the quadrature."""

    def dot(arguments: Any, tangents: Any) -> Array:
        (inputs, slopes, others), (moved, *_) = arguments, tangents
        slopes = with_rule(slopes, slopes_dot, (inputs, others))
        pairs = [(a, b) for a, b in zip(slopes, moved, strict=True) if b is not None]
        return sum(((a * b).sum(-1) for a, b in pairs[1:]), (pairs[0][0] * pairs[0][1]).sum(-1))

    def slopes_dot(arguments: Any, tangents: Any) -> Any:
        (inputs, others), (moved, _) = arguments, tangents
        moved = tuple(jnp.zeros_like(a) if b is None else b for a, b in zip(inputs, moved, strict=True))

        def slopes(*inputs: Array) -> Any:
            return _rows(grid, integrand, len(inputs), *inputs, *others)[1]

        return jax.jvp(slopes, inputs, moved)[1]

    return dot
