"""What the results of each primitive read, element by element."""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from esjax._jaxpr import _indexing, _sets, _values, _windows
from esjax._jaxpr._moves import MOVES, SAME, is_move
from esjax._jaxpr._sets import Readings
from esjax._jaxpr._values import Array, Value

Found = list[Readings | None]


class Rule(NamedTuple):
    """`apply(eqn, inputs) -> readings of the results`; `params` names the parameters that it needs."""

    apply: Callable[[Any, list[Value]], Found]
    params: tuple[str, ...] = ()


def _shapes(eqn: Any) -> list[tuple[int, ...]]:
    return [tuple(getattr(var.aval, "shape", ())) for var in eqn.outvars]


# --- element by element ------------------------------------------------------------------------------


def _elementwise(eqn: Any, inputs: list[Value]) -> Found:
    return [_sets.either([each.readings for each in inputs], shape) for shape in _shapes(eqn)]


def _without(value: Value, ignored: Array | None, shape: tuple[int, ...]) -> Readings | None:
    """Returns what a value reads, but nothing where it is `ignored`."""
    if value.readings is None or ignored is None or not ignored.any():
        return value.readings
    which = np.where(ignored, 0, np.broadcast_to(value.readings.which, shape))
    return value.readings._replace(which=which)


def _decided_by(decides: Callable[[Array], Array]) -> Callable[[Any, list[Value]], Found]:
    """Returns the rule of an operation on two operands which one alone may decide: 0 times x is 0."""

    def rule(eqn: Any, inputs: list[Value]) -> Found:
        (shape,) = _shapes(eqn)
        decided = [None if each.known is None else decides(each.known) for each in inputs]
        pairs = zip(inputs, reversed(decided), strict=True)
        return [_sets.either([_without(each, other, shape) for each, other in pairs], shape)]

    return rule


def _is_bool(known: Array) -> bool:
    return known.dtype == np.bool_


def _select(eqn: Any, inputs: list[Value]) -> Found:
    (shape,) = _shapes(eqn)
    if (known := inputs[0].known) is None:
        return _elementwise(eqn, inputs)
    which, table = _sets.with_shared_sets([each.readings for each in inputs[1:]])
    chosen = _values.selected(known, [np.broadcast_to(each, shape) for each in which])
    return [None if table is None else table._replace(which=chosen)]


def _move(eqn: Any, inputs: list[Value]) -> Found:
    which, table = _sets.with_shared_sets([each.readings for each in inputs])
    if table is None:
        return [None] * len(eqn.outvars)
    whole = [np.broadcast_to(n, var.aval.shape) for n, var in zip(which, eqn.invars, strict=True)]
    moved = MOVES[eqn.primitive.name].apply(whole, eqn.params)
    return [_sets.compact(table._replace(which=each)) for each in moved]


def _same(eqn: Any, inputs: list[Value]) -> Found:
    return [each.readings for each in inputs]


def _bitcast(eqn: Any, inputs: list[Value]) -> Found:
    """A last axis may come or go, where the widths of the types differ."""
    readings, (shape,) = inputs[0].readings, _shapes(eqn)
    before = len(eqn.invars[0].aval.shape)
    return [_sets.placed(readings, {axis: axis for axis in range(min(before, len(shape)))}, shape)]


# --- along axes --------------------------------------------------------------------------------------


def _reduction(axes: Callable[[dict[str, Any]], Any]) -> Callable[[Any, list[Value]], Found]:
    def rule(eqn: Any, inputs: list[Value]) -> Found:
        joined = [
            each.readings
            if each.readings is None or not each.readings.which.ndim
            else _sets.over_axes(each.readings, tuple(axes(eqn.params)))
            for each in inputs
        ]
        return [_sets.either(joined, shape) for shape in _shapes(eqn)]

    return rule


def _along(eqn: Any, inputs: list[Value], axis: int, num_keys: int) -> Found:
    """Each result reads the keys, and the operand in its place, all along an axis."""
    joined = [_sets.over_axes(each.readings, (axis,), keep=True) for each in inputs]
    shapes = _shapes(eqn)
    return [
        _sets.either([*joined[:num_keys], joined[min(i, len(joined) - 1)]], s) for i, s in enumerate(shapes)
    ]


def _sort(eqn: Any, inputs: list[Value]) -> Found:
    return _along(eqn, inputs, eqn.params["dimension"], eqn.params["num_keys"])


def _top_k(eqn: Any, inputs: list[Value]) -> Found:
    return _along(eqn, inputs, eqn.params["axis"], 1)


def _cumulative(eqn: Any, inputs: list[Value]) -> Found:
    """An element reads itself and those before it: 1, 2, 4, ... of them, by doubling."""
    (shape,), readings, axis = _shapes(eqn), inputs[0].readings, eqn.params["axis"]
    distance = 1
    while readings is not None and distance < shape[axis]:
        which = np.moveaxis(readings.which, axis, 0)
        shifted = np.zeros_like(which)
        if eqn.params["reverse"]:
            shifted[:-distance] = which[distance:]
        else:
            shifted[distance:] = which[:-distance]
        further = readings._replace(which=np.moveaxis(shifted, 0, axis))
        readings, distance = _sets.either([readings, further], shape), 2 * distance
    return [readings]


def _mixing(num_axes: int) -> Callable[[Any, list[Value]], Found]:
    """Returns the rule of a primitive that mixes the last axes of its operands; those before are batches."""

    def rule(eqn: Any, inputs: list[Value]) -> Found:
        batches = {tuple(var.aval.shape[: len(var.aval.shape) - num_axes]) for var in eqn.invars}
        places = {axis: axis for axis in range(len(min(batches, key=len)))}
        if len(batches) > 1 or any(s[: len(places)] != min(batches) for s in _shapes(eqn)):
            return everything(eqn, inputs)
        found = [each.readings for each in inputs]
        return [_sets.either([_sets.placed(r, places, s) for r in found], s) for s in _shapes(eqn)]

    return rule


def _fft(eqn: Any, inputs: list[Value]) -> Found:
    return _mixing(len(eqn.params["fft_lengths"]))(eqn, inputs)


# --- products ----------------------------------------------------------------------------------------


def _dot(eqn: Any, inputs: list[Value]) -> Found:
    """Element (b, i, j) of a product reads (b, i, k) on the left and (b, j, k) on the right."""
    (contract, batch), (shape,) = eqn.params["dimension_numbers"], _shapes(eqn)
    sides, shapes = [], []
    for var, axes, batches in zip(eqn.invars, contract, batch, strict=True):
        free = [axis for axis in range(len(var.aval.shape)) if axis not in {*axes, *batches}]
        order = [*batches, *free, *axes]
        groups = ([var.aval.shape[axis] for axis in each] for each in (batches, free, axes))
        sides.append(order)
        shapes.append(tuple(prod(sizes) for sizes in groups))
    left, right = (_arranged(*each) for each in zip(inputs, sides, shapes, strict=True))
    size = (shapes[0][0], shapes[0][1], shapes[1][1])
    found = [_products(left, right.known, size), _products(right, left.known, (size[0], size[2], size[1]))]
    if found[1] is not None:
        found[1] = found[1]._replace(which=found[1].which.swapaxes(1, 2))
    return [
        None if r is None else r._replace(which=r.which.reshape(shape)) for r in [_sets.either(found, size)]
    ]


def _arranged(value: Value, order: list[int], shape: tuple[int, ...]) -> Value:
    """Returns an operand as (batch, free, contracted)."""
    readings, known = value
    if readings is not None:
        readings = readings._replace(which=readings.which.transpose(order).reshape(shape))
    return Value(readings, None if known is None else known.transpose(order).reshape(shape))


def _products(value: Value, other: Array | None, size: tuple[int, ...]) -> Readings | None:
    """Returns what the products (b, i, j) read of `value` (b, i, k), where `other` (b, j, k) is not 0."""
    readings = value.readings
    if readings is None:
        return None
    num_left, num_terms = readings.which.shape[1:]
    used = None if other is None else other != 0
    if used is None or used.all() or used.sum() * num_left > _sets.MOST_WORK * readings.most_pairs:
        return _sets.placed(readings, {0: 0, 1: 1}, size)
    batches, _, terms = np.nonzero(used)
    members = (batches * num_left + np.arange(num_left)[:, None]) * num_terms + terms
    ends = np.cumsum(np.tile(used.sum(-1).ravel(), num_left))
    shape = (num_left, size[0], size[2])
    union = _sets.over_groups(readings, members.ravel(), np.append(0, ends), shape)
    return union._replace(which=union.which.swapaxes(0, 1))


# --- all of them -------------------------------------------------------------------------------------


def everything(eqn: Any, inputs: list[Value]) -> Found:
    """All results read all that any operand reads."""
    union = _sets.over_all([each.readings for each in inputs])
    return [_sets.either([union], shape) for shape in _shapes(eqn)]


def _first(eqn: Any, inputs: list[Value]) -> Found:
    return [each.readings for each in inputs[: len(eqn.outvars)]]


_ELEMENTWISE = """
abs acos acosh add add_any asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz complex
conj cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac
imag integer_pow is_finite le le_to lgamma log log1p logistic lt lt_to max min mulhi ne neg nextafter not
polygamma population_count pow random_gamma_grad real regularized_incomplete_beta rem round rsqrt shift_left
shift_right_arithmetic shift_right_logical sign sin sinh sqrt square sub tan tanh threefry2x32 xor zeta
"""
_REDUCTIONS = "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin"
_CUMULATIVE = "cumsum cummax cummin cumprod cumlogsumexp"
_MATRICES = "cholesky eigh eig lu qr svd schur hessenberg triangular_solve"
_WINDOW = ("window_dimensions", "window_strides", "padding")
_SCATTER = ("dimension_numbers", "mode", "update_jaxpr")
_AXES = _reduction(lambda params: params["axes"])

RULES: dict[str, Rule] = {
    **{name: Rule(_elementwise) for name in _ELEMENTWISE.split()},
    **{name: Rule(_same) for name in SAME},
    **{name: Rule(_AXES, ("axes",)) for name in _REDUCTIONS.split()},
    **{name: Rule(_cumulative, ("axis", "reverse")) for name in _CUMULATIVE.split()},
    **{
        f"scatter{name}": Rule(_indexing.scatter, _SCATTER)
        for name in ("", "-add", "-sub", "-mul", "-min", "-max")
    },
    **{
        f"reduce_window{name}": Rule(_windows.reduce_window, _WINDOW) for name in ("", "_sum", "_max", "_min")
    },
    **{name: Rule(_mixing(2)) for name in _MATRICES.split()},
    "mul": Rule(_decided_by(lambda known: known == 0)),
    "and": Rule(_decided_by(lambda known: ~known if _is_bool(known) else known == 0)),
    "or": Rule(_decided_by(lambda known: known if _is_bool(known) else known == -1)),
    "select_n": Rule(_select),
    "bitcast_convert_type": Rule(_bitcast),
    "reduce": Rule(_reduction(lambda params: params["dimensions"]), ("dimensions",)),
    "sort": Rule(_sort, ("dimension", "num_keys")),
    "top_k": Rule(_top_k, ("axis",)),
    "fft": Rule(_fft, ("fft_lengths",)),
    "lu_pivots_to_permutation": Rule(_mixing(1)),
    "dot_general": Rule(_dot, ("dimension_numbers",)),
    "conv_general_dilated": Rule(
        _windows.convolution,
        (
            *("window_strides", "padding", "lhs_dilation", "rhs_dilation"),
            *("dimension_numbers", "feature_group_count", "batch_group_count"),
        ),
    ),
    "select_and_gather_add": Rule(_windows.reduce_window, _WINDOW),
    "select_and_scatter_add": Rule(_windows.select_and_scatter_add, _WINDOW),
    "dynamic_slice": Rule(_indexing.dynamic_slice, ("slice_sizes",)),
    "dynamic_update_slice": Rule(_indexing.dynamic_update_slice),
    "gather": Rule(_indexing.gather, ("dimension_numbers", "slice_sizes", "mode")),
    "esjax_with_rule": Rule(_first, ("num_values",)),
}
"""(The values of `esjax_with_rule` are its first operands.)"""


def rule_of(eqn: Any) -> Callable[[Any, list[Value]], Found] | None:
    """Returns the rule of an equation, or None where its primitive is unknown or has other parameters."""
    if is_move(eqn):
        return _move
    rule = RULES.get(eqn.primitive.name)
    return rule.apply if rule is not None and eqn.params.keys() >= set(rule.params) else None
