"""`smooth` itself, and the object that it returns."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from esjax import samplers
from esjax._core import placement, random, trees
from esjax._core.check import check_count, check_key, check_num_samples, check_sigma
from esjax._core.signature import SIGNATURE
from esjax.baselines import Baseline, leave_one_out
from esjax.controls import Samples
from esjax.credit import Credit, auto
from esjax.diagnostics import Report
from esjax.noise import Noise, normal
from esjax.smoothing import _control, _options, _report, _seen, _vectors
from esjax.smoothing._options import Options
from esjax.smoothing._problem import Informs

Array = jax.Array


def smooth(
    fun: Callable[..., Any],
    *,
    sigma: Any,
    num_samples: int,
    noise: Noise = normal,
    sampler: samplers.Sampler = samplers.auto,
    baseline: Baseline = leave_one_out,
    credit: Credit = auto,
    control: Callable[..., Any] | _control.Control | None = None,
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
            arrays. x narrower than float32 reaches it as float32, in which it is perturbed; cast it inside
            where that is too slow. Written for one example; `jax.vmap` the smoothed function with split
            keys. Pure: the smoothed function is compiled once for arguments of given shapes and dtypes, as
            by `jax.jit`. It and the options below may close over traced values, and `fun` over
            differentiated ones too.
        sigma: σ > 0, the standard scale of the perturbations, in units of x: one number; or x's
            structure with, for each leaf, one number or an array of the leaf's shape.
        num_samples: N in [1, 2³¹), evaluations of `fun` per call (at least 2 groups for `leave_one_out`).
        noise: distribution μ of ε, from `esjax.noise` or your own.
        sampler: how the N perturbations are drawn together, from `esjax.samplers`.
        baseline: what is subtracted from the values, from `esjax.baselines`.
        credit: which values are credited to the noise of which coordinates, from `esjax.credit`. A coordinate
            needs the values that read it, and no others: unbiased, and where values, or the terms of a sum or
            mean, read few coordinates, the error no longer grows with the length of x. `auto` finds it in
            the program of `fun`, where that is quick and at least half of all pairs of a term and a
            coordinate drop out; `declared(reads)` is for programs on the host, which else read everything.
        control: a stand-in `c(x, *args)`: any function of the same values that is continuous and has a
            derivative in x, its own (a straight-through one would bring its bias), such as a sigmoid for
            a comparison, or a trained network. From the gradient in x and σ it takes off what it explains,

                Σ_n (f_n − β c_n) s(ε_n) / (Nσ) + β ∇ mean_n c(x + σ ε_n)

            unbiased, however poor it is (Grathwohl et al. 2018). β is fitted to the variance of the gradient,
            each half of the sampler's groups by the other; one for each coordinate where there is credit. A
            poor c costs its evaluation and derivative. c adds nothing to value, gradients in args and second
            derivatives. `esjax.controls` has losses for learning its parameters.
            Or `(c, c_mean)`, where `c_mean(x, sigma, *args)` is E[c(x + σ ε, *args)] and differentiable: then
            c may be what it likes, and the value has less variance too (Glasserman 2003, sec. 4.1). N
            must be a multiple of 4.
        discard: elementwise on values → bool, such as `jnp.isnan`: samples with a value to discard are
            left out, and the mean is over the rest. Unbiased where the faults do not depend on ε. NaN where
            none is left. None: a NaN stays visible, in value and gradient.
        chunk_size: samples evaluated at once; memory is O(dim) for each of them, and for each of a
            sampler's group. None: what fits a CPU's cache, or keeps an accelerator busy. It does not change
            what is drawn.
        sharding: of the sample axis, such as `NamedSharding(mesh, PartitionSpec("samples"))`: the samples
            are shared by the devices of these axes of the mesh, in equal runs of whole groups; everything
            else is repeated on each. Neither the draws nor, up to rounding, the results depend on it.
            A block with one value takes one all-reduce of O(dim) per gradient, with credit two of O(terms)
            too; others take an all-gather of N values. Arrays may be placed on a mesh of automatic
            axes. None: no sharding.

    Returns:
        `smoothed(key, x, *args, sigma=None)`, with the structure and shapes of `fun(x, *args)`.
        `key` is a JAX PRNG key, consumed by the call. `sigma` replaces σ for this call; it may be
        traced, and is differentiated where asked. Gradients in args are pathwise: E[∂fun/∂args].
        `smoothed.with_info(key, x, *args, sigma=None)` returns `(value, report)`, for `has_aux=True`: an
        `esjax.diagnostics.Report` on the gradient in x, from the same samples. It evaluates f(x) once more,
        and keeps N values. `smoothed.with_samples` is called likewise, and returns the samples themselves, as
        `esjax.controls.Samples`: N × dim numbers. With `(c, c_mean)` there is neither.
        Derivatives are by reverse mode first (`jax.grad`, `jax.vjp`, `jax.jacrev`), then by either, so
        `jax.hessian` works; `jax.jvp` and `jax.jacfwd` of the function itself raise `TypeError`.

    Raises:
        ValueError: here, an option is out of range; when called, `x` or the values are not
            floating arrays, σ does not fit x, the sampler or baseline needs a different `num_samples`, `fun`
            needs numbers where arrays are traced, with `sharding` an array is placed on explicit axes, or a
            derivative is asked for in what `noise`, `sampler`, `discard` or a transform closes over.

    Examples:
        >>> import jax, jax.numpy as jnp, esjax
        >>> step = esjax.smooth(lambda x: jnp.where(x > 0, 1.0, 0.0), sigma=0.5, num_samples=4096)
        >>> slope = jax.grad(step, argnums=1)(jax.random.key(0), 0.0)   # exact: φ(0) / 0.5 = 0.798
        >>> print(f"{slope:.1f}")
        0.8
    """
    num_samples = check_num_samples(num_samples)
    chunk_size = None if chunk_size is None else check_count("chunk_size", chunk_size)
    shards = None if sharding is None else placement.shards_of(sharding)
    options = Options(noise, sampler, baseline, credit, discard, num_samples, chunk_size, shards)
    _options.check(fun, options, sigma, control)
    if not isinstance(control, tuple):
        options = options._replace(control=control)
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

    __name__ = "smoothed"  # `jax.named_call` asks for one
    __signature__ = SIGNATURE

    def __init__(self, estimate: Callable[..., tuple[Any, Any]], sigma: Any, num_samples: int) -> None:
        self._parts = estimate, sigma, num_samples
        self._forget()
        self.num_samples = num_samples

    def _forget(self) -> None:
        """Starts without traces: once a rule has raised while it was traced, JAX cannot use the others."""
        estimate, sigma, _ = self._parts
        self._program = jax.jit(partial(_program, estimate, sigma), static_argnums=0)

    def __reduce__(self) -> tuple[Any, ...]:
        return Smoothed, self._parts  # a compiled function cannot be pickled

    def __repr__(self) -> str:
        _, sigma, num_samples = self._parts
        shown = jax.tree.map(lambda leaf: str(jax.typeof(leaf)) if np.ndim(leaf) else leaf, sigma)
        return f"<function smoothed by num_samples={num_samples}, sigma={shown}>"

    def __call__(self, key: Any, x: Any, *args: Any, sigma: Any = None) -> Any:
        """Returns the smoothed value, with the structure and shapes of `fun(x, *args)`."""
        return self._call(None, key, x, *args, sigma=sigma)[0]

    def with_info(self, key: Any, x: Any, *args: Any, sigma: Any = None) -> tuple[Any, Report]:
        """Returns the smoothed value, and a report on the gradient in x that its samples give."""
        return self._call(_report.report, key, x, *args, sigma=sigma)

    def with_samples(self, key: Any, x: Any, *args: Any, sigma: Any = None) -> tuple[Any, Samples]:
        """Returns the smoothed value, and the samples that it is the mean of: points, scores and values."""
        return self._call(_seen.samples, key, x, *args, sigma=sigma)

    def _call(self, informs: Informs | None, key: Any, x: Any, *args: Any, sigma: Any) -> Any:
        check_key(key)
        trees.check_arrays(x, "x", "pass arrays")
        trees.check_args(args)
        if sigma is not None:
            check_sigma(sigma)
        try:
            result = self._program(informs, key, x, *args, sigma=sigma)
        except Exception as error:
            self._forget()
            if not isinstance(error, TypeError) or "forward-mode" not in str(error):
                raise
            raise TypeError(
                "a smoothed function has no forward mode (jax.jvp, jax.jacfwd) of its own; use jax.grad, "
                "jax.vjp or jax.jacrev; jax.hessian works, and so does jax.jvp of the gradient"
            ) from error
        random.consume(key)
        return result


def _program(
    estimate: Callable[..., Any],
    default: Any,
    informs: Informs | None,
    key: Any,
    x: Any,
    *args: Any,
    sigma: Any,
) -> tuple[Any, Any]:
    return estimate(informs, key, x, *args, sigma=default if sigma is None else sigma)


def _estimate(
    fun: Callable[..., Any],
    options: Options,
    informs: Informs | None,
    key: Any,
    x: Any,
    *args: Any,
    sigma: Any,
) -> tuple[Any, Any]:
    """Estimates what `smooth` promises, wherever arrays are placed."""
    placement.check_axes(options.shards, {"key": key, "x": x, "args": args, "sigma": sigma})
    return placement.automatic(partial(_vectors.estimate, fun, options, informs), key, x, sigma, *args)
