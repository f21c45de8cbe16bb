"""Learned stand-ins: what a control variate learns from the samples that a gradient took anyway.

`esjax.smooth(fun, ..., control=c)` takes off the gradient's variance what a differentiable c explains of it,
without bias. c may have parameters, which `fun` is given too, and ignores. To fit them takes no further
evaluation of `fun`:

    value, samples = smoothed.with_samples(key, x, params)                     # for has_aux=True
    loss, slopes = jax.value_and_grad(lambda params: esjax.controls.regression(c, samples, params))(params)

Fit them on the samples of one step, and use them from the next step on. (Fitted on the samples that they are
used for, they would no longer be independent of these, and the gradient would be biased.)

| loss | what is small | |
|---|---|---|
| `regression` | c(z_n) − f_n | one evaluation of c for each sample |
| `variance` | the variance of the gradient itself | a Jacobian of c for each sample, and its derivative |
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from esjax._core import trees

__all__ = [
    "Samples",
    "regression",
    "variance",
]

Array = jax.Array


class Samples(NamedTuple):
    """What one call of a smoothed function has evaluated; no derivative goes through it.

    Attributes:
        points: z_n = x + σ ε_n, x's structure with a leading axis of samples (N, ...).
        scores: s(ε_n)/σ = ∂log p(z_n)/∂x, in units of 1/x, likewise.
        values: f_n, the structure of the values with a leading axis (N, ...), 0 where discarded.
        kept: (N,) 1 or, where `discard` left a sample out, 0.
    """

    points: Any
    scores: Any
    values: Any
    kept: Array


def regression(control: Callable[..., Any], samples: Samples, *args: Any) -> Array:
    """Mean squared error of a stand-in over samples.

        L = (1/N) Σ_n ‖c(z_n, *args) − f_n‖²

    Args:
        control: `c(x, *args)`, of one example, which returns what `fun` does.
        samples: of one call, from `smoothed.with_samples`.
        *args: what else c takes, such as its parameters; differentiate in them.

    Returns:
        (), differentiable in `args`.

    Raises:
        ValueError: `samples` are not `Samples`, or c returns another number of values than `fun`.

    Examples:
        >>> import jax, jax.numpy as jnp, esjax
        >>> smoothed = esjax.smooth(lambda x, slope: jnp.round(x).sum(), sigma=0.5, num_samples=64)
        >>> _, samples = smoothed.with_samples(jax.random.key(0), jnp.zeros(3), 0.0)
        >>> def line(x, slope):
        ...     return slope * x.sum()
        >>> loss = lambda slope: esjax.controls.regression(line, samples, slope)
        >>> bool(loss(1.0) < loss(0.0)), bool(jax.grad(loss)(0.0) < 0)
        (True, True)
    """
    found, values = _compared(control, samples, args)
    squares = ((found - values) ** 2).sum(1)
    return _mean(squares, samples)


def variance(control: Callable[..., Any], samples: Samples, *args: Any) -> Array:
    """Mean square of the gradient that a sample adds where a stand-in is used: RELAX.

        L = (1/N) Σ_n Σ_o ‖(h_no − h̄_o) s(ε_n)/σ + ∂c_o(z_n, *args)/∂z‖²,    h = f − c

    over outputs o: the variance of the gradient with c in full (β = 1), up to ‖∇F‖², which c does not change
    (Grathwohl et al. 2018, sec. 3). It costs the Jacobian of c, and its derivative in `args`.

    Args:
        control: `c(x, *args)`, as for `regression`.
        samples: of one call, from `smoothed.with_samples`.
        *args: what else c takes; differentiate in them.

    Returns:
        (), differentiable in `args`.

    Raises:
        ValueError: as for `regression`.
    """
    found, values = _compared(control, samples, args)
    rest = values - found
    centred = rest - _mean(rest, samples)[None]

    def slopes(point: Any) -> Array:
        unflatten = trees.unflattener(point)
        return jax.jacrev(lambda z: _flat(control(unflatten(z), *args)))(_flat(point))

    scores = _rows(samples.scores)
    added = centred[:, :, None] * scores[:, None] + jax.vmap(slopes)(_sound_points(samples))
    return _mean((added**2).sum((1, 2)), samples)


def _compared(control: Callable[..., Any], samples: Samples, args: tuple[Any, ...]) -> tuple[Array, Array]:
    """Returns the values of a stand-in at all samples, and those of the block, (N, num_values) each."""
    if not isinstance(samples, Samples):
        raise ValueError(
            f"samples={type(samples).__name__} are not Samples; pass the second of what "
            "smoothed.with_samples returns"
        )
    values = _rows(samples.values)
    found = jax.vmap(lambda point: _flat(control(point, *args)))(_sound_points(samples))
    if found.shape != values.shape:
        raise ValueError(
            f"control returns {found.shape[1]} values, and the block {values.shape[1]}; give a control of "
            "the same values"
        )
    return found, values


def _sound_points(samples: Samples) -> Any:
    """Returns z_n, one that was kept in place of each discarded: 0 times the slope of c there may be NaN."""
    kept = samples.kept > 0
    first = kept.argmax()

    def where_kept(leaf: Array) -> Array:
        return jnp.where(kept.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, leaf[first][None])

    return jax.tree.map(where_kept, samples.points)


def _flat(value: Any) -> Array:
    return trees.flatten(value, trees.accumulator_dtype(value))


def _rows(tree: Any) -> Array:
    """Returns a tree of arrays (N, ...) as one matrix (N, width)."""
    return jax.vmap(_flat)(tree)


def _mean(rows: Array, samples: Samples) -> Array:
    """Returns the mean over the samples kept."""
    kept = samples.kept.astype(rows.dtype)
    weights = kept.reshape(-1, *(1,) * (rows.ndim - 1))
    return jnp.where(weights > 0, rows, 0).sum(0) / kept.sum()
