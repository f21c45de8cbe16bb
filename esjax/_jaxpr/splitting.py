"""A program in two: what depends on known inputs alone, to be computed once, and the rest."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Literal, jaxprs_in_params


class Split(NamedTuple):
    """A program as `second(*unknown, *first(*known))`.

    Attributes:
        is_first: for each equation whether it is one of the first program's.
        first: a program of the known inputs, which returns what the second needs.
        second: a program of the unknown inputs and of that.
    """

    is_first: tuple[bool, ...]
    first: ClosedJaxpr
    second: ClosedJaxpr


def known_equations(program: ClosedJaxpr, known: Sequence[bool], other: ClosedJaxpr) -> tuple[bool, ...]:
    """Returns which equations depend on known inputs alone, and make the same shapes in another program.

    Args:
        program: a program.
        known: for each of its inputs whether it is known.
        other: the same program for another number of samples, on which the first part must not depend.
    """
    jaxpr = program.jaxpr
    seen = {*jaxpr.constvars, *(var for var, each in zip(jaxpr.invars, known, strict=True) if each)}
    if len(jaxpr.eqns) != len(other.jaxpr.eqns):
        return (False,) * len(jaxpr.eqns)
    found = []
    for eqn, like in zip(jaxpr.eqns, other.jaxpr.eqns, strict=True):
        is_known = all(isinstance(atom, Literal) or atom in seen for atom in eqn.invars)
        is_same = [var.aval for var in eqn.outvars] == [var.aval for var in like.outvars]
        found.append(is_known and is_same and not eqn.effects)
        if found[-1]:
            seen |= set(eqn.outvars)
    return tuple(found)


def growth(smaller: Any, larger: Any) -> int:
    """Returns by how many elements an array grows at most from one jaxpr to the same for one more sample."""
    found = [1]
    for eqn, like in zip(smaller.eqns, larger.eqns, strict=False):
        pairs = zip(eqn.outvars, like.outvars, strict=True)
        found += [getattr(b.aval, "size", 0) - getattr(a.aval, "size", 0) for a, b in pairs]
        inside = zip(_programs(eqn), _programs(like), strict=True)
        found += [growth(*each) for each in inside]
    return max(found)


def _programs(eqn: Any) -> list[Any]:
    return [each for each in jaxprs_in_params(eqn.params) if hasattr(each, "eqns")]


def split(program: ClosedJaxpr, known: Sequence[bool], is_first: Sequence[bool]) -> Split:
    """Returns the two programs; `is_first` is as from `known_equations`."""
    jaxpr = program.jaxpr
    pairs = list(zip(jaxpr.eqns, is_first, strict=True))
    firsts, seconds = ([eqn for eqn, each in pairs if each is first] for first in (True, False))
    given = [var for var, each in zip(jaxpr.invars, known, strict=True) if each]
    rest = [var for var, each in zip(jaxpr.invars, known, strict=True) if not each]
    of_first = {*given, *jaxpr.constvars, *(var for eqn in firsts for var in eqn.outvars)}
    read = [*(atom for eqn in seconds for atom in eqn.invars), *jaxpr.outvars]
    crossing = list(
        dict.fromkeys(atom for atom in read if not isinstance(atom, Literal) and atom in of_first)
    )
    first = jaxpr.replace(invars=given, outvars=crossing, eqns=firsts)
    second = jaxpr.replace(constvars=[], invars=[*rest, *crossing], eqns=seconds)
    return Split(tuple(is_first), ClosedJaxpr(first, program.consts), ClosedJaxpr(second, []))


def run(program: ClosedJaxpr, *inputs: Any) -> list[Any]:
    """Evaluates a program."""
    return jax.core.eval_jaxpr(program.jaxpr, program.consts, *inputs)
