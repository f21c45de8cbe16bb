"""The linear end of a program taken off: the terms of a mean, and what makes the mean of them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from esjax._jaxpr._moves import MOVES
from esjax._jaxpr.dependence import reads

Array = jax.Array

_SUMS = ("reduce_sum", "cumsum", "add", "add_any", "sub", "neg")
_PRODUCTS = ("mul", "div", "dot_general")
_CALLS = ("jit", "pjit", "closed_call", "core_call")


class Peeled(NamedTuple):
    """A program as block(x..., args...) = combine(terms(x..., args...), args...), linear in the terms.

    Attributes:
        terms: a program of all inputs, in their order. Its results are floating arrays. (Whole numbers and
            Booleans that the block sums up become floating numbers here, before and not after the sum.)
        combine: a program of the terms and then of the inputs that are not part of x, in their order. Where
            nothing is linear it is the identity. Results of the block that are not floating are so here.
    """

    terms: ClosedJaxpr
    combine: ClosedJaxpr

    @property
    def num_terms(self) -> int:
        """How many terms there are, each element of an array for itself."""
        return sum(var.aval.size for var in self.terms.jaxpr.outvars)


def peel(jaxpr: ClosedJaxpr, of: Sequence[bool]) -> Peeled:
    """Takes the linear end off a program.

    Sums, products with what does not read x, and what moves elements are followed back from the results to
    the values that something else has made: those are the terms. Elements that no result reads are left out.

    Args:
        jaxpr: the program.
        of: for each of its inputs whether it is part of x.
    """
    flat = jax.make_jaxpr(lambda *inputs: _as_floats(_inlined(jaxpr, inputs)))(*jaxpr.in_avals)
    opened, dtypes = _linear_end(flat, of)
    inside = {var for eqn in opened for var in eqn.outvars}
    ends = {var: dtype for var, dtype in dtypes.items() if var not in inside}
    whole = [var.aval.update(dtype=dtype, weak_type=False) for var, dtype in ends.items()]
    args = [aval for aval, part in zip(jaxpr.in_avals, of, strict=True) if not part]

    def terms(*inputs: Any) -> list[Array]:
        values = _evaluated(flat, list(ends), list(inputs))
        return [_cast(value, dtype) for value, dtype in zip(values, ends.values(), strict=True)]

    def combine(terms: Sequence[Array], *args: Any) -> list[Array]:
        return _combined(flat, of, opened, dtypes, dict(zip(ends, terms, strict=True)), args)

    kept = _kept(jax.make_jaxpr(combine)(whole, *args), len(whole))
    some = [np.flatnonzero(each) if not each.all() else None for each in kept]
    parts = jax.eval_shape(lambda *each: _taken(each, some), *whole)
    return Peeled(
        jax.make_jaxpr(lambda *inputs: _taken(terms(*inputs), some))(*jaxpr.in_avals),
        jax.make_jaxpr(lambda parts, *args: combine(_put_back(parts, some, whole), *args))(parts, *args),
    )


# --- the linear end ----------------------------------------------------------------------------------


def _linear_end(flat: ClosedJaxpr, of: Sequence[bool]) -> tuple[list[Any], dict[Any, Any]]:
    """Returns the equations of the linear end, and the values in it, each with the dtype that it has there.

    Whole numbers, Booleans and narrow floating numbers take the dtype of the wider ones made of them.
    """
    reading = {var for var, part in zip(flat.jaxpr.invars, of, strict=True) if part}
    for eqn in flat.jaxpr.eqns:
        if any(atom in reading for atom in eqn.invars if not isinstance(atom, Literal)):
            reading |= set(eqn.outvars)
    outvars = [var for var in flat.jaxpr.outvars if not isinstance(var, Literal)]
    dtypes = {var: var.aval.dtype for var in outvars if var in reading}
    opened: list[Any] = []
    for eqn in reversed(flat.jaxpr.eqns):
        wanted = [dtypes[var] for var in eqn.outvars if var in dtypes]
        moving = [not isinstance(atom, Literal) and atom in reading for atom in eqn.invars]
        if not wanted or eqn.effects or not _is_linear(eqn, moving) or _is_guarded(eqn, moving, opened):
            continue
        opened.append(eqn)
        for var, moves in zip(eqn.invars, moving, strict=True):
            if moves:
                own = [var.aval.dtype] if _is_floating(var.aval.dtype) else []
                before = [dtypes[var]] if var in dtypes else []
                dtypes[var] = _widest([*own, *wanted, *before])
    return opened[::-1], dtypes


def _widest(dtypes: Sequence[Any]) -> Any:
    return max(dtypes, key=lambda dtype: dtype.itemsize)


def _is_guarded(eqn: Any, moving: Sequence[bool], opened: list[Any]) -> bool:
    """Whether this scales by what may be infinite or NaN where a selection further on looks elsewhere.

    (Slopes would be NaN there, 0 times infinity.)
    """
    fixed = [atom for atom, moves in zip(eqn.invars, moving, strict=True) if not moves]
    scales = eqn.primitive.name in _PRODUCTS and not all(isinstance(atom, Literal) for atom in fixed)
    return scales and any(each.primitive.name == "select_n" for each in opened)


def _is_floating(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating)


def _is_linear(eqn: Any, moving: Sequence[bool]) -> bool:
    """Whether the results are linear in those operands that are `moving`, as numbers that never overflow."""
    name, made = eqn.primitive.name, eqn.outvars[0].aval.dtype
    if name == "convert_element_type":
        return _keeps_numbers(eqn.invars[0].aval.dtype, made)
    if name == "select_n":
        return not moving[0]
    if name in MOVES or name in ("copy", "copy_p"):
        return True
    if not _adds_up(made):
        return False
    if name in _SUMS:
        return True
    if not all(_is_floating(var.aval.dtype) for var in eqn.invars):
        return False  # products of whole numbers are often meant to wrap
    return name in _PRODUCTS and sum(moving) == 1 and not (name == "div" and moving[1])


def _adds_up(dtype: Any) -> bool:
    """Whether sums in this dtype are those of numbers: narrow or unsigned ones may round, or wrap."""
    return dtype.itemsize >= 4 and (_is_floating(dtype) or jnp.issubdtype(dtype, jnp.signedinteger))


def _keeps_numbers(old: Any, new: Any) -> bool:
    """Whether a conversion keeps numbers: to fewer bits it rounds each of them, which a mean does not.

    (In float32, whole numbers are counts, which are not that large.)
    """
    if _is_floating(old):
        return _is_floating(new) and _holds(new, old)
    return old == jnp.bool_ or (_is_floating(new) and _adds_up(new)) or np.can_cast(old, new, "safe")


def _holds(new: Any, old: Any) -> bool:
    """Whether every number of one floating dtype is one of another."""
    finfo: Any = jnp.finfo  # JAX gives it no types
    wide, narrow = finfo(new), finfo(old)
    return bool(wide.nmant >= narrow.nmant and wide.maxexp >= narrow.maxexp and wide.minexp <= narrow.minexp)


# --- evaluation --------------------------------------------------------------------------------------


def _part(flat: ClosedJaxpr, outvars: Sequence[Any], keep: Callable[[Any], bool]) -> Any:
    """Returns that part of a program which makes `outvars`, and the equations for which `keep` holds."""
    needed, kept = set(outvars), []
    for eqn in reversed(flat.jaxpr.eqns):
        if keep(eqn) or needed & set(eqn.outvars):
            kept.append(eqn)
            needed |= {atom for atom in eqn.invars if not isinstance(atom, Literal)}
    return flat.jaxpr.replace(outvars=list(outvars), eqns=kept[::-1])


def _evaluated(flat: ClosedJaxpr, outvars: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """Returns the values of some variables of a program; what has effects is run, too."""
    return jax.core.eval_jaxpr(_part(flat, outvars, lambda eqn: bool(eqn.effects)), flat.consts, *inputs)


def _combined(
    flat: ClosedJaxpr,
    of: Sequence[bool],
    opened: list[Any],
    dtypes: dict[Any, Any],
    terms: dict[Any, Any],
    args: Any,
) -> list[Array]:
    """Returns the program's results, from the terms and from what does not read x."""
    fixed = [
        atom
        for atom in [*(atom for eqn in opened for atom in eqn.invars), *flat.jaxpr.outvars]
        if not isinstance(atom, Literal) and atom not in dtypes
    ]
    fixed = list(dict.fromkeys(fixed))
    part = _part(flat, fixed, lambda eqn: False)
    part = part.replace(invars=[var for var, moves in zip(part.invars, of, strict=True) if not moves])
    env = dict(zip(fixed, jax.core.eval_jaxpr(part, flat.consts, *args), strict=True)) | terms

    def value(atom: Any) -> Any:
        return _literal(atom) if isinstance(atom, Literal) else env[atom]

    for eqn in opened:
        for var, result in zip(
            eqn.outvars, _applied(eqn, dtypes, [value(a) for a in eqn.invars]), strict=True
        ):
            env[var] = result
    return [value(atom) for atom in flat.jaxpr.outvars]


def _applied(eqn: Any, dtypes: dict[Any, Any], values: list[Any]) -> list[Any]:
    """Returns the results of an equation of the linear end, in floating numbers throughout."""
    name, params = eqn.primitive.name, dict(eqn.params)
    dtype = _widest([dtypes[var] for var in eqn.outvars if var in dtypes])
    if name == "convert_element_type":
        return [_cast(values[0], dtype)]
    start = 1 if name == "select_n" else 0
    values = [*values[:start], *(_cast(value, dtype) for value in values[start:])]
    params |= {"preferred_element_type": dtype} if "preferred_element_type" in params else {}
    found = eqn.primitive.bind(*values, **params)
    return list(found) if eqn.primitive.multiple_results else [found]


def _literal(atom: Any) -> Any:
    return jnp.asarray(atom.val, atom.aval.dtype)


def _cast(value: Any, dtype: Any) -> Any:
    return value if value.dtype == dtype else jax.lax.convert_element_type(value, dtype)


def _as_floats(values: list[Any]) -> list[Any]:
    """Returns values with whole numbers and Booleans as floating numbers of JAX's default dtype."""
    default = jnp.result_type(float)
    whole = [jnp.issubdtype(v.dtype, jnp.integer) or v.dtype == jnp.bool_ for v in values]
    return [_cast(v, default) if each else v for v, each in zip(values, whole, strict=True)]


def _inlined(program: Any, inputs: Sequence[Any]) -> list[Any]:
    """Evaluates a program, without the calls of `jax.jit` in it."""
    jaxpr = program.jaxpr
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*program.consts, *inputs], strict=True))

    def value(atom: Any) -> Any:
        return _literal(atom) if isinstance(atom, Literal) else env[atom]

    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _CALLS and hasattr(eqn.params.get("jaxpr"), "consts"):
            env |= zip(
                eqn.outvars, _inlined(eqn.params["jaxpr"], [value(a) for a in eqn.invars]), strict=True
            )
            continue
        variables = list(dict.fromkeys(atom for atom in eqn.invars if not isinstance(atom, Literal)))
        alone = jaxpr.replace(constvars=[], invars=variables, outvars=eqn.outvars, eqns=[eqn])
        env |= zip(eqn.outvars, jax.core.eval_jaxpr(alone, [], *map(value, variables)), strict=True)
    return [value(atom) for atom in jaxpr.outvars]


# --- terms that nothing reads ------------------------------------------------------------------------


def _kept(combine: ClosedJaxpr, num_terms: int) -> list[Any]:
    """Returns for each array of terms which of its elements (flat) any result reads."""
    of = [i < num_terms for i in range(len(combine.jaxpr.invars))]
    shapes = [var.aval.size for var in combine.jaxpr.invars[:num_terms]]
    pattern = reads(combine, of).pattern
    read = np.ones(sum(shapes), bool) if pattern is None else np.asarray(pattern.sum(0)).ravel() > 0
    return np.split(read, np.cumsum(shapes)[:-1]) if shapes else []


def _taken(terms: Sequence[Array], some: Sequence[Any]) -> list[Array]:
    """Returns of each array of terms all, or some elements."""
    return [each if at is None else each.ravel()[at] for each, at in zip(terms, some, strict=True)]


def _put_back(parts: Sequence[Array], some: Sequence[Any], whole: Sequence[Any]) -> list[Array]:
    """Returns arrays of terms with 0 for the elements that were left out."""

    def put(part: Array, at: Any, like: Any) -> Array:
        if at is None:
            return part
        return jnp.zeros(like.size, like.dtype).at[at].set(part).reshape(like.shape)

    return [put(*each) for each in zip(parts, some, whole, strict=True)]
