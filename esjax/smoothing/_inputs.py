"""The inputs of an estimate, (x, σ, *args): some of them taken out, and put back again."""

from typing import Any

import jax

Array = jax.Array
Args = tuple[Array, ...]  # the arrays that `fun` and the options take beside x: any shapes and dtypes
Inputs = tuple[Any, ...]  # (x, sigma, *args): (dim,), () or (dim,), and `Args`
Wanted = tuple[bool, ...]  # which of the inputs are differentiated
Gradients = tuple[Any, ...]  # one for each of the inputs, None where not wanted


def split(wanted: Wanted, items: Inputs) -> tuple[list[Any], list[Any]]:
    """Splits `items` into those wanted and the rest."""
    pairs = list(zip(wanted, items, strict=True))
    return [item for want, item in pairs if want], [item for want, item in pairs if not want]


def join(wanted: Wanted, ones: list[Any], others: list[Any]) -> Inputs:
    """The inverse of `split`."""
    sources = {True: iter(ones), False: iter(others)}
    return tuple(next(sources[want]) for want in wanted)


def spread(wanted: Wanted, ones: list[Any]) -> Gradients:
    """Puts `ones` where they were taken from, None elsewhere."""
    items = iter(ones)
    return tuple(next(items) if want else None for want in wanted)
