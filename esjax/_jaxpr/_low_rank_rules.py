"""What becomes of a weight in parts: what passes it on in parts, and what it meets as a factor of a product.

Each rule is `(eqn, values) -> values`, or None where the weight has to be made a matrix for each sample.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax._jaxpr._low_rank_products import conv, dot_general
from esjax._jaxpr._low_rank_values import Sampled, Value, Weight, covers, expanded, runs

Array = jax.Array
Rule = Callable[[Any, list[Value]], list[Value] | None]


def _moved(weight: Weight, move: Callable[[Array], Array]) -> Weight:
    """Applies to all parts a `move` of the weight's axes, for which it is the same if some are of size 1."""
    over_rank = jax.vmap(move, in_axes=-1, out_axes=-1)
    over_samples = jax.vmap(over_rank)
    return Weight(move(weight.base), over_samples(weight.left), over_samples(weight.right), weight.name)


# --- what moves elements -----------------------------------------------------------------------------


def _transpose(eqn: Any, values: list[Value]) -> list[Value]:
    return [_moved(values[0], lambda part: part.transpose(eqn.params["permutation"]))]


def _squeeze(eqn: Any, values: list[Value]) -> list[Value]:
    return [_moved(values[0], lambda part: jax.lax.squeeze(part, eqn.params["dimensions"]))]


def _rev(eqn: Any, values: list[Value]) -> list[Value]:
    return [_moved(values[0], lambda part: jax.lax.rev(part, eqn.params["dimensions"]))]


def _broadcast(eqn: Any, values: list[Value]) -> list[Value]:
    """New axes are `left`'s, where they are not of size 1."""
    (weight, *_), shape, places = values, eqn.params["shape"], eqn.params["broadcast_dimensions"]
    old = dict(zip(places, weight.base.shape, strict=True))
    new = [axis for axis, size in enumerate(shape) if size != old.get(axis, 1)]

    def spread(part: Array) -> Array:
        sizes = [1] * len(shape)
        for axis, size in zip(places, part.shape, strict=True):
            sizes[axis] = size
        return part.reshape(sizes)

    found = _moved(weight, spread)
    wider = [shape[axis] if axis in new else size for axis, size in enumerate(found.left.shape[1:-1])]
    left = jnp.broadcast_to(found.left, (found.left.shape[0], *wider, found.left.shape[-1]))
    return [Weight(jnp.broadcast_to(found.base, shape), left, found.right, weight.name)]


def _reshape(eqn: Any, values: list[Value]) -> list[Value] | None:
    weight, new = values[0], eqn.params["new_sizes"]
    pairs = runs(weight.base.shape, new)
    if eqn.params["dimensions"] is not None or pairs is None:
        return None
    left, right = (_reshaped(part, weight, pairs, new) for part in (weight.left, weight.right))
    if min(prod(part.shape[1:-1]) for part in (left, right)) == weight.base.size:
        return None  # both are as large as the weight
    return [Weight(weight.base.reshape(new), left, right, weight.name)]


def _reshaped(part: Array, weight: Weight, pairs: Any, new: Sequence[int]) -> Array:
    """Returns a factor with the runs of axes that it covers, in part or whole, joined or parted."""
    before, after = list(part.shape), [1] * len(new)
    for olds, news in pairs:
        if any(part.shape[1 + axis] > 1 for axis in olds):
            for axis in olds:
                before[1 + axis] = weight.base.shape[axis]
            for axis in news:
                after[axis] = new[axis]
    return jnp.broadcast_to(part, before).reshape(part.shape[0], *after, part.shape[-1])


def _sliced(weight: Weight, take: Callable[..., Array], shape: Sequence[int]) -> Weight | None:
    """Returns a slice of a weight, with `take(part, which axes it covers)` of each part."""
    axes = range(weight.base.ndim)

    def of_factor(factor: Array) -> Array:
        whole = [covers(factor, axis, weight) for axis in axes]
        of_part: Callable[[Array], Array] = partial(take, whole=whole)
        return jax.vmap(jax.vmap(of_part, in_axes=-1, out_axes=-1))(factor)

    if 0 in shape:
        return None
    base = take(weight.base, [True] * weight.base.ndim)
    return Weight(base, of_factor(weight.left), of_factor(weight.right), weight.name)


def _slice(eqn: Any, values: list[Value]) -> list[Value] | None:
    p = eqn.params
    limits = zip(
        p["start_indices"], p["limit_indices"], p["strides"] or [1] * values[0].base.ndim, strict=True
    )
    ranges = [slice(*each) for each in limits]

    def take(part: Array, whole: Sequence[bool]) -> Array:
        return part[tuple(each if full else slice(None) for each, full in zip(ranges, whole, strict=True))]

    found = _sliced(values[0], take, eqn.outvars[0].aval.shape)
    return None if found is None else [found]


def _split(eqn: Any, values: list[Value]) -> list[Value] | None:
    (weight,), axis = values, eqn.params["axis"]
    ends = np.cumsum([0, *eqn.params["sizes"]]).tolist()
    found = []
    for start, end in pairwise(ends):

        def take(part: Array, whole: Sequence[bool], start: int = start, end: int = end) -> Array:
            return jax.lax.slice_in_dim(part, start, end, axis=axis) if whole[axis] else part

        found.append(_sliced(weight, take, [end - start]))
    return None if None in found else found


def _dynamic_slice(eqn: Any, values: list[Value]) -> list[Value] | None:
    weight, *starts = values
    if any(isinstance(start, (Sampled, Weight)) for start in starts):
        return None
    sizes = eqn.params["slice_sizes"]

    def take(part: Array, whole: Sequence[bool]) -> Array:
        at = [start if full else jnp.zeros_like(start) for start, full in zip(starts, whole, strict=True)]
        return jax.lax.dynamic_slice(
            part, at, [size if full else 1 for size, full in zip(sizes, whole, strict=True)]
        )

    found = _sliced(weight, take, sizes)
    return None if found is None else [found]


# --- rows --------------------------------------------------------------------------------------------


def _gather(eqn: Any, values: list[Value]) -> list[Value] | None:
    """Rows: a factor is gathered as the weight is, where it covers the axes that indices go along."""
    (weight, indices), numbers, sizes = values, eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if not isinstance(weight, Weight) or isinstance(indices, (Sampled, Weight)):
        return None
    indexed = numbers.start_index_map
    others = [axis for axis in range(weight.base.ndim) if axis not in indexed]
    if numbers.operand_batching_dims or any(sizes[axis] != weight.base.shape[axis] for axis in others):
        return None
    shape = eqn.outvars[0].aval.shape
    params = {key: value for key, value in eqn.params.items() if key != "slice_sizes"}

    def gathered(part: Array) -> Array:
        own = [size if axis in indexed else part.shape[axis] for axis, size in enumerate(sizes)]
        return eqn.primitive.bind(part, indices, slice_sizes=tuple(own), **params)

    def of_factor(factor: Array) -> Array:
        if any(factor.shape[1 + axis] > 1 for axis in indexed):
            full = [
                weight.base.shape[axis] if axis in indexed else size
                for axis, size in enumerate(factor.shape[1:-1])
            ]
            factor = jnp.broadcast_to(factor, (factor.shape[0], *full, factor.shape[-1]))
            return jax.vmap(jax.vmap(gathered, in_axes=-1, out_axes=-1))(factor)
        places = [1] * len(shape)
        kept = [axis for axis in range(weight.base.ndim) if axis not in numbers.collapsed_slice_dims]
        for place, axis in zip(numbers.offset_dims, kept, strict=True):
            places[place] = factor.shape[1 + axis]
        return factor.reshape(factor.shape[0], *places, factor.shape[-1])

    base = eqn.primitive.bind(weight.base, indices, slice_sizes=sizes, **params)
    found = Weight(base, of_factor(weight.left), of_factor(weight.right), weight.name)
    is_one = prod(size for axis, size in enumerate(shape) if axis not in numbers.offset_dims) == 1
    return [found if is_one else expanded(found)]


# --- arithmetic --------------------------------------------------------------------------------------


def _scaled(eqn: Any, values: list[Value]) -> list[Value] | None:
    """Products with, and quotients by, what varies only along axes that one of the factors covers.

    (`values` hold what a broadcast array was before, with axes of size 1.)
    """
    first, second = values
    if isinstance(second, Weight):
        if eqn.primitive.name == "div" or isinstance(first, Weight):
            return None
        first, second = second, first
    if isinstance(second, (Sampled, Weight)):
        return None
    scale = 1 / second if eqn.primitive.name == "div" else second
    weight, axes = first, [axis for axis, size in enumerate(scale.shape) if size > 1]
    in_left, in_right = (
        all(covers(part, axis, weight) for axis in axes) for part in (weight.left, weight.right)
    )
    if not (in_left or in_right):
        return None
    of_factor = scale[None, ..., None] if scale.ndim else scale
    left, right = (
        (weight.left * of_factor, weight.right) if in_left else (weight.left, weight.right * of_factor)
    )
    return [Weight(weight.base * scale, left, right, weight.name)]


def _shifted(eqn: Any, values: list[Value]) -> list[Value] | None:
    """Sums with what is the same for all samples."""
    first, second = values
    if any(isinstance(each, Sampled) for each in values) or all(isinstance(each, Weight) for each in values):
        return None
    weight, is_first = (first, True) if isinstance(first, Weight) else (second, False)
    bases = (weight.base, second) if is_first else (first, weight.base)
    sign = -1 if eqn.primitive.name == "sub" and not is_first else 1
    base = eqn.primitive.bind(*bases, **eqn.params)
    if base.shape != weight.base.shape:
        return None
    return [Weight(base, sign * weight.left, weight.right, weight.name)]


def _neg(eqn: Any, values: list[Value]) -> list[Value]:
    weight = values[0]
    return [Weight(-weight.base, -weight.left, weight.right, weight.name)]


def _cast(eqn: Any, values: list[Value]) -> list[Value] | None:
    dtype = eqn.params["new_dtype"]
    if not jnp.issubdtype(dtype, jnp.floating):
        return None
    return [jax.tree.map(lambda part: part.astype(dtype), values[0])]


def _same(eqn: Any, values: list[Value]) -> list[Value]:
    return values


RULES: dict[str, Rule] = {
    "transpose": _transpose,
    "squeeze": _squeeze,
    "rev": _rev,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "slice": _slice,
    "split": _split,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "mul": _scaled,
    "div": _scaled,
    "add": _shifted,
    "sub": _shifted,
    "neg": _neg,
    "convert_element_type": _cast,
    "copy": _same,
    "copy_p": _same,
    "optimization_barrier": _same,
    "dot_general": dot_general,
    "conv_general_dilated": conv,
}
