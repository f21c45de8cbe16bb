"""Some of the inputs: which are differentiated, taken apart from the rest and put together again."""

from typing import Any

from esjax.smoothing._perturbing import Inputs

Wanted = tuple[bool, ...]  # which of the inputs are differentiated
Gradients = tuple[Any, ...]  # one for each of the inputs, None where not wanted


def split(chosen: Wanted, items: Inputs) -> tuple[list[Any], list[Any]]:
    """Splits `items` into those chosen and the rest."""
    pairs = list(zip(chosen, items, strict=True))
    return [item for choice, item in pairs if choice], [item for choice, item in pairs if not choice]


def join(chosen: Wanted, ones: list[Any], others: list[Any]) -> Inputs:
    """The inverse of `split`."""
    sources = {True: iter(ones), False: iter(others)}
    return tuple(next(sources[choice]) for choice in chosen)


def spread(chosen: Wanted, ones: list[Any]) -> Gradients:
    """Puts `ones` where they were chosen from, None elsewhere."""
    items = iter(ones)
    return tuple(next(items) if choice else None for choice in chosen)
