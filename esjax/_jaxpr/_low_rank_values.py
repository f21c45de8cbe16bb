"""Values of a perturbed program: the same for all samples, one for each, or a weight in parts."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

_UNROLLED = 4
"""Sums of at most so many products are written out: XLA joins them with what comes after, as it does not a
product of matrices."""


class Sampled(NamedTuple):
    """A value that differs between samples: (count, *shape)."""

    array: Array


@partial(jax.tree_util.register_dataclass, data_fields=["base", "left", "right"], meta_fields=["name"])
@dataclasses.dataclass(frozen=True)
class Weight:
    """A weight with noise of low rank, in parts: base + Σ_k left[n, ..., k] right[n, ..., k] for sample n.

    Attributes:
        base: (*shape), the same for all samples.
        left: (count, *sizes, rank), each size that of the shape or 1.
        right: the same; along each axis of the shape, `left` or `right` has its size.
        name: of the parameter.
    """

    base: Array
    left: Array
    right: Array
    name: str


Value = Any
"""An array that is the same for all samples, a `Sampled` or a `Weight`."""


def expanded(weight: Weight) -> Sampled:
    """Returns the weight of each sample, (count, *shape)."""
    axes = range(1, weight.left.ndim - 1)
    noise = summed(weight.left, weight.right, (0, *axes))
    return Sampled(weight.base[None] + noise)


def summed(left: Array, right: Array, axes: Sequence[int], precision: Any = None) -> Array:
    """Returns Σ_k left[..., k] right[..., k]; `axes` are all but the last, each of the same size or 1."""
    if left.shape[-1] <= _UNROLLED:
        terms = [left[..., k] * right[..., k] for k in range(left.shape[-1])]
        return sum(terms[1:], terms[0])
    rank = len(axes)
    kept = [[axis for axis in axes if factor.shape[axis] != 1] for factor in (left, right)]
    operands = [
        factor.reshape([factor.shape[axis] for axis in [*some, rank]])
        for factor, some in zip((left, right), kept, strict=True)
    ]
    out = sorted({*kept[0], *kept[1]})
    shape = jnp.broadcast_shapes(left.shape[:-1], right.shape[:-1])
    found = jnp.einsum(operands[0], [*kept[0], rank], operands[1], [*kept[1], rank], out, precision=precision)
    return found.reshape(shape)


def sampled(value: Value, count: int) -> Sampled:
    """Returns a value as one for each sample."""
    if isinstance(value, Weight):
        return expanded(value)
    if isinstance(value, Sampled):
        return value
    return Sampled(jnp.broadcast_to(value[None], (count, *value.shape)))


def covers(factor: Array, axis: int, weight: Weight) -> bool:
    """Whether `left` or `right` of a weight has the size of an axis of its shape."""
    return factor.shape[1 + axis] == weight.base.shape[axis]


def runs(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]] | None:
    """Returns which axes of an old shape make which axes of a new one: runs with the same number of elements.

    None where an array is empty, of which no run can be told from another.
    """
    if prod(old) == 0:
        return None
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        olds, news = ([i], []) if i < len(old) else ([], [j])
        i, j = i + len(olds), j + len(news)
        while (a := prod(old[k] for k in olds)) != (b := prod(new[k] for k in news)):
            if a < b:
                olds.append(i)
                i += 1
            else:
                news.append(j)
                j += 1
        while not news and olds and j < len(new) and new[j] == 1 == old[olds[0]]:
            news.append(j)
            j += 1
        found.append((olds, news))
    return found
