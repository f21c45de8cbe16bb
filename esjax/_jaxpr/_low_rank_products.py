"""Products with a weight in parts: one that all samples share, and two thin ones for each sample's noise.

x (W + Σ_k a_k b_kᵀ) = x W + Σ_k (x a_k) b_kᵀ
"""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax._jaxpr._low_rank_values import Sampled, Value, Weight, summed

Array = jax.Array

_SAMPLE, _RANK = -1, -2


def _shared(eqn: Any, values: Sequence[Value]) -> Value:
    """Returns the product where no operand is a weight in parts: one, or one for each sample."""

    def product(*arrays: Array) -> Array:
        return eqn.primitive.bind(*arrays, **eqn.params)

    if not any(isinstance(value, Sampled) for value in values):
        return product(*values)
    axes = [0 if isinstance(value, Sampled) else None for value in values]
    arrays = [value.array if isinstance(value, Sampled) else value for value in values]
    return Sampled(jax.vmap(product, in_axes=axes)(*arrays))


def _added(base: Value, noise: Array) -> list[Value]:
    array = base.array if isinstance(base, Sampled) else base[None]
    return [Sampled(array + noise.astype(array.dtype))]


# --- dot_general -------------------------------------------------------------------------------------


def dot_general(eqn: Any, values: list[Value]) -> list[Value] | None:
    """Takes the weight on either side, with batch axes, and any axes contracted."""
    if all(isinstance(value, Weight) for value in values):
        return None
    side = 0 if isinstance(values[0], Weight) else 1
    weight, x = values[side], values[1 - side]
    product = _shared(eqn, [value.base if value is weight else value for value in values])
    letters, out = _letters(eqn)
    array, names = (
        (x.array, [_SAMPLE, *letters[1 - side]]) if isinstance(x, Sampled) else (x, letters[1 - side])
    )
    factors = [(part, [_SAMPLE, *letters[side], _RANK]) for part in (weight.left, weight.right)]
    aval = eqn.outvars[0].aval
    noise = _product((array, names), factors, [_SAMPLE, *out], eqn.params["precision"], aval.dtype)
    return _added(product, noise.reshape(weight.left.shape[0], *aval.shape))


Named = tuple[Array, list[int]]  # an array, and a name for each of its axes


def _letters(eqn: Any) -> tuple[list[list[int]], list[int]]:
    """Returns names for the axes of both operands, and of the result."""
    (contracted, batch), operands = eqn.params["dimension_numbers"], [var.aval for var in eqn.invars]
    first = list(range(operands[0].ndim))
    second = list(range(100, 100 + operands[1].ndim))
    for mine, yours in (contracted, batch):
        for a, b in zip(mine, yours, strict=True):
            second[b] = first[a]
    rest = [
        [name for axis, name in enumerate(names) if axis not in (*contracted[i], *batch[i])]
        for i, names in enumerate((first, second))
    ]
    return [first, second], [*(first[axis] for axis in batch[0]), *rest[0], *rest[1]]


def _thin(operand: Named) -> Named:
    """Returns an operand without axes of size 1, but those of samples and of rank."""
    array, names = operand
    kept = [axis for axis, name in enumerate(names) if array.shape[axis] != 1 or name in (_SAMPLE, _RANK)]
    return array.reshape([array.shape[axis] for axis in kept]), [names[axis] for axis in kept]


def _product(x: Named, factors: Sequence[Named], out: list[int], precision: Any, dtype: Any) -> Array:
    """Returns x times both factors, the cheaper order first, with axes `out` but those of size 1."""
    x, left, right = (_thin(each) for each in (x, *factors))
    sizes = {
        name: size for array, names in (x, left, right) for name, size in zip(names, array.shape, strict=True)
    }
    out = [name for name in out if name in sizes]

    def middle(first: Named, second: Named) -> list[int]:
        names = dict.fromkeys([*x[1], *first[1]])
        return [name for name in names if name in out or name in second[1]]

    def cost(first: Named, second: Named) -> int:
        ends = {*x[1], *first[1]}, {*middle(first, second), *second[1]}
        return sum(prod(sizes[name] for name in each) for each in ends)

    first, second = min(((left, right), (right, left)), key=lambda pair: cost(*pair))
    names = _in_order(middle(first, second), out)
    einsum = partial(jnp.einsum, precision=precision, preferred_element_type=dtype)
    thin = einsum(x[0], _numbered(x[1]), first[0], _numbered(first[1]), _numbered(names))
    contracted = {*names, *second[1]} - {*out}
    if contracted == {_RANK}:
        one, other = (_spread(each, [*out, _RANK]) for each in ((thin, names), second))
        return summed(one, other, range(len(out)), precision)
    return einsum(thin, _numbered(names), second[0], _numbered(second[1]), _numbered(out))


def _in_order(names: Sequence[int], out: Sequence[int]) -> list[int]:
    """Returns names in the order of the result, then others, and the rank last."""
    others = [name for name in names if name not in out and name != _RANK]
    return [*(name for name in out if name in names), *others, _RANK]


def _numbered(names: Sequence[int]) -> list[int]:
    """Returns names as numbers from 0 on, as einsum takes them."""
    return [{_SAMPLE: 0, _RANK: 1}.get(name, name + 2 if name < 50 else name - 100 + 27) for name in names]


def _spread(operand: Named, names: Sequence[int]) -> Array:
    """Returns an operand with its axes in the order of `names`, and 1 for those that it does not have."""
    array, own = operand
    order = [own.index(name) for name in names if name in own]
    sizes = dict(zip(own, array.shape, strict=True))
    return array.transpose(order).reshape([sizes.get(name, 1) for name in names])


# --- convolutions ------------------------------------------------------------------------------------


def conv(eqn: Any, values: list[Value]) -> list[Value] | None:
    """Takes a kernel whose one factor covers the features that it makes, and the other all else."""
    x, kernel = values
    numbers, p = eqn.params["dimension_numbers"], eqn.params
    if isinstance(x, Weight) or p["feature_group_count"] > 1 or p["batch_group_count"] > 1:
        return None
    makes, *takes = numbers.rhs_spec
    pairs = ((kernel.left, kernel.right), (kernel.right, kernel.left))
    split = [pair for pair in pairs if _is_split(*pair, makes, takes)]
    if not split:
        return None
    inner, outer = split[0]
    product = _shared(eqn, [x, kernel.base])
    thin = _conv_of_each(eqn, x.array, inner) if isinstance(x, Sampled) else _conv_of_all(eqn, x, inner)
    place = 1 + numbers.out_spec[1]
    many = outer.reshape(outer.shape[0], -1, outer.shape[-1])
    sizes = [1] * (thin.ndim - 1)
    sizes[0], sizes[place] = many.shape[:2]
    spread = many.reshape(*sizes, many.shape[-1])
    return _added(product, summed(thin, spread, range(thin.ndim - 1), p["precision"]))


def _is_split(inner: Array, outer: Array, makes: int, takes: Sequence[int]) -> bool:
    return inner.shape[1 + makes] == 1 and all(outer.shape[1 + axis] == 1 for axis in takes)


def _conv_of_all(eqn: Any, x: Array, inner: Array) -> Array:
    """Returns (count, *result with one feature, rank) for one x: a convolution, its features the samples."""
    numbers = eqn.params["dimension_numbers"]
    makes, place = numbers.rhs_spec[0], numbers.out_spec[1]
    count, rank = inner.shape[0], inner.shape[-1]
    kernel = jnp.moveaxis(inner.squeeze(1 + makes), (0, -1), (makes, makes + 1))
    kernel = kernel.reshape(*kernel.shape[:makes], count * rank, *kernel.shape[makes + 2 :])
    found = eqn.primitive.bind(x, kernel, **eqn.params)
    found = found.reshape(*found.shape[:place], count, rank, *found.shape[place + 1 :])
    return jnp.expand_dims(jnp.moveaxis(found, (place, place + 1), (0, -1)), 1 + place)


def _conv_of_each(eqn: Any, x: Array, inner: Array) -> Array:
    """Returns the same for each sample's x (count, *shape): a product at each place, shifted and added up.

    (Convolutions with a kernel for each sample, or of one feature, are what XLA's CPU compiler is slow at.)
    """
    p, numbers = eqn.params, eqn.params["dimension_numbers"]
    (batch, feature, *space), (makes, takes, *kernel_space) = (
        [1 + axis for axis in spec] for spec in (numbers.lhs_spec, numbers.rhs_spec)
    )
    taps = inner.transpose(0, -1, takes, *kernel_space, makes)
    sizes = taps.shape[3:-1]
    taps = taps.reshape(*taps.shape[:3], prod(sizes))
    x = x.transpose(0, batch, *space, feature)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    product = partial(jnp.einsum, precision=p["precision"], preferred_element_type=wide)
    found = _shifted_sum(product("nb...i,nrik->nrb...k", x, taps), sizes, p)  # (count, rank, batch, *space)
    found = found.astype(p["preferred_element_type"] or x.dtype)
    places = [numbers.out_spec[0], *numbers.out_spec[2:]]
    found = jnp.moveaxis(found, 1, -1).transpose(0, *(1 + np.argsort(places)), 1 + len(places))
    return jnp.expand_dims(found, 1 + numbers.out_spec[1])


def _shifted_sum(mixed: Array, sizes: Sequence[int], p: Any) -> Array:
    """Returns Σ_k mixed (..., *space, K)[..., k] where the tap k of a kernel of these `sizes` sees it."""
    num_space = len(sizes)
    others = [(0, 0, 0)] * (mixed.ndim - 1 - num_space)
    edges = [
        (low, high, dilation - 1)
        for (low, high), dilation in zip(p["padding"], p["lhs_dilation"], strict=True)
    ]
    padded = jax.lax.pad(mixed, jnp.zeros((), mixed.dtype), [*others, *edges, (0, 0, 0)])
    whole, dilations = padded.shape[-1 - num_space : -1], p["rhs_dilation"]

    def seen(number: int, tap: Sequence[int]) -> Array:
        windows = []
        for axis, (place, stride) in enumerate(zip(tap, p["window_strides"], strict=True)):
            first, last = (dilations[axis] * each for each in (place, sizes[axis] - 1))
            windows.append(slice(first, max(first + whole[axis] - last, first), stride))
        return padded[(..., *windows, number)]

    start = jnp.zeros((), mixed.dtype)
    return sum((seen(number, tap) for number, tap in enumerate(np.ndindex(*sizes))), start=start)
