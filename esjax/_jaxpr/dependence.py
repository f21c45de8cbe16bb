"""Which elements of x each element of a program's results reads: a dependence of values, not of derivatives.

A comparison, a rounded number, an index and a condition read, although their derivatives are 0. What is
found is never too little: a primitive that is not known reads everything that it is given. (A product with a
known 0 reads nothing: numbers are taken to be finite.)
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from esjax._jaxpr import _rules, _sets, _values
from esjax._jaxpr._control import Walk, entry_of
from esjax._jaxpr._values import Value

MOST_PAIRS = 2**22
"""34 MB of column numbers and flags, at most, for each array of sets."""

MOST_EQUATIONS = 20_000
"""Equations to look at, those of a loop's body once for each step: seconds."""


class Reads(NamedTuple):
    """What the results of a program read.

    `pattern` (M, D): a `scipy.sparse.csr_array` of bool; element m of the results (flat, and joined in their
    order) may depend on element d of x; None where the analysis gave up, so that everything reads everything.
    `unknown`: names of the primitives that made something read everything that they were given.
    """

    pattern: Any
    unknown: tuple[str, ...] = ()


def reads(
    jaxpr: ClosedJaxpr,
    of: Sequence[bool],
    *,
    most_pairs: int = MOST_PAIRS,
    most_equations: int = MOST_EQUATIONS,
) -> Reads:
    """Returns which elements of x each element of a program's results may read.

    Args:
        jaxpr: the program.
        of: for each of its inputs whether it is part of x (D elements in all, flat, and joined in order).
        most_pairs: at most so many pairs (element that reads, element read) are kept at any time; with more,
            the analysis gives up.
        most_equations: at most so many are looked at, those of a loop's body once for each step; with more,
            the analysis gives up.
    """
    from scipy import sparse

    sizes = [aval.size if each else 0 for aval, each in zip(jaxpr.in_avals, of, strict=True)]
    starts, width = np.cumsum([0, *sizes]), sum(sizes)
    state = _State(width, most_pairs, most_equations)
    try:
        inputs = [
            Value(_sets.singletons(int(start), var.aval.shape, width, most_pairs) if each else None)
            for var, each, start in zip(jaxpr.jaxpr.invars, of, starts[:-1], strict=True)
        ]
        found = state.enter(jaxpr, inputs)
        rows = [
            sparse.csr_array((var.aval.size, width), dtype=bool) if each is None else _sets.expanded(each)
            for var, (each, _) in zip(jaxpr.jaxpr.outvars, found, strict=True)
        ]
        pattern = sparse.vstack([sparse.csr_array((0, width), dtype=bool), *rows], format="csr")
        return Reads(pattern if pattern.nnz <= most_pairs else None, tuple(state.unknown))
    except _sets.TooMuch:
        return Reads(None, tuple(state.unknown))


class _State:
    """A walk through a program: how many equations may still be looked at, and what was unknown."""

    def __init__(self, width: int, most_pairs: int, most_equations: int):
        self.left = most_equations
        self.unknown: dict[str, None] = {}
        self.all_of_x = _sets.all_of(width, most_pairs)
        self.walk = Walk(self.enter, lambda jaxpr, times: _num_equations(jaxpr) * times <= self.left)

    def enter(self, program: Any, inputs: list[Value]) -> list[Value]:
        """Returns what a program (a `Jaxpr`, closed or not) makes of what its inputs read."""
        jaxpr, consts = getattr(program, "jaxpr", program), getattr(program, "consts", ())
        env: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
        env |= {var: Value(None, _values.of(c)) for var, c in zip(jaxpr.constvars, consts, strict=True)}

        def value(atom: Any) -> Value:
            if isinstance(atom, Literal):
                aval: Any = atom.aval
                known = _values.of(atom.val)
                return Value(None, None if known is None else known.astype(aval.dtype))
            return env[atom]

        for eqn in jaxpr.eqns:
            self.left -= 1
            if self.left < 0:
                raise _sets.TooMuch
            env |= zip(eqn.outvars, self.follow(eqn, [value(atom) for atom in eqn.invars]), strict=True)
        return [value(atom) for atom in jaxpr.outvars]

    def follow(self, eqn: Any, inputs: list[Value]) -> list[Value]:
        """Returns what the results of an equation read, and are."""
        name = eqn.primitive.name
        if (entry := entry_of(eqn)) is not None:
            return entry(eqn, inputs, self.walk)
        if any(not hasattr(effect, "name") for effect in eqn.effects) and eqn.outvars:
            self.unknown[name] = None  # it may read what another equation has written
            return [Value(_sets.either([self.all_of_x], getattr(v.aval, "shape", ()))) for v in eqn.outvars]
        if all(getattr(var.aval, "size", 1) == 0 for var in eqn.outvars):
            return [Value()] * len(eqn.outvars)
        if all(each.readings is None for each in inputs):
            return [Value(None, known) for known in _values.results(eqn, [each.known for each in inputs])]
        rule = _rules.rule_of(eqn)
        found = None if rule is None else rule(eqn, inputs)
        if found is None or not _fits(eqn, found):
            self.unknown[name] = None
            found = _rules.everything(eqn, inputs)
        return [Value(each) for each in found]


def _fits(eqn: Any, found: list[Any]) -> bool:
    """Whether there is something of the right shape for each result."""
    if len(found) != len(eqn.outvars):
        return False
    pairs = zip(found, eqn.outvars, strict=True)
    return all(each is None or each.which.shape == var.aval.shape for each, var in pairs)


def _num_equations(program: Any) -> int:
    """Returns how many equations a program has, those of a scan's body once for each step."""
    count = 0
    for eqn in program.eqns:
        programs = [each for each in jax.tree.leaves(list(eqn.params.values())) if hasattr(each, "eqns")]
        inside = sum(map(_num_equations, programs))
        count += 1 + inside * eqn.params.get("length", 1)
    return count
