"""Programs evaluated for many samples of noise at once, where weights stay in parts as long as they can.

A weight W + Σ_k a_k b_kᵀ, which differs between samples in its a and b, is kept as (W, a, b) until it meets
a product, in which all samples share W. What no noise has reached is computed once. Where W cannot be
shared, the weight is made a matrix for each sample, which is right and costs more, and it is noted where.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import source_info_util
from jax.extend.core import Literal

from esjax._core.rules import with_rule
from esjax._jaxpr import scans
from esjax._jaxpr._low_rank_rules import RULES
from esjax._jaxpr._low_rank_values import Sampled, Value, Weight, expanded, sampled

Array = jax.Array
Values = list[Value]

__all__ = ["Sampled", "Weight", "evaluate"]


def evaluate(program: Any, inputs: Sequence[Value], count: int, note: Callable[[str], None]) -> Values:
    """Returns a program's results for `count` samples, each an array (the same for all) or a `Sampled`.

    Args:
        program: a closed jaxpr.
        inputs: for each of its inputs an array, a `Sampled` or a `Weight`.
        count: samples.
        note: told of each weight that became a matrix: its name, the primitive and the place in the code.
    """
    walk = _Walk(count, note)
    return [walk.whole(value, None) for value in walk.enter(program, list(inputs))]


class _Walk:
    """A walk through a program, for `count` samples."""

    def __init__(self, count: int, note: Callable[[str], None]):
        self.count = count
        self.note = note

    def enter(self, program: Any, inputs: Values) -> Values:
        """Evaluates a program (a `Jaxpr`, closed or not)."""
        jaxpr, consts = getattr(program, "jaxpr", program), getattr(program, "consts", ())
        env: dict[Any, Value] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

        def value(atom: Any) -> Value:
            if isinstance(atom, Literal):
                aval: Any = atom.aval
                return jnp.asarray(atom.val, aval.dtype)
            return env[atom]

        narrow: dict[Any, Array] = {}  # what was broadcast, by the variable that it became
        for eqn in jaxpr.eqns:
            variables = list(dict.fromkeys(atom for atom in eqn.invars if not isinstance(atom, Literal)))
            alone = jaxpr.replace(constvars=[], invars=variables, outvars=eqn.outvars, eqns=[eqn])
            with _named_as(eqn):
                values = [value(atom) for atom in eqn.invars]
                found = self.scaled(eqn, values, narrow) or self.follow(eqn, alone, values)
            if eqn.primitive.name == "broadcast_in_dim" and _is_same_for_all(values):
                narrow[eqn.outvars[0]] = _with_axes(values[0], eqn.params)
            env |= zip(eqn.outvars, found, strict=True)
        return [value(atom) for atom in jaxpr.outvars]

    def scaled(self, eqn: Any, values: Values, narrow: dict[Any, Array]) -> Values | None:
        """Returns the product of a weight in parts with a scale, if that is one; a scale may be broadcast."""
        if eqn.primitive.name not in ("mul", "div") or not any(isinstance(v, Weight) for v in values):
            return None
        scales = [
            value if isinstance(atom, Literal) else narrow.get(atom, value)
            for atom, value in zip(eqn.invars, values, strict=True)
        ]
        return RULES[eqn.primitive.name](eqn, scales)

    def follow(self, eqn: Any, alone: Any, values: Values) -> Values:
        """Evaluates an equation; `alone` is the program of it and nothing else."""
        if _is_same_for_all(values):
            return self.for_each(eqn, alone, values)
        if any(isinstance(value, Weight) for value in values):
            rule = RULES.get(eqn.primitive.name)
            found = None if rule is None else rule(eqn, values)
            if found is not None:
                return found
        if (entry := _entry_of(eqn, values)) is not None:
            return entry(self, eqn, values)
        return self.for_each(eqn, alone, [self.whole(value, eqn) for value in values])

    def whole(self, value: Value, eqn: Any) -> Value:
        """Returns a value that is no weight in parts; `eqn` is what asks for it, None for a result."""
        if not isinstance(value, Weight):
            return value
        primitive = "the value of fun" if eqn is None else eqn.primitive.name
        place = "" if eqn is None else f", {source_info_util.summarize(eqn.source_info)}"
        self.note(f"{value.name} {list(value.base.shape)} in {primitive}{place}")
        return expanded(value)

    def for_each(self, eqn: Any, alone: Any, values: Values) -> Values:
        """Evaluates an equation none of whose operands is a weight in parts: once, or for each sample."""
        pairs = zip(eqn.invars, values, strict=True)
        given = {atom: value for atom, value in pairs if not isinstance(atom, Literal)}
        operands = [given[var] for var in alone.invars]

        def results(*arrays: Array) -> list[Array]:
            return jax.core.eval_jaxpr(alone, [], *arrays)

        axes = [0 if isinstance(value, Sampled) else None for value in operands]
        if not any(axis == 0 for axis in axes):
            return list(results(*operands))
        arrays = [value.array if isinstance(value, Sampled) else value for value in operands]
        return [Sampled(array) for array in jax.vmap(results, in_axes=axes)(*arrays)]

    def alike(self, value: Value, is_sampled: bool) -> Value:
        return sampled(value, self.count) if is_sampled else value


def _is_same_for_all(values: Values) -> bool:
    return not any(isinstance(value, (Sampled, Weight)) for value in values)


def _with_axes(array: Array, params: dict[str, Any]) -> Array:
    """Returns what is broadcast with all axes of the result, those that it does not have of size 1."""
    sizes = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], array.shape, strict=True):
        sizes[axis] = size
    return array.reshape(sizes)


def _named_as(eqn: Any) -> Any:
    """Lets what is computed for an equation carry its place in the code."""
    stack = source_info_util.current_name_stack() + eqn.source_info.name_stack
    return source_info_util.user_context(eqn.source_info.traceback, name_stack=stack)


# --- programs inside a program -----------------------------------------------------------------------


def _call(walk: _Walk, eqn: Any, values: Values) -> Values:
    return walk.enter(_program(eqn), values)


def _remat(walk: _Walk, eqn: Any, values: Values) -> Values:
    p = eqn.params

    def entered(*values: Value) -> Values:
        return walk.enter(p["jaxpr"], list(values))

    return jax.checkpoint(entered, prevent_cse=p["prevent_cse"], policy=p["policy"])(*values)


def _custom(walk: _Walk, eqn: Any, values: Values) -> Values:
    """Enters a function with a derivative rule of its own, which is then not there to be used."""
    held = jax.lax.stop_gradient(values)

    def refuse(inputs: Any, tangents: Any) -> Any:
        raise ValueError(
            "fun passes a weight to a function that has a derivative rule of its own, so that a gradient in "
            "args through it is not known; differentiate in params alone, or let it take activations only"
        )

    return with_rule(walk.enter(_program(eqn), held), refuse, values)


def _scan(walk: _Walk, eqn: Any, values: Values) -> Values:
    """Keeps weights in parts where they are constant or scanned over; those carried become matrices."""
    p = eqn.params
    num_fixed, num_carried = scans.num_fixed_and_carried(p)
    fixed, carried = values[:num_fixed], values[num_fixed:][:num_carried]
    state = [walk.whole(value, eqn) for value in carried]
    rows = [_rows(value, p["length"]) for value in values[num_fixed + num_carried :]]
    xs, joins = [each[0] for each in rows], [each[1] for each in rows]

    def step(state: Values, xs: list[Any]) -> tuple[Values, Values]:
        given = [join(x) for join, x in zip(joins, xs, strict=True)]
        found = walk.enter(p["jaxpr"], [*fixed, *state, *given])
        return [walk.whole(value, eqn) for value in found[:num_carried]], [
            walk.whole(value, eqn) for value in found[num_carried:]
        ]

    def steady(state: Values, xs: list[Any]) -> tuple[Values, Values]:
        following, outs = step(state, xs)
        return _all_alike(walk, following, are_sampled), outs

    are_sampled = [isinstance(value, Sampled) for value in state]
    first = jax.tree.map(lambda array: array[:1].reshape(array.shape[1:]), xs) if p["length"] else xs
    while p["length"]:
        following = jax.eval_shape(lambda state: step(state, first)[0], state)
        grown = [a or isinstance(b, Sampled) for a, b in zip(are_sampled, following, strict=True)]
        if grown == are_sampled:
            break
        are_sampled, state = grown, _all_alike(walk, state, grown)
    state, outs = jax.lax.scan(
        steady, state, xs, length=p["length"], reverse=p["reverse"], unroll=p["unroll"]
    )
    return [*state, *(_stacked(value) for value in outs)]


def _rows(value: Value, length: int) -> tuple[Any, Callable[[Any], Value]]:
    """Returns arrays to scan over, and what makes a value of a row of them."""
    if isinstance(value, Sampled):
        return value.array.swapaxes(0, 1), Sampled
    if not isinstance(value, Weight):
        return value, lambda row: row
    parts = {"left": value.left, "right": value.right}
    moving = {key: part.swapaxes(0, 1) for key, part in parts.items() if part.shape[1] == length}
    fixed = {key: part[:, 0] for key, part in parts.items() if key not in moving}

    def join(row: Any) -> Weight:
        base, own = row
        return Weight(base, **(own | fixed), name=value.name)

    return (value.base, moving), join


def _stacked(value: Value) -> Value:
    return Sampled(value.array.swapaxes(0, 1)) if isinstance(value, Sampled) else value


def _all_alike(walk: _Walk, values: Values, are_sampled: Sequence[bool]) -> Values:
    return [walk.alike(*each) for each in zip(values, are_sampled, strict=True)]


def _cond(walk: _Walk, eqn: Any, values: Values) -> Values:
    """Takes a branch or, where samples take different ones, evaluates all and selects."""
    index, *operands = values
    branches = eqn.params["branches"]

    def taken(number: int, operands: Values) -> Values:
        return [walk.whole(value, eqn) for value in walk.enter(branches[number], operands)]

    if isinstance(index, Sampled):
        cases = [
            _all_alike(walk, taken(i, operands), [True] * len(eqn.outvars)) for i in range(len(branches))
        ]
        number = jnp.clip(index.array.astype(jnp.int32), 0, len(branches) - 1)
        select: Callable[..., Array] = jax.vmap(lambda number, *cases: jax.lax.select_n(number, *cases))
        return [Sampled(select(number, *(case.array for case in each))) for each in zip(*cases, strict=True)]
    shapes = [
        jax.eval_shape(lambda operands, i=i: taken(i, operands), operands) for i in range(len(branches))
    ]
    are_sampled = [any(isinstance(value, Sampled) for value in each) for each in zip(*shapes, strict=True)]
    functions = [
        lambda operands, i=i: _all_alike(walk, taken(i, operands), are_sampled) for i in range(len(branches))
    ]
    return jax.lax.switch(index.astype(jnp.int32), functions, operands)


Entry = Callable[[_Walk, Any, Values], Values]

_CALLS = "closed_call core_call core_closed_call custom_vmap_call jit pjit"
_CUSTOM = "custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr"
_ENTRIES: dict[str, Entry] = {
    **dict.fromkeys(_CALLS.split(), _call),
    **dict.fromkeys(_CUSTOM.split(), _custom),
    **dict.fromkeys(("checkpoint", "remat", "remat2"), _remat),
    "scan": _scan,
    "cond": _cond,
}


def _program(eqn: Any) -> Any:
    """Returns the program inside an equation, if it has one that takes its operands."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call"):
        inner = getattr(eqn.params.get(name), "jaxpr", eqn.params.get(name))
        if hasattr(inner, "eqns") and len(inner.invars) == len(eqn.invars):
            return eqn.params[name]
    return None


def _entry_of(eqn: Any, values: Values) -> Entry | None:
    """Returns how to follow the programs inside an equation, or None where it is to be taken as a whole.

    Functions with derivative rules, loops and branches are taken as a whole where no weight goes in.
    """
    entry = _ENTRIES.get(eqn.primitive.name)
    has_weights = any(isinstance(value, Weight) for value in values)
    if entry is None or (entry in (_custom, _scan, _cond) and not has_weights):
        return None
    if entry is _cond and isinstance(values[0], Weight):
        return None
    if entry in (_call, _custom, _remat) and _program(eqn) is None:
        return None
    return None if entry is _cond and isinstance(values[0], Sampled) and eqn.effects else entry
