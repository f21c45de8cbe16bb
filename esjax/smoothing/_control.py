"""A control variate: a function with a known smoothed value, subtracted with a fitted scale.

It is a composition of smoothed functions: f, c and their products are smoothed together, in two
independent halves of the samples, so that the scale fitted on one half is independent of the other.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from esjax._core import random
from esjax._core.traceable import traceable
from esjax.smoothing._problem import Informs

Array = jax.Array
Control = tuple[Callable[..., Any], Callable[..., Any]]


def with_control(
    smooth: Callable[[Callable[..., Any], int], Any],
    fun: Callable[..., Any],
    control: Control,
    num_samples: int,
) -> Callable[..., Any]:
    """Returns `(informs, key, x, *args, sigma) -> (value, None)` of `fun` with the control variate.

        F ≈ Σ_h (N_h/N) (mean_h f − β_h (mean_h c − C(x, σ))),   β_h = cov(f, c) / var(c) in the other half

    for halves h = 1, 2 (Glasserman 2003, sec. 4.1, with the scale fitted on other samples). Each β_h is
    held constant, so the gradient is that of F in expectation, whatever β.

    Args:
        smooth: `(fun, num_samples) -> smoothed`, with every other option chosen.
        fun: the block.
        control: `(c, c_mean)`.
        num_samples: N of both halves together.
    """
    c, c_mean = (traceable(f"control[{n}]", each) for n, each in enumerate(control))
    sizes = num_samples - num_samples // 2, num_samples // 2

    def smoothed(informs: Informs | None, key: Any, x: Any, *args: Any, sigma: Any) -> tuple[Any, None]:
        if informs is not None:
            raise ValueError(
                "control=(c, c_mean) has neither a report nor samples to show; pass control=c, or leave it "
                "out to diagnose"
            )
        known = c_mean(x, sigma, *args)
        centre = jax.lax.stop_gradient(known)

        def moments(x: Any, *args: Any) -> tuple[Any, Any, Any, Any]:
            f_value, c_value = fun(x, *args), c(x, *args)
            check_same("control[0]", c_value, f_value)
            check_same("control[1]", known, f_value)
            c_value = jax.tree.map(jnp.subtract, c_value, centre)  # an offset hides the variance in float32
            product = jax.tree.map(jnp.multiply, f_value, c_value)
            return f_value, c_value, product, jax.tree.map(jnp.square, c_value)

        data, as_key = random.data_of(key)  # the call consumes the key itself
        keys = jax.random.split(as_key(data))
        first, second = (
            smooth(moments, size)(k, x, *args, sigma=sigma) for size, k in zip(sizes, keys, strict=True)
        )
        moved = jax.tree.map(jnp.subtract, known, centre)  # 0, with the derivative of the known mean
        parts = [
            _controlled(own, other, moved, size / num_samples)
            for own, other, size in ((first, second, sizes[0]), (second, first, sizes[1]))
        ]
        return jax.tree.map(jnp.add, *parts), None

    return smoothed


def _controlled(own: Any, other: Any, moved: Any, share: float) -> Any:
    """Returns share · (f − β (c − C)) of one half, with β from the moments of the other."""
    scale = jax.tree.map(_regression, *jax.lax.stop_gradient(other))
    f_mean, c_mean, *_ = own
    return jax.tree.map(lambda f, c, C, beta: share * (f - beta * (c - C)), f_mean, c_mean, moved, scale)


def _regression(f: Array, c: Array, fc: Array, cc: Array) -> Array:
    variance = cc - c**2
    return jnp.where(variance > 0, (fc - f * c) / jnp.where(variance > 0, variance, 1), 0)


def check_same(name: str, value: Any, like: Any) -> None:
    """Raises `ValueError` unless a control variate returns what `fun` does."""
    found, wanted = (
        jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), t) for t in (value, like)
    )
    if found != wanted:
        raise ValueError(
            f"{name} returns {found}, and fun returns {wanted}; give a control variate of the same "
            "structure, shapes and dtypes"
        )
