"""Checks of training options: each error names the option, its value and what it may be."""

import math
from numbers import Integral, Real
from typing import TypeGuard


def require_one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    """Raises `ValueError` unless `value` is among those known."""
    if value not in known:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(known)}")


def require_share(name: str, value: object) -> None:
    """Raises `ValueError` unless `value` is a number in [0, 1]."""
    if not (_is_number(value) and 0 <= value <= 1):
        raise ValueError(f"{name}={value!r} must be in [0, 1]; 0.4 stands for 40 %")


def require_positive(name: str, value: object) -> None:
    """Raises `ValueError` unless `value` is a finite number > 0."""
    if not (_is_number(value) and 0 < value < math.inf):
        raise ValueError(f"{name}={value!r} must be a finite number > 0")


def require_finite(name: str, value: object) -> None:
    """Raises `ValueError` unless `value` is a finite number."""
    if not (_is_number(value) and math.isfinite(value)):
        raise ValueError(f"{name}={value!r} must be a finite number")


def require_at_least(name: str, value: object, least: int) -> None:
    """Raises `ValueError` unless `value` is a whole number in [least, 2³¹)."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ValueError(f"{name}={value!r} must be a whole number >= {least}")
    if int(value) >= 2**31:
        raise ValueError(f"{name}={value} must be below 2**31 = {2**31}")


def require_callable(name: str, value: object, remedy: str) -> None:
    """Raises `ValueError` unless `value` can be called."""
    if not callable(value):
        raise ValueError(f"{name}={value!r} is not callable; {remedy}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)
