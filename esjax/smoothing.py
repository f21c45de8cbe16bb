"""`smooth`: a black box made differentiable by random perturbations of its input.

This file turns pytrees into vectors and refuses wrong options; the sums are in `_sampling`, the
derivative rules in `_estimator`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from esjax import _estimator, _flatten, baselines, noise, samplers
from esjax._sampling import Problem

Array = jax.Array

_CHUNK_FLOATS = 2**17
"""Perturbations held at once where `chunk_size` is None: 512 KB in float32, which fits a core's cache."""


def smooth(
    fun: Callable[..., Any],
    *,
    sigma: float | Array,
    num_samples: int,
    noise: noise.Noise = noise.normal,
    sampler: samplers.Sampler = samplers.iid,
    baseline: baselines.Baseline = baselines.leave_one_out,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    r"""Smooths `fun` by random perturbations: the result has a gradient though `fun` has none.

        F(x) = E[fun(x + σ ε, *args)],   ε ~ μ             value:     (1/N) Σ_n f_n
        ∇F(x) = E[fun(x + σ ε, *args) s(ε)] / σ            gradient:  (1/N) Σ_n (f_n − b_n) s(ε_n) / σ

    with N = `num_samples`, f_n = fun(x + σ ε_n, *args), the noise's score s = −∇ log μ and the
    baseline's b_n (Berthet et al. 2020, prop. 3.1; Salimans et al. 2017, sec. 2). Both are unbiased,
    and so are derivatives of higher order by `jax.grad` of `jax.grad` (Foerster et al. 2018).
    Only values of `fun` are used; a gradient takes N evaluations, and no noise is kept for it.

    Args:
        fun: `fun(x, *args)`: a pytree of floating arrays and anything else → a pytree of floating
            arrays. Written for one example; `jax.vmap` the smoothed function with split keys.
        sigma: σ > 0, the standard scale of the perturbations, in units of x.
        num_samples: N ≥ 1, evaluations of `fun` per call (at least 2 groups for `leave_one_out`).
        noise: distribution μ of ε, from `esjax.noise` or your own.
        sampler: how the N perturbations are drawn together, from `esjax.samplers`.
        baseline: what is subtracted from the values, from `esjax.baselines`.
        chunk_size: samples evaluated at once, so memory is O(dim · chunk_size); None: what fits the cache.

    Returns:
        `smoothed(key, x, *args, sigma=None)`, with the structure and shapes of `fun(x, *args)`.
        `key` is a JAX PRNG key, consumed by the call. `sigma` replaces σ for this call; it may be
        traced, and is differentiated where asked. Gradients in args are pathwise: E[∂fun/∂args].
        Forward mode (`jax.jvp`) is not supported and raises JAX's `TypeError`.

    Raises:
        ValueError: an option is out of range, here; or, when called, `x` or the values are not
            floating arrays, or the sampler or baseline needs another `num_samples`.

    Example:
        >>> import jax, jax.numpy as jnp, esjax
        >>> step = esjax.smooth(lambda x: jnp.where(x > 0, 1.0, 0.0), sigma=0.5, num_samples=4096)
        >>> slope = jax.grad(step, argnums=1)(jax.random.key(0), 0.0)   # exact: φ(0) / 0.5 = 0.798
        >>> print(f"{slope:.1f}")
        0.8
    """
    _check_options(fun, sigma, num_samples, chunk_size)
    default_sigma = sigma

    def smoothed(key: Any, x: Any, *args: Any, sigma: float | Array | None = None) -> Any:
        _check_key(key)
        if sigma is not None:
            check_sigma(sigma)
        x = jax.tree.map(jnp.asarray, x)
        _flatten.check_floating(x, "x", "convert it with .astype(jnp.float32), or pass it in args")
        dtype = _flatten.accumulator_dtype(x)
        block = _Block(fun, x, args, dtype)
        dim = sum(leaf.size for leaf in jax.tree.leaves(x))
        groups = sampler(num_samples, dim, noise)
        baseline.coefficients(groups.size, num_samples)  # raises where there are too few samples
        problem = Problem(
            fun=block,
            noise=noise,
            groups=groups,
            baseline=baseline,
            num_samples=num_samples,
            chunk_size=_whole_groups(chunk_size, num_samples, groups.size, dim),
            dim=dim,
            num_values=block.num_values,
            dtype=dtype,
        )
        scale = jnp.asarray(default_sigma if sigma is None else sigma, dtype)
        inputs = (_flatten.flatten(x, dtype), scale, *block.args)
        return block.unflatten_values(_estimator.estimate(problem, key, inputs))

    return smoothed


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


def check_sigma(sigma: Any) -> None:
    """Raises `ValueError` unless σ is a positive number; a traced σ cannot be looked at."""
    if isinstance(sigma, jax.core.Tracer):
        return
    try:
        value = float(sigma)
    except (TypeError, ValueError):
        raise ValueError(f"sigma={sigma!r} is not a number; use one number > 0") from None
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"sigma={sigma} must be a finite number > 0; esjax.sigma.from_logits suggests one")


def _check_options(fun: Any, sigma: Any, num_samples: Any, chunk_size: Any) -> None:
    if not callable(fun):
        raise ValueError(f"fun={fun!r} is not callable; pass the function to smooth")
    check_sigma(sigma)
    _check_count("num_samples", num_samples)
    if chunk_size is not None:
        _check_count("chunk_size", chunk_size)


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number >= 1")


def _check_key(key: Any) -> None:
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ():
        return
    if dtype == jnp.uint32 and shape is not None and len(shape) == 1:
        return
    what = f"{dtype}{list(shape)}" if shape is not None else repr(key)
    raise ValueError(
        f"key={what} is not one PRNG key; pass jax.random.key(seed), and for many examples "
        "jax.vmap over jax.random.split(key, num_examples)"
    )


def _whole_groups(chunk_size: int | None, num_samples: int, group_size: int, dim: int) -> int:
    """Rounds `chunk_size` up to whole groups, or picks the largest that fits the cache.

    Of the sizes up to that bound, one that divides the number of samples is preferred, where there is
    one of at least half the bound: the block is then compiled once, with no chunk left over.
    """
    if chunk_size is not None:
        return min(-(-chunk_size // group_size) * group_size, num_samples)
    bound = min(max(_CHUNK_FLOATS // (dim * group_size), 1) * group_size, num_samples)
    sizes = range(bound, bound // 2, -group_size)
    return next((size for size in sizes if num_samples % size == 0), bound)
