"""`smooth`: a black box made differentiable by random perturbations of its input.

This file turns pytrees into vectors and refuses wrong options; the sums are in `_sums`, the derivative
rules in `_estimator`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from esjax import _control, _estimator, _flatten, _mapping, _sharding, baselines, noise, samplers
from esjax._check import check_count, check_key, check_num_samples, check_sigma
from esjax._sampling import Problem, Shards
from esjax.diagnostics import Report

Array = jax.Array


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
    sharding: jax.sharding.NamedSharding | None = None,
) -> "Smoothed":
    r"""Smooths `fun` by random perturbations: the result has a gradient though `fun` has none.

        F(x) = E[fun(x + σ ε, *args)],   ε ~ μ             value:     (1/N) Σ_n f_n
        ∇F(x) = E[fun(x + σ ε, *args) s(ε)] / σ            gradient:  (1/N) Σ_n (f_n − b_n) s(ε_n) / σ

    with N = `num_samples`, f_n = fun(x + σ ε_n, *args), the noise's score s = −∇ log μ and the
    baseline's b_n (Berthet et al. 2020, prop. 3.1; Salimans et al. 2017, sec. 2). Both are unbiased,
    and so are derivatives of higher order by `jax.grad` of `jax.grad` (Foerster et al. 2018).
    Only values of `fun` are used; value and gradient together take N evaluations (one more with
    `at_input`), and no array of N × dim numbers is needed.

    Args:
        fun: `fun(x, *args)`: a pytree of floating arrays and anything else → a pytree of floating
            arrays. Written for one example; `jax.vmap` the smoothed function with split keys. Pure: the
            smoothed function is compiled once for arguments of given shapes and dtypes, as by `jax.jit`.
        sigma: σ > 0, the standard scale of the perturbations, in units of x: one number; or x's
            structure with, for each leaf, one number or an array of the leaf's shape.
        num_samples: N in [1, 2³¹), evaluations of `fun` per call (at least 2 groups for `leave_one_out`).
        noise: distribution μ of ε, from `esjax.noise` or your own.
        sampler: how the N perturbations are drawn together, from `esjax.samplers`.
        baseline: what is subtracted from the values, from `esjax.baselines`.
        control: a control variate `(c, c_mean)`: `c(x, *args)` returns what `fun` does, and
            `c_mean(x, sigma, *args)` is E[c(x + σ ε, *args)] and differentiable. Its scale is fitted,
            each half of the samples by the other; unbiased (Glasserman 2003, sec. 4.1). N must be a
            multiple of 4.
        discard: elementwise on values → bool, such as `jnp.isnan`: samples with a value to discard are
            left out, and the mean is over the rest. Unbiased where the faults do not depend on ε. NaN where
            none is left. None: a NaN stays visible, in value and gradient.
        chunk_size: samples evaluated at once; memory is O(dim) for each of them, and for each of a
            sampler's group. None: what fits a CPU's cache, or keeps an accelerator busy. It does not change
            what is drawn.
        sharding: of the sample axis, such as `NamedSharding(mesh, PartitionSpec("samples"))`: the samples
            are shared by the devices of these axes of the mesh, in equal runs of whole groups; everything
            else is repeated on each. Neither the draws nor, up to rounding, the results depend on it.
            A block with one value takes one all-reduce of O(dim) per gradient, others an all-gather
            of N values too. Arrays may be placed on a mesh of automatic axes. None: no sharding.

    Returns:
        `smoothed(key, x, *args, sigma=None)`, with the structure and shapes of `fun(x, *args)`.
        `key` is a JAX PRNG key, consumed by the call. `sigma` replaces σ for this call; it may be
        traced, and is differentiated where asked. Gradients in args are pathwise: E[∂fun/∂args].
        `smoothed.with_info(key, x, *args, sigma=None)` returns `(value, report)`, for `has_aux=True`: an
        `esjax.diagnostics.Report` on the gradient in x, from the same samples. It evaluates f(x) once more,
        and keeps N values; with a control variate there is none.
        Derivatives are by reverse mode first (`jax.grad`, `jax.vjp`, `jax.jacrev`), then by either, so
        `jax.hessian` works; `jax.jvp` and `jax.jacfwd` of the function itself raise `TypeError`.

    Raises:
        ValueError: an option is out of range, here; or, when called, `x` or the values are not
            floating arrays, σ does not fit x, the sampler or baseline needs another `num_samples`, or with
            `sharding` an array is placed on explicit axes.

    Examples:
        >>> import jax, jax.numpy as jnp, esjax
        >>> step = esjax.smooth(lambda x: jnp.where(x > 0, 1.0, 0.0), sigma=0.5, num_samples=4096)
        >>> slope = jax.grad(step, argnums=1)(jax.random.key(0), 0.0)   # exact: φ(0) / 0.5 = 0.798
        >>> print(f"{slope:.1f}")
        0.8
    """
    num_samples = check_num_samples(num_samples)
    chunk_size = None if chunk_size is None else check_count("chunk_size", chunk_size)
    shards = None if sharding is None else _sharding.shards(sharding)
    options = _Options(noise, sampler, baseline, discard, num_samples, chunk_size, shards)
    _check_options(fun, options, sigma, control)
    if control is None:
        return Smoothed(partial(_estimate, fun, options), sigma, num_samples)

    def half(fun: Callable[..., Any], num_samples: int) -> Smoothed:
        return Smoothed(
            partial(_estimate, fun, options._replace(num_samples=num_samples)), sigma, num_samples
        )

    return Smoothed(_control.with_control(half, fun, control, num_samples), sigma, num_samples)


class Smoothed:
    """A smoothed function: `smoothed(key, x, *args, sigma=None)`; see `smooth`.

    Attributes:
        num_samples: N, evaluations of the block per call.
    """

    def __init__(
        self, estimate: Callable[..., tuple[Any, Report | None]], sigma: Any, num_samples: int
    ) -> None:
        self._program = jax.jit(partial(_program, estimate, sigma), static_argnums=0)
        self._parts = estimate, sigma, num_samples
        self.num_samples = num_samples

    def __reduce__(self) -> tuple[Any, ...]:
        return Smoothed, self._parts  # a compiled function cannot be pickled

    def __call__(self, key: Any, x: Any, *args: Any, sigma: Any = None) -> Any:
        """Returns the smoothed value, of the structure and shapes of `fun(x, *args)`."""
        return self._call(False, key, x, *args, sigma=sigma)[0]

    def with_info(self, key: Any, x: Any, *args: Any, sigma: Any = None) -> tuple[Any, Report]:
        """Returns the smoothed value, and a report on the gradient in x that its samples give."""
        return self._call(True, key, x, *args, sigma=sigma)

    def _call(self, informed: bool, key: Any, x: Any, *args: Any, sigma: Any) -> Any:
        check_key(key)
        _flatten.check_arrays(x, "x", "pass arrays")
        _flatten.check_arrays(args, "args", "let fun close over what is no array, as functools.partial does")
        if sigma is not None:
            check_sigma(sigma)
        try:
            return self._program(informed, key, x, *args, sigma=sigma)
        except TypeError as error:
            if "forward-mode" not in str(error):
                raise
            raise TypeError(
                "a smoothed function has no forward mode (jax.jvp, jax.jacfwd) of its own; use jax.grad, "
                "jax.vjp or jax.jacrev; jax.hessian works, and so does jax.jvp of the gradient"
            ) from error


def _program(
    estimate: Callable[..., Any], default: Any, informed: bool, key: Any, x: Any, *args: Any, sigma: Any
) -> tuple[Any, Report | None]:
    return estimate(informed, key, x, *args, sigma=default if sigma is None else sigma)


class _Options(NamedTuple):
    noise: noise.Noise
    sampler: samplers.Sampler
    baseline: baselines.Baseline
    discard: Callable[[Array], Array] | None
    num_samples: int
    chunk_size: int | None
    shards: Shards | None


def _estimate(
    fun: Callable[..., Any], options: _Options, informed: bool, key: Any, x: Any, *args: Any, sigma: Any
) -> tuple[Any, Report | None]:
    """Estimates on vectors what `smooth` promises for pytrees."""
    x = jax.tree.map(_flatten.canonical, x)
    _flatten.check_floating(x, "x", "convert it with .astype(jnp.float32), or pass it in args")
    scales = _flatten.check_sigma_fits(jax.tree.map(_flatten.canonical, sigma), x)
    block, leaves = _block(fun, options.discard, x, args)
    dtype = block.dtype
    dim = sum(leaf.size for leaf in jax.tree.leaves(x))
    groups = options.sampler(options.num_samples, dim, options.noise)
    _check_groups(options, groups, dim, dtype)
    _sharding.check_fits(options.shards, options.num_samples, groups.size)
    _sharding.check_axes(options.shards, {"key": key, "x": x, "args": args, "sigma": sigma})
    evaluated, drawn = _chunks(options, groups.size, max(dim, block.num_values, 1))
    problem = Problem(
        fun=block,
        noise=options.noise,
        groups=groups,
        baseline=options.baseline,
        discard=block.discard if options.discard is not None else None,
        num_samples=options.num_samples,
        evaluated_at_once=evaluated,
        drawn_at_once=drawn,
        shards=options.shards,
        informed=informed,
        dim=dim,
        num_values=block.num_values,
        dtype=dtype,
    )
    vectors = _flatten.flatten(x, dtype), _flatten.flatten_sigma(scales, x, dtype)
    value, report = _estimator.estimate(problem, _flatten.canonical(key), (*vectors, *leaves))
    return block.unflatten_values(value), jax.lax.stop_gradient(report)


@dataclass(eq=False)
class _Block:
    """`fun` and `discard` on vectors: (dim,) or values (num_values,), and a tuple of arrays."""

    fun: Callable[..., Any]
    discard_of: Callable[..., Any] | None
    unflatten_x: Callable[[Array], Any]
    unflatten_values: Callable[[Array], Any]
    num_values: int
    dtype: Any
    treedef: Any  # of the tuple of arrays, and their dtypes
    dtypes: list[Any]

    def __call__(self, z: Array, leaves: tuple[Array, ...]) -> Array:
        args, consts, _ = self._narrow(leaves)
        return _flatten.flatten(self.fun(consts, self.unflatten_x(z), *args), self.dtype)

    def discard(self, values: Array, leaves: tuple[Array, ...]) -> Array:
        """Whether any of the values (num_values,) is one to discard."""
        assert self.discard_of is not None
        _, _, consts = self._narrow(leaves)
        return self.discard_of(consts, values).any()

    def _narrow(self, leaves: tuple[Array, ...]) -> Any:
        pairs = zip(leaves, self.dtypes, strict=True)
        return jax.tree.unflatten(
            self.treedef, [leaf if leaf.dtype == dtype else leaf.astype(dtype) for leaf, dtype in pairs]
        )


def _block(
    fun: Callable[..., Any], discard: Callable[[Array], Array] | None, x: Any, args: tuple[Any, ...]
) -> tuple[_Block, tuple[Array, ...]]:
    """Returns the block, which holds no traced value, and its tuple of arrays.

    Whatever traced values `fun` and `discard` close over are hoisted into that tuple, so that a derivative
    rule may be called where those tracers are not valid. Its narrow floating arrays are widened, so that
    their gradients are summed in float32.
    """
    fun, values, fun_consts = _flatten.hoisted(_flatten.checked("fun", fun), x, *args)
    _flatten.check_floating(values, "the value of fun", "return floating arrays from fun")
    dtype = _flatten.accumulator_dtype((x, values))
    num_values = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(values))
    discard_consts: list[Any] = []
    if discard is not None:
        like = jnp.zeros(num_values, dtype)
        discard, found, discard_consts = _flatten.hoisted(_flatten.checked("discard", discard), like)
        _check_discarded(found, like)
    leaves, treedef = jax.tree.flatten((args, fun_consts, discard_consts))
    leaves = [_flatten.canonical(leaf) for leaf in leaves]
    block = _Block(
        fun=fun,
        discard_of=discard,
        unflatten_x=_flatten.unflattener(x),
        unflatten_values=_flatten.unflattener(values),
        num_values=num_values,
        dtype=dtype,
        treedef=treedef,
        dtypes=[leaf.dtype for leaf in leaves],
    )
    return block, tuple(_flatten.widen(leaf) for leaf in leaves)


def _check_discarded(found: Any, like: Any) -> None:
    if getattr(found, "dtype", None) != jnp.bool_ or found.shape != like.shape:
        raise ValueError(
            f"discard turns values {like.shape} into {jax.tree.map(jnp.shape, found)} of type "
            f"{getattr(found, 'dtype', type(found))}; return one bool for each value, as jnp.isnan does"
        )


def _check_options(fun: Any, options: _Options, sigma: Any, control: Any) -> None:
    if not callable(fun):
        raise ValueError(f"fun={fun!r} is not callable; pass the function to smooth")
    check_sigma(sigma)
    if not isinstance(options.noise, noise.Noise):
        raise ValueError(f"noise={options.noise!r} is no Noise; use one of esjax.noise, such as normal")
    if not callable(options.sampler):
        raise ValueError(f"sampler={options.sampler!r} is not callable; use one of esjax.samplers")
    if not isinstance(options.baseline, baselines.Baseline):
        raise ValueError(f"baseline={options.baseline!r} is no Baseline; use one of esjax.baselines")
    if options.discard is not None and not callable(options.discard):
        raise ValueError(f"discard={options.discard!r} is not callable; pass a function such as jnp.isnan")
    if control is not None:
        _check_control(control, options)


def _check_control(control: Any, options: _Options) -> None:
    if not (isinstance(control, tuple) and len(control) == 2 and all(map(callable, control))):
        raise ValueError(f"control={control!r} must be a pair of functions (c, c_mean)")
    if options.discard is not None:
        raise ValueError(
            f"discard={options.discard!r} together with control would leave out samples of which the control "
            "variate's known mean knows nothing; use one of the two"
        )
    if options.num_samples < 4 or options.num_samples % 4:
        raise ValueError(
            f"num_samples={options.num_samples} must be a multiple of 4 with control, which halves them"
        )


def _check_groups(options: _Options, groups: samplers.Groups, dim: int, dtype: Any) -> None:
    if not isinstance(groups, samplers.Groups):
        raise ValueError(
            f"sampler={options.sampler!r} returns a {type(groups).__name__}; return a samplers.Groups"
        )
    size, num_samples = groups.size, options.num_samples
    check_count("the size of the sampler's groups", size)
    drawn = jax.eval_shape(lambda key: groups.draw(key, dtype), jax.random.key(0))
    if (drawn.shape, drawn.dtype) != ((size, dim), dtype):
        raise ValueError(
            f"sampler={options.sampler!r} draws {drawn.dtype}{list(drawn.shape)} for a group of {size}; "
            f"return {dtype}{[size, dim]} from Groups.draw"
        )
    num_groups, least = -(-num_samples // size), options.baseline.least_groups
    if num_groups < least:
        raise ValueError(
            f"num_samples={num_samples} makes {num_groups} independent group(s) of {size}, and the baseline "
            f"compares at least {least}; use num_samples >= {(least - 1) * size + 1}, or "
            "baseline=esjax.baselines.none"
        )


def _chunks(options: _Options, group_size: int, width: int) -> tuple[int, int]:
    """Returns how many samples to evaluate at once, and of how many to hold the ε: whole groups."""
    num_samples, chunk_size = options.num_samples, options.chunk_size
    if options.shards is not None:
        num_samples //= options.shards.num_devices
    if chunk_size is not None:
        return chunk_size, min(-(-chunk_size // group_size) * group_size, num_samples)
    drawn = _mapping.at_once(num_samples, width, group_size)
    return drawn, drawn
