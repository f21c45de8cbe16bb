"""What gathers, scatters and dynamic slices read, where their indices are known and where they are not.

With unknown indices an element reads all indices that choose it, and every element that they could choose:
along axes that a slice takes as a whole, and along batches, that is known.
"""

from typing import Any

import numpy as np

from esjax._jaxpr import _moves, _sets
from esjax._jaxpr._sets import Readings
from esjax._jaxpr._values import Array, Value

Found = list[Readings | None]


def _shape(eqn: Any) -> tuple[int, ...]:
    return tuple(eqn.outvars[0].aval.shape)


def _all_known(values: list[Value]) -> list[Array] | None:
    known = [value.known for value in values if value.known is not None]
    return known if len(known) == len(values) else None


def dynamic_slice(eqn: Any, inputs: list[Value]) -> Found:
    """The operand's block, which scalars choose."""
    operand, starts, shape = inputs[0].readings, inputs[1:], _shape(eqn)
    whole = eqn.invars[0].aval.shape
    if operand is not None and (known := _all_known(starts)) is not None:
        return [operand._replace(which=_moves.dynamic_slice(operand.which, known, shape))]
    places = {axis: axis for axis, size in enumerate(shape) if size == whole[axis]}
    chosen = _sets.placed(operand, places, shape)
    return [_sets.either([chosen, *(start.readings for start in starts)], shape)]


def dynamic_update_slice(eqn: Any, inputs: list[Value]) -> Found:
    """The operand, and the update that takes the place of a block of it."""
    operand, update, starts, shape = inputs[0].readings, inputs[1].readings, inputs[2:], _shape(eqn)
    block = eqn.invars[1].aval.shape
    if (known := _all_known(starts)) is not None:
        which, table = _sets.with_shared_sets([operand, update])
        whole, part = np.broadcast_to(which[0], shape), np.broadcast_to(which[1], block)
        updated = _moves.dynamic_update_slice(whole, part, known)
        return [None if table is None else table._replace(which=updated)]
    places = {axis: axis for axis, size in enumerate(block) if size == shape[axis]}
    put = _sets.placed(update, places, shape)
    return [_sets.either([operand, put, *(start.readings for start in starts)], shape)]


def gather(eqn: Any, inputs: list[Value]) -> Found:
    """The operand's blocks, which the rows of an array of indices choose."""
    operand, (indices, known), shape = inputs[0].readings, inputs[1], _shape(eqn)
    if operand is not None and known is not None:
        return [_sets.taken(operand, _moves.gathered(eqn, known))]
    names, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    whole = eqn.invars[0].aval.shape
    alone = {*names.collapsed_slice_dims, *names.operand_batching_dims}
    windows = [axis for axis in range(len(whole)) if axis not in alone]
    places = {
        axis: int(place)
        for axis, place in zip(windows, names.offset_dims, strict=True)
        if sizes[axis] == whole[axis]
    }
    batches = [axis for axis in range(len(shape)) if axis not in names.offset_dims]
    for axis, of_indices in zip(names.operand_batching_dims, names.start_indices_batching_dims, strict=True):
        places[int(axis)] = batches[of_indices]
    choose = _sets.placed(indices, dict(enumerate(batches)), shape)
    return [_sets.either([_sets.placed(operand, places, shape), choose], shape)]


def scatter(eqn: Any, inputs: list[Value]) -> Found:
    """The operand, and the updates that are put, or added, where the rows of an array of indices say."""
    operand, (indices, known), updates = inputs[0].readings, inputs[1], inputs[2].readings
    shape = _shape(eqn)
    if known is not None:
        return [_scattered(eqn, operand, known, updates)]
    names, block = eqn.params["dimension_numbers"], eqn.invars[2].aval.shape
    alone = {*names.inserted_window_dims, *names.operand_batching_dims}
    windows = [axis for axis in range(len(shape)) if axis not in alone]
    pairs = zip(names.update_window_dims, windows, strict=True)
    places = {int(axis): place for axis, place in pairs if block[axis] == shape[place]}
    batches = [axis for axis in range(len(block)) if axis not in names.update_window_dims]
    of_batches = zip(names.scatter_indices_batching_dims, names.operand_batching_dims, strict=True)
    of_indices = {int(axis): int(place) for axis, place in of_batches}
    places |= {batches[axis]: place for axis, place in of_indices.items()}
    put, choose = _sets.placed(updates, places, shape), _sets.placed(indices, of_indices, shape)
    return [_sets.either([operand, put, choose], shape)]


def _scattered(
    eqn: Any, operand: Readings | None, indices: Array, updates: Readings | None
) -> Readings | None:
    """Returns the readings of a scatter with known indices: what is replaced is not read."""
    shape = _shape(eqn)
    targets = _moves.scattered(eqn, indices).ravel()
    size = int(np.prod(shape, dtype=np.int64))
    if operand is not None and eqn.primitive.name == "scatter" and eqn.params["update_jaxpr"] is None:
        which = operand.which.flatten()
        which[targets[targets >= 0]] = 0
        operand = operand._replace(which=which.reshape(shape))
    if updates is None:
        return operand
    order = np.argsort(targets, kind="stable")
    order = order[targets[order] >= 0]
    starts = np.searchsorted(targets[order], np.arange(size + 1))
    return _sets.either([operand, _sets.over_groups(updates, order, starts, shape)], shape)
