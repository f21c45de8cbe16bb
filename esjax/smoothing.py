"""`smooth`: a black box made differentiable by random perturbations of its input.

This file turns pytrees into vectors and refuses wrong options; the sums are in `_sums`, the derivative
rules in `_estimator`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from esjax import _control, _estimator, _flatten, baselines, noise, samplers
from esjax._check import check_count, check_key, check_sigma
from esjax._sampling import Problem

Array = jax.Array

_CHUNK_FLOATS = 2**19
"""Perturbations or values held at once where `chunk_size` is None: 2 MB in float32. Measured on CPUs: smaller
chunks are not worth a second thread to XLA, larger ones leave the cache."""


class Info(NamedTuple):
    """What a call of a smoothed function knows beside its value.

    Attributes:
        num_discarded: () int32, samples that `discard` left out.
    """

    num_discarded: Array


def smooth(
    fun: Callable[..., Any],
    *,
    sigma: Any,
    num_samples: int,
    noise: noise.Noise = noise.normal,
    sampler: samplers.Sampler = samplers.auto,
    baseline: baselines.Baseline = baselines.leave_one_out,
    control: _control.Control | None = None,
    discard: Callable[[Array], Array] | None = None,
    chunk_size: int | None = None,
) -> "Smoothed":
    r"""Smooths `fun` by random perturbations: the result has a gradient though `fun` has none.

        F(x) = E[fun(x + σ ε, *args)],   ε ~ μ             value:     (1/N) Σ_n f_n
        ∇F(x) = E[fun(x + σ ε, *args) s(ε)] / σ            gradient:  (1/N) Σ_n (f_n − b_n) s(ε_n) / σ

    with N = `num_samples`, f_n = fun(x + σ ε_n, *args), the noise's score s = −∇ log μ and the
    baseline's b_n (Berthet et al. 2020, prop. 3.1; Salimans et al. 2017, sec. 2). Both are unbiased,
    and so are derivatives of higher order by `jax.grad` of `jax.grad` (Foerster et al. 2018).
    Only values of `fun` are used; value and gradient together take N evaluations (one more with
    `at_input`), and no array of N × dim numbers is ever held.

    Args:
        fun: `fun(x, *args)`: a pytree of floating arrays and anything else → a pytree of floating
            arrays. Written for one example; `jax.vmap` the smoothed function with split keys.
        sigma: σ > 0, the standard scale of the perturbations, in units of x: one number; or x's
            structure with, for each leaf, one number or an array of the leaf's shape.
        num_samples: N ≥ 1, evaluations of `fun` per call (at least 2 groups for `leave_one_out`).
        noise: distribution μ of ε, from `esjax.noise` or your own.
        sampler: how the N perturbations are drawn together, from `esjax.samplers`.
        baseline: what is subtracted from the values, from `esjax.baselines`.
        control: a control variate `(c, c_mean)`: `c(x, *args)` returns what `fun` does, and
            `c_mean(x, sigma, *args)` is E[c(x + σ ε, *args)] and differentiable. Its scale is fitted,
            each half of the samples by the other; unbiased (Glasserman 2003, sec. 4.1).
        discard: elementwise on values → bool, such as `jnp.isnan`: samples with a value to discard are
            left out, and the mean is over the rest. Unbiased where the faults do not depend on ε.
            None: a NaN stays visible, in value and gradient.
        chunk_size: samples evaluated at once; memory is O(dim) for each of them, and for each of a
            sampler's group. None: what fits the cache. It does not change what is drawn.

    Returns:
        `smoothed(key, x, *args, sigma=None)`, with the structure and shapes of `fun(x, *args)`.
        `key` is a JAX PRNG key, consumed by the call. `sigma` replaces σ for this call; it may be
        traced, and is differentiated where asked. Gradients in args are pathwise: E[∂fun/∂args].
        `smoothed.with_info(key, x, *args, sigma=None)` returns `(value, Info)`, for `has_aux=True`.
        Derivatives are by reverse mode first (`jax.grad`, `jax.vjp`, `jax.jacrev`), then by either, so
        `jax.hessian` works; `jax.jvp` and `jax.jacfwd` of the function itself raise `TypeError`.

    Raises:
        ValueError: an option is out of range, here; or, when called, `x` or the values are not
            floating arrays, σ does not fit x, or the sampler or baseline needs another `num_samples`.

    Example:
        >>> import jax, jax.numpy as jnp, esjax
        >>> step = esjax.smooth(lambda x: jnp.where(x > 0, 1.0, 0.0), sigma=0.5, num_samples=4096)
        >>> slope = jax.grad(step, argnums=1)(jax.random.key(0), 0.0)   # exact: φ(0) / 0.5 = 0.798
        >>> print(f"{slope:.1f}")
        0.8
    """
    _check_options(fun, sigma, num_samples, control, discard, chunk_size)
    options = _Options(noise, sampler, baseline, discard, num_samples, chunk_size)
    if control is None:
        return Smoothed(partial(_estimate, fun, options), sigma)

    def half(fun: Callable[..., Any], num_samples: int) -> Smoothed:
        return Smoothed(partial(_estimate, fun, options._replace(num_samples=num_samples)), sigma)

    return Smoothed(_control.with_control(half, fun, control, num_samples), sigma)


class Smoothed:
    """A smoothed function: `smoothed(key, x, *args, sigma=None)`; see `smooth`."""

    def __init__(self, estimate: Callable[..., tuple[Any, Info]], sigma: Any) -> None:
        self._estimate = estimate
        self._sigma = sigma

    def __call__(self, key: Any, x: Any, *args: Any, sigma: Any = None) -> Any:
        """Returns the smoothed value, of the structure and shapes of `fun(x, *args)`."""
        return self.with_info(key, x, *args, sigma=sigma)[0]

    def with_info(self, key: Any, x: Any, *args: Any, sigma: Any = None) -> tuple[Any, Info]:
        """Returns the smoothed value, and what else is known of the samples behind it."""
        check_key(key)
        if sigma is not None:
            check_sigma(sigma)
        try:
            return self._estimate(key, x, *args, sigma=self._sigma if sigma is None else sigma)
        except TypeError as error:
            if "forward-mode" not in str(error):
                raise
            raise TypeError(
                "a smoothed function has no forward mode (jax.jvp, jax.jacfwd) of its own; use jax.grad, "
                "jax.vjp or jax.jacrev; jax.hessian works, and so does jax.jvp of the gradient"
            ) from error


class _Options(NamedTuple):
    noise: noise.Noise
    sampler: samplers.Sampler
    baseline: baselines.Baseline
    discard: Callable[[Array], Array] | None
    num_samples: int
    chunk_size: int | None


def _estimate(
    fun: Callable[..., Any], options: _Options, key: Any, x: Any, *args: Any, sigma: Any
) -> tuple[Any, Info]:
    """Estimates on vectors what `smooth` promises for pytrees."""
    x = jax.tree.map(jnp.asarray, x)
    _flatten.check_floating(x, "x", "convert it with .astype(jnp.float32), or pass it in args")
    dtype = _flatten.accumulator_dtype(x)
    vectors = _flatten.flatten(x, dtype), _flatten.flatten_sigma(sigma, x, dtype)
    block = _Block(fun, x, args, dtype)
    dim = sum(leaf.size for leaf in jax.tree.leaves(x))
    groups = options.sampler(options.num_samples, dim, options.noise)
    _check_groups(options, groups.size)
    evaluated, drawn = _chunks(options, groups.size, max(dim, block.num_values))
    problem = Problem(
        fun=block,
        noise=options.noise,
        groups=groups,
        baseline=options.baseline,
        discard=options.discard and partial(_any, options.discard),
        num_samples=options.num_samples,
        evaluated_at_once=evaluated,
        drawn_at_once=drawn,
        dim=dim,
        num_values=block.num_values,
        dtype=dtype,
    )
    value, num_kept = _estimator.estimate(problem, key, (*vectors, *block.args))
    num_discarded = options.num_samples - jax.lax.stop_gradient(num_kept).astype(jnp.int32)
    return block.unflatten_values(value), Info(num_discarded)


class _Block:
    """`fun` on vectors: (dim,) and a tuple of arrays → (num_values,); what it closes over is in `args`."""

    def __init__(self, fun: Callable[..., Any], x: Any, args: tuple[Any, ...], dtype: Any) -> None:
        self._fun, consts = jax.closure_convert(fun, x, *args)
        self._unflatten_x = _flatten.unflattener(x)
        leaves, self._treedef = jax.tree.flatten((args, consts))
        self.args = tuple(jnp.asarray(leaf) for leaf in leaves)
        self._dtype = dtype
        values = jax.eval_shape(lambda x: self._fun(x, *args, *consts), x)
        _flatten.check_floating(values, "the value of fun", "return floating arrays from fun")
        self.unflatten_values = _flatten.unflattener(values)
        self.num_values = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(values))

    def __call__(self, z: Array, leaves: tuple[Array, ...]) -> Array:
        args, consts = jax.tree.unflatten(self._treedef, leaves)
        return _flatten.flatten(self._fun(self._unflatten_x(z), *args, *consts), self._dtype)


def _any(discard: Callable[[Array], Array], values: Array) -> Array:
    found = discard(values)
    if getattr(found, "dtype", None) != jnp.bool_ or found.shape != values.shape:
        raise ValueError(
            f"discard turns values {values.shape} into {jax.tree.map(jnp.shape, found)} of type "
            f"{getattr(found, 'dtype', type(found))}; return one bool for each value, as jnp.isnan does"
        )
    return found.any()


def _check_options(
    fun: Any, sigma: Any, num_samples: Any, control: Any, discard: Any, chunk_size: Any
) -> None:
    if not callable(fun):
        raise ValueError(f"fun={fun!r} is not callable; pass the function to smooth")
    check_sigma(sigma)
    check_count("num_samples", num_samples)
    if chunk_size is not None:
        check_count("chunk_size", chunk_size)
    if discard is not None and not callable(discard):
        raise ValueError(f"discard={discard!r} is not callable; pass a function such as jnp.isnan")
    if control is not None:
        if not (isinstance(control, tuple) and len(control) == 2 and all(map(callable, control))):
            raise ValueError(f"control={control!r} must be a pair of functions (c, c_mean)")
        if num_samples < 4:
            raise ValueError(f"num_samples={num_samples} is too few for control's two halves; use at least 4")


def _check_groups(options: _Options, size: int) -> None:
    least = options.baseline.least_groups
    if -(-options.num_samples // size) < least:
        raise ValueError(
            f"num_samples={options.num_samples} makes {-(-options.num_samples // size)} independent group(s) "
            f"of {size}, and the baseline compares at least {least}; "
            f"use num_samples >= {(least - 1) * size + 1}, or baseline=esjax.baselines.none"
        )


def _chunks(options: _Options, group_size: int, width: int) -> tuple[int, int]:
    """Returns how many samples to evaluate at once, and of how many to hold the ε: whole groups.

    Unless `chunk_size` says it, as many as fit the cache; of those, a number that divides N is
    preferred where there is one of at least half the most: the block is then compiled once.
    """
    num_samples, chunk_size = options.num_samples, options.chunk_size
    if chunk_size is not None:
        return chunk_size, min(-(-chunk_size // group_size) * group_size, num_samples)
    most = min(max(_CHUNK_FLOATS // (width * group_size), 1) * group_size, num_samples)
    sizes = range(most, most // 2, -group_size)
    drawn = next((size for size in sizes if num_samples % size == 0), most)
    return drawn, drawn
