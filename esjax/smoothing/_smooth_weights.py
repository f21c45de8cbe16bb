"""`smooth_weights`: whole networks, with noise of low rank inside their products."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from esjax import samplers
from esjax._core import placement, trees
from esjax._core.check import check_count, check_num_samples
from esjax.baselines import Baseline, leave_one_out
from esjax.credit import none
from esjax.diagnostics import Report
from esjax.noise import normal
from esjax.smoothing import _networks, _options, _seen
from esjax.smoothing._options import Options
from esjax.smoothing._problem import Informs
from esjax.smoothing._smooth import Smoothed

Array = jax.Array

_ARRAYS = (
    "pass the arrays alone: of an Equinox model, those of eqx.partition(model, eqx.is_inexact_array); of an "
    "nnx module, those of nnx.split(module, nnx.Param, ...)"
)


def smooth_weights(
    fun: Callable[..., Any],
    *,
    sigma: Any,
    num_samples: int,
    rank: int = 1,
    sampler: samplers.Sampler = samplers.antithetic,
    baseline: Baseline = leave_one_out,
    chunk_size: int | None = None,
    sharding: jax.sharding.NamedSharding | None = None,
) -> "SmoothedWeights":
    r"""Smooths `fun` in the weights of a network, by noise of low rank inside its matrix products.

        F(W) = E[fun(W + σ E, *args)],   E = A Bᵀ/√r          value:     (1/N) Σ_n f_n
        ∇F(W) ≈ E[fun(W + σ E, *args) E] / σ                  gradient:  (1/N) Σ_n (f_n − b_n) E_n / σ

    with N = `num_samples`, r = `rank`, and A (m, r), B (k, r) standard normal for a matrix W (m, k) (Sarkar
    et al. 2025, arXiv 2511.16652). Vectors and numbers are perturbed by normal noise in full, as by `smooth`.
    Models stay as they are: a weight of `fun` is held as (W, A, B) until it meets a product,

        h (W + σ A Bᵀ/√r) = h W + σ (h A) Bᵀ/√r

    so that all samples share one product with W, and what no noise has reached is computed once. Products are
    `dot_general` (on either side, with batch axes, transposed), `conv_general_dilated` and `gather` of rows.
    Reshapes, transposes, casts, slices and scalings pass a weight on; `jit`, `scan`, `remat`, `cond` and
    functions with derivative rules of their own are entered. Whatever else a weight meets makes it a matrix
    for each sample: right, but slower. `with_info` says where.

    *Biased*: entries of E are uncorrelated, but neither normal nor independent. Where `fun` is smooth, value
    and gradient differ from those of `smooth`, in expectation, by O(σ²/r), and tend to f and ∇f as σ → 0.
    The gradient in σ is unbiased: that of F as above.

    Args:
        fun: `fun(params, *args)`: a pytree of floating arrays and anything else → a pytree of floating
            arrays. Leaves narrower than float32 reach it as float32. Otherwise as for `smooth`.
        sigma: σ > 0, the scale of the noise of each entry, in units of the weights: one number, or params's
            structure with one number for each leaf, such as σ₀/√(fan-in) for matrices, with which noise
            moves all activations by about as much.
        num_samples: N in [1, 2³¹), evaluations of `fun` per call; for the defaults even, and at least 4.
        rank: r ≥ 1, at most that of the largest matrix. Of a leaf with several axes, those are rows which the
            first product contracts, and those columns which it keeps; axes that it batches, or that are
            scanned over, count matrices. Where r (m + k) ≥ m k, so that noise of low rank would draw no fewer
            numbers, or where no product takes a leaf, it is perturbed in full.
        sampler: from `esjax.samplers`: how A, and noise in full, are drawn together. `antithetic` draws
            pairs of E and −E: two samples of a group have one B, those of larger groups their own.
        baseline: what is subtracted from the values, from `esjax.baselines`.
        chunk_size: samples evaluated at once; memory is that of their activations, up to 8 times as much for
            gradients in args. None: what fits a CPU's cache, or keeps an accelerator busy; and some 16
            where these fit 16 times as much. It does not change what is drawn.
        sharding: of the sample axis, as for `smooth`: devices draw their own samples from the key that they
            share, and one all-reduce sums their gradients.

    Returns:
        `smoothed(key, params, *args, sigma=None)`, with the structure and shapes of `fun(params, *args)`, as
        from `smooth`. `smoothed.with_info(key, params, *args, sigma=None)` returns `(value, report)`, a
        `WeightsReport`. Gradients are in params, σ and, pathwise, args, of first order, by reverse mode.

    Raises:
        ValueError: here, an option is out of range; when called, params has no array of two or more axes, or
            none of so high a rank, a leaf or the values are not floating, σ does not fit params, or the
            sampler or baseline needs a different `num_samples`; when differentiated, the derivative is a
            second one, or one in args through a function with a derivative rule that takes a weight.

    Examples:
        >>> import jax, jax.numpy as jnp, esjax
        >>> def accuracy(params, x, label):
        ...     return jnp.float32((jnp.tanh(x @ params["w"]) @ params["v"]).argmax() == label)
        >>> smoothed = esjax.smooth_weights(accuracy, sigma=0.1, num_samples=64)
        >>> params = {"w": jnp.ones((8, 16)), "v": jnp.ones((16, 4))}
        >>> gradient = jax.grad(smoothed, argnums=1)(jax.random.key(0), params, jnp.ones(8), 2)
        >>> gradient["w"].shape, gradient["v"].shape
        ((8, 16), (16, 4))
    """
    num_samples, rank = check_num_samples(num_samples), check_count("rank", rank)
    chunk_size = None if chunk_size is None else check_count("chunk_size", chunk_size)
    shards = None if sharding is None else placement.shards_of(sharding)
    options = Options(normal, sampler, baseline, none, None, num_samples, chunk_size, shards)
    _options.check(fun, options, sigma, None)
    return SmoothedWeights(partial(_estimate, fun, options, rank), sigma, num_samples)


class WeightsReport(Report):
    """An `esjax.diagnostics.Report` that also says which weights became matrices, and where: what is slow.

    Attributes:
        matrices: a line for each place: the parameter's path and shape, the primitive and the line of code;
            and one for each array of several axes that no product takes.
    """

    matrices: tuple[str, ...]

    def __str__(self) -> str:
        lines = self.matrices or ("none",)
        return super().__str__() + "\nweights that became matrices     " + ("\n" + " " * 33).join(lines)


def _flatten(report: WeightsReport) -> tuple[tuple[Array, ...], tuple[str, ...]]:
    return tuple(report), report.matrices


def _unflatten(matrices: tuple[str, ...], numbers: Any) -> WeightsReport:
    report = WeightsReport(*numbers)
    report.matrices = matrices
    return report


jax.tree_util.register_pytree_node(WeightsReport, _flatten, _unflatten)


class SmoothedWeights(Smoothed):
    """A network smoothed in its weights: `smoothed(key, params, *args, sigma=None)`; see `smooth_weights`."""

    def _call(self, informs: Informs | None, key: Any, x: Any, *args: Any, sigma: Any) -> Any:
        trees.check_arrays(x, "params", _ARRAYS)
        if informs is _seen.samples:
            raise ValueError(
                "with_samples would hold N networks; use esjax.smooth, of what the network feeds, to learn "
                "from samples"
            )
        return super()._call(informs, key, x, *args, sigma=sigma)


def _estimate(
    fun: Callable[..., Any],
    options: Options,
    rank: int,
    informs: Informs | None,
    key: Any,
    params: Any,
    *args: Any,
    sigma: Any,
) -> tuple[Any, Report | None]:
    """Estimates what `smooth_weights` promises, wherever arrays are placed."""
    placement.check_axes(options.shards, {"key": key, "params": params, "args": args, "sigma": sigma})
    found = placement.automatic(
        partial(_networks.estimate, fun, options, rank, informs), key, params, sigma, *args
    )
    return found.value, None if found.report is None else _unflatten(found.matrices, found.report)
