"""Which axes of a weight are the rows of a matrix, and which its columns: as the first product takes it.

A kernel of a convolution makes features out of all its other axes; a stack of matrices, one for each layer or
head, is a batch of them.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

from jax.extend.core import Literal

from esjax._jaxpr import scans
from esjax._jaxpr._low_rank_values import runs


class Cut(NamedTuple):
    """For each axis of a weight whether it is of the rows and whether of the columns; both: of a batch."""

    left: tuple[bool, ...]
    right: tuple[bool, ...]


class _Part(NamedTuple):
    """A value made of a weight: its number, the weight's axes that each axis is made of, and axes cut off."""

    weight: int
    axes: tuple[tuple[int, ...], ...]
    batch: tuple[int, ...] = ()


Env = dict[Any, _Part]


def cuts(program: Any, of: Sequence[bool]) -> list[Cut | None]:
    """Returns how the first product takes each of the weights, None where that says nothing.

    Args:
        program: a closed jaxpr.
        of: for each of its inputs whether it is a weight.
    """
    shapes = [var.aval.shape for var in program.jaxpr.invars]
    found: dict[int, Cut] = {}
    parts = [
        _Part(number, tuple((axis,) for axis in range(len(shape)))) if each else None
        for number, (shape, each) in enumerate(zip(shapes, of, strict=True))
    ]
    _enter(program, parts, shapes, found)
    return [found.get(number) for number, each in enumerate(of) if each]


def default(shape: Sequence[int]) -> Cut:
    """Returns the cut between neighbouring axes that leaves the fewest rows and columns together."""
    places = range(1, len(shape))
    at = min(reversed(places), key=lambda k: prod(shape[:k]) + prod(shape[k:]))
    left = tuple(axis < at for axis in range(len(shape)))
    return Cut(left, tuple(not each for each in left))


def _enter(
    program: Any, parts: Sequence[_Part | None], shapes: Any, found: dict[int, Cut]
) -> list[_Part | None]:
    """Follows the parts of weights through a program, and records in `found` what products take."""
    jaxpr = getattr(program, "jaxpr", program)
    env = dict(zip(jaxpr.invars, parts, strict=True))

    def part_of(atom: Any) -> _Part | None:
        return None if isinstance(atom, Literal) else env.get(atom)

    for eqn in jaxpr.eqns:
        inputs = [part_of(atom) for atom in eqn.invars]
        if not any(inputs):
            continue
        name = eqn.primitive.name
        if name in _TAKEN:
            _record(eqn, inputs, shapes, found)
            continue
        inner = [each for each in _programs(eqn) if len(each[1]) == len(eqn.invars)]
        for program, places in inner:
            given = [_row(eqn, number, part) for number, part in enumerate(inputs)]
            outs = _enter(program, [given[place] for place in places if place is not None], shapes, found)
            if name not in ("scan", "cond"):
                env |= zip(eqn.outvars, outs, strict=True)
        if name in _PASSED and inputs[0] is not None:
            env |= dict.fromkeys(eqn.outvars, _PASSED[name](eqn, inputs[0]))
        elif name in ("mul", "div", "neg"):
            env[eqn.outvars[0]] = _scaled(eqn, next(filter(None, inputs)))
    return [part_of(atom) for atom in jaxpr.outvars]


def _programs(eqn: Any) -> list[tuple[Any, list[int | None]]]:
    """Returns the programs inside an equation, and which of its operands are their inputs (None: not)."""
    places: list[int | None] = list(range(len(eqn.invars)))
    if eqn.primitive.name == "cond":
        return [(branch, [None, *places[1:]]) for branch in eqn.params["branches"]]
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call"):
        inner = getattr(eqn.params.get(name), "jaxpr", eqn.params.get(name))
        if hasattr(inner, "eqns") and len(inner.invars) == len(eqn.invars):
            return [(inner, places)]
    return []


def _row(eqn: Any, number: int, part: _Part | None) -> _Part | None:
    """Returns what a program sees of an operand: of what a scan goes over, a row."""
    if part is None or eqn.primitive.name != "scan":
        return part
    return _without_first(part) if number >= sum(scans.num_fixed_and_carried(eqn.params)) else part


def _without_first(part: _Part) -> _Part:
    return _Part(part.weight, part.axes[1:], (*part.batch, *part.axes[0]))


# --- what passes a weight on -------------------------------------------------------------------------


def _same(eqn: Any, part: _Part) -> _Part:
    return part


def _scaled(eqn: Any, part: _Part) -> _Part | None:
    """A weight that is broadcast first is the scale, not what is scaled."""
    sizes = zip(eqn.outvars[0].aval.shape, part.axes, strict=True)
    return part if all(names for size, names in sizes if size > 1) else None


def _transpose(eqn: Any, part: _Part) -> _Part:
    return part._replace(axes=tuple(part.axes[axis] for axis in eqn.params["permutation"]))


def _broadcast(eqn: Any, part: _Part) -> _Part:
    axes = dict(zip(eqn.params["broadcast_dimensions"], part.axes, strict=True))
    return part._replace(axes=tuple(axes.get(axis, ()) for axis in range(len(eqn.params["shape"]))))


def _squeeze(eqn: Any, part: _Part) -> _Part:
    """An axis of size 1, of which a slice was taken, counts the matrices of a batch."""
    gone = eqn.params["dimensions"]
    batch = [name for axis in gone for name in part.axes[axis]]
    kept = tuple(names for axis, names in enumerate(part.axes) if axis not in gone)
    return _Part(part.weight, kept, (*part.batch, *batch))


def _reshape(eqn: Any, part: _Part) -> _Part | None:
    pairs = runs(eqn.invars[0].aval.shape, eqn.params["new_sizes"])
    if pairs is None or eqn.params["dimensions"] is not None:
        return None
    axes: list[tuple[int, ...]] = [()] * len(eqn.params["new_sizes"])
    for olds, news in pairs:
        names = [name for axis in olds for name in part.axes[axis]]
        if len(news) == 1:
            axes[news[0]] = tuple(names)
        elif news and len(names) == len(news):
            for axis, name in zip(news, names, strict=True):
                axes[axis] = (name,)
        elif names:
            return None
    return part._replace(axes=tuple(axes))


_PASSED: dict[str, Callable[[Any, _Part], _Part | None]] = {
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    **dict.fromkeys(
        (
            *("convert_element_type", "copy", "copy_p", "optimization_barrier"),
            *("dynamic_slice", "rev", "slice", "split"),
        ),
        _same,
    ),
}


# --- products ----------------------------------------------------------------------------------------


def _dot_general(eqn: Any, side: int, part: _Part) -> tuple[list[int], list[int]]:
    """Returns which axes of an operand are contracted, and which are of a batch."""
    contracted, batch = eqn.params["dimension_numbers"]
    return list(contracted[side]), list(batch[side])


def _conv(eqn: Any, side: int, part: _Part) -> tuple[list[int], list[int]]:
    makes = eqn.params["dimension_numbers"].rhs_spec[0]
    return ([axis for axis in range(len(part.axes)) if axis != makes] if side == 1 else []), []


def _gather(eqn: Any, side: int, part: _Part) -> tuple[list[int], list[int]]:
    return list(eqn.params["dimension_numbers"].start_index_map) if side == 0 else [], []


_TAKEN = {"dot_general": _dot_general, "conv_general_dilated": _conv, "gather": _gather}


def _record(eqn: Any, inputs: Sequence[_Part | None], shapes: Any, found: dict[int, Cut]) -> None:
    """Records how a product takes its weights: contracted axes are rows, and the rest columns."""
    for side, part in enumerate(inputs):
        if part is None or part.weight in found:
            continue
        contracted, batch = _TAKEN[eqn.primitive.name](eqn, side, part)
        rows = {name for axis in contracted for name in part.axes[axis]}
        both = {name for axis in batch for name in part.axes[axis]} | set(part.batch)
        shape = shapes[part.weight]
        left = tuple(axis in rows or axis in both for axis in range(len(shape)))
        right = tuple(axis not in rows for axis in range(len(shape)))
        rows_only, columns_only = (
            [axis for axis, each in enumerate(ours) if each and not theirs[axis]]
            for ours, theirs in ((left, right), (right, left))
        )
        if rows_only and columns_only:
            found[part.weight] = Cut(left, right)
