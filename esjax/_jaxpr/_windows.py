"""What windows and convolutions read. A window is a box: its union is one over each axis after another."""

from typing import Any

import numpy as np

from esjax._jaxpr import _sets
from esjax._jaxpr._sets import Numbers, Readings
from esjax._jaxpr._values import Value

Found = list[Readings | None]


def _table(
    size: int, window: int, stride: int, ends: tuple[int, int], dilation: int, between: int
) -> Numbers:
    """Returns the elements (positions, window) in each position of a window along an axis; -1 for padding.

    Neighbours in the window are `between` apart, and those of the axis are spread to be `dilation` apart.
    """
    spread = (size - 1) * dilation + 1 if size else 0
    count = max((spread + sum(ends) - (window - 1) * between - 1) // stride + 1, 0)
    at = np.arange(count)[:, None] * stride + np.arange(window) * between - ends[0]
    return np.where((at >= 0) & (at < spread) & (at % dilation == 0), at // dilation, -1)


def _windows(eqn: Any, axis: int, size: int) -> Numbers:
    p, ones = eqn.params, (1,) * len(eqn.params["window_dimensions"])
    dilations, between = p.get("base_dilation", ones), p.get("window_dilation", ones)
    window, stride = p["window_dimensions"][axis], p["window_strides"][axis]
    return _table(size, window, stride, p["padding"][axis], dilations[axis], between[axis])


def _over_axis(readings: Readings, axis: int, table: Numbers) -> Readings:
    """Returns the unions over the elements of `axis` that each row of a table has."""
    numbers = np.arange(readings.which.size).reshape(readings.which.shape)
    numbers = np.moveaxis(numbers, axis, -1)
    if numbers[..., 0].size * table.size > _sets.MOST_WORK * readings.most_pairs:
        raise _sets.TooMuch
    union = _sets.over_table(readings, np.where(table < 0, -1, numbers[..., table]))
    return union._replace(which=np.moveaxis(union.which, -1, axis))


def _over_windows(eqn: Any, readings: Readings | None) -> Readings | None:
    for axis in range(len(eqn.params["window_dimensions"])):
        if readings is not None:
            readings = _over_axis(readings, axis, _windows(eqn, axis, readings.which.shape[axis]))
    return readings


def reduce_window(eqn: Any, inputs: list[Value]) -> Found:
    """Every position of a window reads what is in it, of all operands, and the initial values."""
    shape = tuple(eqn.outvars[0].aval.shape)
    found = [each.readings for each in inputs]
    unions = [r if r is None or not r.which.ndim else _over_windows(eqn, r) for r in found]
    return [_sets.either(unions, shape)] * len(eqn.outvars)


def select_and_scatter_add(eqn: Any, inputs: list[Value]) -> Found:
    """An element reads the windows that it is in, and what is added to the one that they select."""
    source, operand = inputs[0].readings, inputs[1].readings
    shape = tuple(eqn.outvars[0].aval.shape)
    union = _sets.either([source, _over_windows(eqn, operand)], tuple(eqn.invars[0].aval.shape))
    for axis, size in enumerate(shape):
        if union is not None:
            union = _over_axis(union, axis, _transposed(_windows(eqn, axis, size), size))
    return [union]


def _transposed(table: Numbers, size: int) -> Numbers:
    """Returns the rows (size, ...) of a table that each number is in; -1 for none."""
    rows, places = np.nonzero(table >= 0)
    numbers = table[rows, places]
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(size + 1))
    most = max(np.diff(starts).max(initial=0), 1)
    at = starts[:-1, None] + np.arange(most)
    padded = np.append(rows[order], np.full(most, -1))
    return np.where(at < starts[1:, None], padded[at], -1)


def convolution(eqn: Any, inputs: list[Value]) -> Found:
    """An element reads its window in all channels of its group, and its filter (all of it)."""
    p, shape = eqn.params, tuple(eqn.outvars[0].aval.shape)
    names, groups, batches = p["dimension_numbers"], p["feature_group_count"], p["batch_group_count"]
    image, kernel = inputs[0].readings, inputs[1].readings
    found: list[Readings | None] = []
    order = [shape[axis] for axis in names.out_spec]  # examples, channels, space
    if image is not None:
        examples, channels, *space = image.which.transpose(names.lhs_spec).shape
        which = image.which.transpose(names.lhs_spec).reshape(
            batches, examples // batches, groups, channels // groups, *space
        )
        union = _sets.over_axes(image._replace(which=which), (3,))
        assert union is not None
        widths = [eqn.invars[1].aval.shape[axis] for axis in names.rhs_spec[2:]]
        for axis, (size, width) in enumerate(zip(space, widths, strict=True)):
            table = _table(
                size,
                width,
                p["window_strides"][axis],
                p["padding"][axis],
                p["lhs_dilation"][axis],
                p["rhs_dilation"][axis],
            )
            union = _over_axis(union, axis + 3, table)
        which = np.moveaxis(
            union.which, 0, 1
        )  # examples, batch groups, feature groups, space: one group is 1
        which = which.reshape(which.shape[0], which.shape[1] * which.shape[2], *which.shape[3:])
        which = np.repeat(which, order[1] // which.shape[1], axis=1)
        found.append(union._replace(which=which.transpose(np.argsort(names.out_spec))))
    found.append(_sets.placed(kernel, {names.rhs_spec[0]: names.out_spec[1]}, shape))
    return [_sets.either(found, shape)]
