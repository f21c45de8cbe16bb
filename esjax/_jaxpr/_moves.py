"""What primitives that only move elements do, as functions of NumPy arrays: of values, or of numbers of sets.

They are keyed by the primitive's name, and take arrays and the primitive's parameters.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

Array = np.ndarray[Any, Any]


class Move(NamedTuple):
    """`apply(arrays, params) -> arrays`; `params` names the parameters that it needs."""

    apply: Callable[[list[Array], dict[str, Any]], list[Array]]
    params: tuple[str, ...] = ()


def _broadcast(arrays: list[Array], params: dict[str, Any]) -> list[Array]:
    sizes = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], arrays[0].shape, strict=True):
        sizes[axis] = size
    return [np.broadcast_to(arrays[0].reshape(sizes), params["shape"])]


def _slice(arrays: list[Array], params: dict[str, Any]) -> list[Array]:
    strides = params["strides"] or [1] * arrays[0].ndim
    limits = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return [arrays[0][tuple(slice(*each) for each in limits)]]


def _pad(arrays: list[Array], params: dict[str, Any]) -> list[Array]:
    """`padding_config`: (before, after, between) for each axis; before and after may be negative."""
    array, value = arrays
    for axis, (before, after, between) in enumerate(params["padding_config"]):
        array = np.moveaxis(array, axis, 0)
        size = array.shape[0]
        dilated = np.full((max(size + (size - 1) * between, 0), *array.shape[1:]), value, array.dtype)
        dilated[:: between + 1] = array
        dilated = dilated[max(-before, 0) : dilated.shape[0] - max(-after, 0)]
        ends = [(max(before, 0), max(after, 0))] + [(0, 0)] * (array.ndim - 1)
        array = np.moveaxis(np.pad(dilated, ends, constant_values=value), 0, axis)
    return [array]


def _split(arrays: list[Array], params: dict[str, Any]) -> list[Array]:
    return np.split(arrays[0], np.cumsum(params["sizes"])[:-1], params["axis"])


def _starts(array: Array, starts: Sequence[Any], sizes: Sequence[int]) -> tuple[slice, ...]:
    """Returns where a block of `sizes` lies that begins at `starts`, moved into the array as XLA does."""
    inside = [min(max(int(at), 0), n - k) for at, n, k in zip(starts, array.shape, sizes, strict=True)]
    return tuple(slice(at, at + size) for at, size in zip(inside, sizes, strict=True))


def dynamic_slice(array: Array, starts: Sequence[Any], sizes: Sequence[int]) -> Array:
    """Returns the block of `sizes` at `starts`."""
    return array[_starts(array, starts, sizes)]


def dynamic_update_slice(array: Array, update: Array, starts: Sequence[Any]) -> Array:
    """Returns `array` with the block at `starts` replaced."""
    updated = array.copy()
    updated[_starts(array, starts, update.shape)] = update
    return updated


MOVES: dict[str, Move] = {
    "reshape": Move(lambda a, p: [a[0].reshape(p["new_sizes"])], ("new_sizes", "dimensions")),
    "squeeze": Move(lambda a, p: [np.squeeze(a[0], tuple(p["dimensions"]))], ("dimensions",)),
    "expand_dims": Move(lambda a, p: [np.expand_dims(a[0], tuple(p["dimensions"]))], ("dimensions",)),
    "broadcast_in_dim": Move(_broadcast, ("shape", "broadcast_dimensions")),
    "transpose": Move(lambda a, p: [a[0].transpose(p["permutation"])], ("permutation",)),
    "rev": Move(lambda a, p: [np.flip(a[0], tuple(p["dimensions"]))], ("dimensions",)),
    "slice": Move(_slice, ("start_indices", "limit_indices", "strides")),
    "pad": Move(_pad, ("padding_config",)),
    "concatenate": Move(lambda a, p: [np.concatenate(a, p["dimension"])], ("dimension",)),
    "tile": Move(lambda a, p: [np.tile(a[0], p["reps"])], ("reps",)),
    "split": Move(_split, ("sizes", "axis")),
    "stack": Move(lambda a, p: [np.stack(a, p["axis"])], ("axis",)),
    "unstack": Move(
        lambda a, p: [np.take(a[0], i, p["axis"]) for i in range(a[0].shape[p["axis"]])], ("axis",)
    ),
}


def is_move(eqn: Any) -> bool:
    """Whether an equation is one of `MOVES`; a `reshape` that transposes, too, is not."""
    move = MOVES.get(eqn.primitive.name)
    if move is None or not eqn.params.keys() >= set(move.params):
        return False
    return eqn.primitive.name != "reshape" or eqn.params["dimensions"] is None


_SAME = (
    "copy copy_p convert_element_type stop_gradient optimization_barrier device_put sharding_constraint "
    "layout_constraint reshard mesh_cast pvary pcast reduced_vary_cast vary_unreduced_cast reduce_precision"
)
SAME = frozenset(_SAME.split())
"""Each result has the readings of the operand in its place."""


def gathered(eqn: Any, indices: Array) -> Array:
    """Returns the flat number of the operand's element that each element of a gather is; -1 for none."""
    operand = eqn.invars[0].aval
    params = eqn.params
    if "FILL" in str(params["mode"]):
        params = {**params, "fill_value": -1}
    numbers = np.arange(operand.size, dtype=np.int32).reshape(operand.shape)
    with jax.ensure_compile_time_eval():
        return np.asarray(eqn.primitive.bind(numbers, indices, **params))


def scattered(eqn: Any, indices: Array) -> Array:
    """Returns the flat number of the operand's element that each update goes to; -1 for none.

    A scatter puts updates where the gather of the same blocks would take elements from.
    """
    operand, _, updates = (var.aval for var in eqn.invars)
    names = eqn.params["dimension_numbers"]
    window = iter([updates.shape[axis] for axis in names.update_window_dims])
    alone = {*names.inserted_window_dims, *names.operand_batching_dims}
    sizes = tuple(1 if axis in alone else next(window) for axis in range(operand.ndim))
    numbers = np.arange(operand.size, dtype=np.int32).reshape(operand.shape)
    with jax.ensure_compile_time_eval():
        return np.asarray(
            jax.lax.gather(
                numbers,
                indices,
                jax.lax.GatherDimensionNumbers(
                    offset_dims=names.update_window_dims,
                    collapsed_slice_dims=names.inserted_window_dims,
                    start_index_map=names.scatter_dims_to_operand_dims,
                    operand_batching_dims=names.operand_batching_dims,
                    start_indices_batching_dims=names.scatter_indices_batching_dims,
                ),
                sizes,
                mode="clip" if "CLIP" in str(eqn.params["mode"]) else "fill",
                fill_value=-1,
            )
        )
