"""What programs inside a program read: calls, branches and loops."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from esjax._jaxpr import _sets, scans
from esjax._jaxpr._sets import Readings
from esjax._jaxpr._values import Value

Values = list[Value]

_MOST_ROUNDS = 8
"""A loop's body is looked at so often until what its state reads stays; then all of it reads everything."""


class Walk(NamedTuple):
    """How to follow a program: `enter(program, inputs) -> values`; `affords(program, times)`: may it be?"""

    enter: Callable[[Any, Values], Values]
    affords: Callable[[Any, int], bool]


def _shapes(variables: Any) -> list[tuple[int, ...]]:
    return [tuple(getattr(var.aval, "shape", ())) for var in variables]


def _either(values: list[Values], shapes: list[tuple[int, ...]], also: Readings | None = None) -> Values:
    """Returns the union of several lists of values, and of a scalar; what they are is no longer known."""
    rows = zip(*values, shapes, strict=True)
    return [Value(_sets.either([*(each.readings for each in row[:-1]), also], row[-1])) for row in rows]


# --- calls and branches ------------------------------------------------------------------------------


def _call(name: str) -> Callable[[Any, Values, Walk], Values]:
    return lambda eqn, inputs, walk: walk.enter(eqn.params[name], inputs)


def _expanded(eqn: Any, inputs: Values, walk: Walk) -> Values:
    """Enters what a primitive that is an object says that it is made of."""
    program = jax.make_jaxpr(eqn.params["_prim"].expand)(*(atom.aval for atom in eqn.invars))
    return walk.enter(program, inputs)


def _linear_solve(eqn: Any, inputs: Values, walk: Walk) -> Values:
    """The solver is given, after the constants of four functions, the right-hand side."""
    sizes, programs = eqn.params["const_lengths"], eqn.params["jaxprs"]
    start = sizes.matvec + sizes.vecmat
    consts = inputs[start : start + sizes.solve]
    return walk.enter(programs.solve, [*consts, *inputs[sum(sizes) :]])


def _cond(eqn: Any, inputs: Values, walk: Walk) -> Values:
    branches, index = eqn.params["branches"], inputs[0]
    if index.known is not None:
        return walk.enter(branches[min(max(int(index.known), 0), len(branches) - 1)], inputs[1:])
    found = [walk.enter(branch, inputs[1:]) for branch in branches]
    return _either(found, _shapes(eqn.outvars), index.readings)


# --- loops -------------------------------------------------------------------------------------------


def _until_stable(step: Callable[[Values], Values], state: Values, shapes: list[tuple[int, ...]]) -> Values:
    """Returns what a loop's state may read after any number of steps."""
    state = [value._replace(known=None) for value in state]
    rounds = 0
    while True:
        following = _either([state, step(state)], shapes)
        rounds += 1
        if rounds > _MOST_ROUNDS:
            union = _sets.over_all([value.readings for value in following])
            following = [Value(_sets.either([union], shape)) for shape in shapes]
        pairs = zip(state, following, shapes, strict=True)
        if all((_sets.counts(a.readings, s) == _sets.counts(b.readings, s)).all() for a, b, s in pairs):
            return following
        state = following


def _scan(eqn: Any, inputs: Values, walk: Walk) -> Values:
    """Follows each step where that is affordable: what is read lies in a cone."""
    p = eqn.params
    num_fixed, num_carried = scans.num_fixed_and_carried(p)
    fixed, state, rows = (
        inputs[:num_fixed],
        inputs[num_fixed:][:num_carried],
        inputs[num_fixed + num_carried :],
    )
    shapes = _shapes(eqn.outvars)
    if not walk.affords(p["jaxpr"], p["length"]):
        return _scan_of_any_length(eqn, fixed, state, rows, walk)
    steps: list[Values] = []
    for i in reversed(range(p["length"])) if p["reverse"] else range(p["length"]):
        found = walk.enter(p["jaxpr"], [*fixed, *state, *(_row(each, i) for each in rows)])
        state = found[:num_carried]
        steps.append(found[num_carried:])
    if p["reverse"]:
        steps.reverse()
    stacked = [_stacked([step[i] for step in steps], shape) for i, shape in enumerate(shapes[num_carried:])]
    return [*state, *stacked]


def _row(value: Value, number: int) -> Value:
    readings, known = value
    if readings is not None:
        readings = _sets.compact(readings._replace(which=readings.which[number]))
    return Value(readings, None if known is None else known[number])


def _stacked(values: Values, shape: tuple[int, ...]) -> Value:
    which, table = _sets.with_shared_sets([value.readings for value in values])
    if table is None:
        return Value()
    return Value(table._replace(which=np.stack([np.broadcast_to(each, shape[1:]) for each in which])))


def _scan_of_any_length(eqn: Any, fixed: Values, state: Values, rows: Values, walk: Walk) -> Values:
    shapes, num_carried = _shapes(eqn.outvars), len(state)
    any_row = [Value(_sets.over_axes(row.readings, (0,))) for row in rows]

    def step(state: Values) -> Values:
        return walk.enter(eqn.params["jaxpr"], [*fixed, *state, *any_row])

    state = _until_stable(lambda state: step(state)[:num_carried], state, shapes[:num_carried])
    found = step(state)[num_carried:]
    return [*state, *_either([found], shapes[num_carried:])]


def _while(eqn: Any, inputs: Values, walk: Walk) -> Values:
    """Follows each step as long as the condition is known; then all that moves reads the condition, too."""
    p, shapes = eqn.params, _shapes(eqn.outvars)
    of_condition, rest = inputs[: p["cond_nconsts"]], inputs[p["cond_nconsts"] :]
    fixed, state = rest[: p["body_nconsts"]], rest[p["body_nconsts"] :]
    while (going := walk.enter(p["cond_jaxpr"], [*of_condition, *state])[0].known) is not None:
        if not going.any():
            return state
        if not going.all() or not walk.affords(p["body_jaxpr"], 2):
            break
        state = walk.enter(p["body_jaxpr"], [*fixed, *state])
    body = p["body_jaxpr"].jaxpr
    stays = [a is b for a, b in zip(body.outvars, body.invars[p["body_nconsts"] :], strict=True)]

    def step(moving: Values) -> Values:
        whole = [old if same else new for same, old, new in zip(stays, state, moving, strict=True)]
        going = walk.enter(p["cond_jaxpr"], [*of_condition, *whole])[0].readings
        axes = range(0 if going is None else going.which.ndim)  # of batches, in all of the state
        read = [Value(_sets.placed(going, {axis: axis for axis in axes}, shape)) for shape in shapes]
        found = _either([walk.enter(p["body_jaxpr"], [*fixed, *whole]), read], shapes)
        return [old if same else new for same, old, new in zip(stays, state, found, strict=True)]

    found = _until_stable(step, state, shapes)
    return [old if same else new for same, old, new in zip(stays, state, found, strict=True)]


class Entry(NamedTuple):
    """`apply(eqn, inputs, walk) -> values`; `params` names the parameters that it needs."""

    apply: Callable[[Any, Values, Walk], Values]
    params: tuple[str, ...]


_OF_WHILE = ("cond_jaxpr", "body_jaxpr", "cond_nconsts", "body_nconsts")
_ENTRIES: dict[str, list[Entry]] = {
    "cond": [Entry(_cond, ("branches",))],
    "scan": [Entry(_scan, ("jaxpr", "length", "reverse", *names)) for names in scans.PARAMS],
    "while": [Entry(_while, _OF_WHILE)],
    "call_hi_primitive": [Entry(_expanded, ("_prim",))],
    "custom_linear_solve": [Entry(_linear_solve, ("const_lengths", "jaxprs"))],
}
_CALLS = """
checkpoint closed_call composite core_call core_closed_call custom_jvp_call custom_vjp_call
custom_vjp_call_jaxpr custom_vmap_call jit pjit remat remat2
"""
_PROGRAMS = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call")


def entry_of(eqn: Any) -> Callable[[Any, Values, Walk], Values] | None:
    """Returns how to follow the programs inside an equation, or None where it has none that is known."""
    name, params = eqn.primitive.name, eqn.params
    for entry in _ENTRIES.get(name, []):
        if params.keys() >= set(entry.params):
            return entry.apply
    if name in _CALLS.split():
        for program in _PROGRAMS:
            inner = getattr(params.get(program), "jaxpr", params.get(program))
            if hasattr(inner, "eqns") and len(inner.invars) == len(eqn.invars):
                return _call(program)
    return None
