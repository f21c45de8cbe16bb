"""Values that are known as a program is traced, so that indices, conditions and zeros are known.

What NumPy computes here is exactly what XLA does: whole numbers, comparisons, sums and products that need no
rounding, and what only moves elements.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esjax._jaxpr._moves import MOVES, dynamic_slice, dynamic_update_slice, is_move
from esjax._jaxpr._sets import Readings

Array = np.ndarray[Any, Any]


class Value(NamedTuple):
    """What is found out about a value: what its elements read (None: nothing), and what they are, if so."""

    readings: Readings | None = None
    known: Array | None = None


_MOST_ELEMENTS = 10**6

_EXACT: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "max": np.maximum,
    "min": np.minimum,
    "floor": np.floor,
    "ceil": np.ceil,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "is_finite": np.isfinite,
    "copy": np.asarray,
    "copy_p": np.asarray,
    "stop_gradient": np.asarray,
    "select_n": lambda which, *cases: selected(which, cases),
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
}

_WHOLE = """
argmax argmin clz convert_element_type cummax cummin cumprod cumsum div dot_general gather integer_pow
population_count reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum reduce_xor rem round
scatter scatter-add scatter-max scatter-min scatter-mul scatter-sub shift_left shift_right_arithmetic
shift_right_logical sort square threefry2x32
"""
_COMPUTED = frozenset(_WHOLE.split())
"""JAX computes these, where the result is whole numbers."""


def selected(which: Array, cases: Sequence[Array]) -> Array:
    """Returns for each element that of the case which `which` (or for all, if it is a scalar) says."""
    number = which.astype(np.int64)
    chosen = cases[0]
    for i, case in enumerate(cases[1:], 1):
        chosen = np.where(number == i, case, chosen)
    return chosen


def of(value: Any) -> Array | None:
    """Returns a constant as a NumPy array, or None where it is traced, large, elsewhere, or no numbers."""
    if isinstance(value, jax.core.Tracer):
        return None
    dtype, size = getattr(value, "dtype", None), getattr(value, "size", 1)
    if size > _MOST_ELEMENTS or (dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended)):
        return None
    if isinstance(value, jax.Array):
        return np.asarray(value) if value.is_fully_addressable else None
    return (
        np.asarray(value) if isinstance(value, (np.ndarray, np.generic, bool, int, float, complex)) else None
    )


def results(eqn: Any, values: list[Array | None]) -> list[Array | None]:
    """Returns what is known of an equation's results."""
    unknown: list[Array | None] = [None] * len(eqn.outvars)
    known = [value for value in values if value is not None]
    sizes = [getattr(var.aval, "size", _MOST_ELEMENTS + 1) for var in eqn.outvars]
    if eqn.effects or len(known) < len(values) or max(sizes, default=0) > _MOST_ELEMENTS:
        return unknown
    if any(not isinstance(getattr(var.aval, "dtype", None), np.dtype) for var in eqn.outvars):
        return unknown
    found = _computed(eqn, known)
    if found is None or any(f.shape != v.aval.shape for f, v in zip(found, eqn.outvars, strict=True)):
        return unknown
    return [np.asarray(f, v.aval.dtype) for f, v in zip(found, eqn.outvars, strict=True)]


def _computed(eqn: Any, known: list[Array]) -> list[Array] | None:
    name, params = eqn.primitive.name, eqn.params
    if is_move(eqn):
        return MOVES[name].apply(known, params)
    if name == "iota":
        return [_iota(params)]
    if name == "dynamic_slice":
        return [dynamic_slice(known[0], known[1:], params["slice_sizes"])]
    if name == "dynamic_update_slice":
        return [dynamic_update_slice(known[0], known[1], known[2:])]
    if any(_has_nan(value) for value in known) and name not in ("add", "sub", "mul", "neg", "select_n"):
        return None  # of numbers that are not known
    if name in _EXACT:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = np.asarray(_EXACT[name](*known))
            return [_unless_rounded(name, known, found) if name in ("add", "sub", "mul") else found]
    dtypes = [*(value.dtype for value in known), *(var.aval.dtype for var in eqn.outvars)]
    if name == "convert_element_type" and (dtypes[0].kind in "biu" or dtypes[1].kind == "f"):
        return [known[0].astype(dtypes[-1])]
    if name in _COMPUTED and all(dtype.kind in "biu" for dtype in dtypes[-len(eqn.outvars) :]):
        with jax.ensure_compile_time_eval():
            found = eqn.primitive.bind(*known, **params)
        return [np.asarray(each) for each in (found if eqn.primitive.multiple_results else [found])]
    return None


def _has_nan(value: Array) -> bool:
    return value.dtype.kind in "fc" and bool(np.isnan(value).any())


def _unless_rounded(name: str, known: list[Array], found: Array) -> Array:
    """Returns the result of arithmetic, with NaN where it is rounded: XLA may round otherwise, or not at all.

    (So NaN stands for a number that is not known: it is not 0, and nothing is concluded from comparing it.)
    """
    if found.dtype.kind != "f":
        return found
    wide = np.float64 if found.dtype.itemsize < 8 else np.longdouble
    precise = _EXACT[name](*(value.astype(wide) for value in known))
    return np.where(precise == found.astype(wide), found, np.full((), np.nan, found.dtype))


def _iota(params: dict[str, Any]) -> Array:
    sizes = [1] * len(params["shape"])
    sizes[params["dimension"]] = -1
    numbers = np.arange(params["shape"][params["dimension"]]).reshape(sizes)
    return np.broadcast_to(numbers, params["shape"])
