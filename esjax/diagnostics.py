"""Whether a gradient is signal or noise: what the samples behind it say about themselves.

    report = esjax.diagnostics.diagnose(smoothed, key, x, *args)  # a table, by print(report)

and in a training step, from the samples of the gradient itself,

    value, report = smoothed.with_info(key, x, *args)             # for has_aux=True
"""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core import random
from esjax._core.check import check_count, check_key, check_positive

__all__ = [
    "Report",
    "combined",
    "diagnose",
    "evaluations_per_second",
    "plot",
]

Array = jax.Array


class Report(NamedTuple):
    """What N samples say about the gradient in x that they gave, all () float32 or float64.

    The gradient is that of all of the block's values: the Jacobian, with norms over all of its entries.
    Errors are those between groups of samples (of a sampler's `Groups`), and NaN where there is one group.

    Attributes:
        num_samples: N.
        num_discarded: samples that `discard` left out.
        share_changed: share of the samples kept whose value differs from f(x) by more than rounding: if 0,
            there is no gradient. (If f(x) is itself a value to discard, it is 1, and the bias is NaN.)
        effective_samples: (Σ |w_n|)² / Σ w_n², w_n = f_n − b_n: how many samples carry the gradient.
        bias: ‖F̂ − f(x)‖, what smoothing changes in the value.
        value_error: standard error of the value F̂, Euclidean over several values.
        gradient_norm: ‖ĝ‖, noise and all.
        gradient_error: standard error of ĝ, √(E‖ĝ − ∇F‖²).
        share_credited: share of all pairs of a term (or value) and a coordinate in which the one may read the
            other, so that it is credited to its noise (`esjax.credit`): 1 without credit.
        share_explained: share of the gradient's variance that a control variate takes away; 0 without one,
            and below 0 where it does harm.
    """

    num_samples: Array
    num_discarded: Array
    share_changed: Array
    effective_samples: Array
    bias: Array
    value_error: Array
    gradient_norm: Array
    gradient_error: Array
    share_credited: Array
    share_explained: Array

    @property
    def signal(self) -> Array:
        """‖∇F‖, estimated as √(‖ĝ‖² − error²), since E‖ĝ‖² = ‖∇F‖² + error²."""
        return jnp.sqrt(jnp.maximum(self.gradient_norm**2 - self.gradient_error**2, 0))

    @property
    def signal_to_noise(self) -> Array:
        """‖∇F‖ / error: 1 where half of ‖ĝ‖² is noise; 0 without a signal, even if there is no noise."""
        return jnp.where(self.signal == 0, 0, self.signal / self.gradient_error)

    @property
    def cosine(self) -> Array:
        """Cosine between the gradients of two halves of the samples, averaged over halves.

        ⟨g₁, g₂⟩ / (‖g₁‖ ‖g₂‖) = ‖∇F‖² / (‖∇F‖² + 2 error²): each half has √2 times the error.
        """
        ratio = self.signal_to_noise**2
        return jnp.where(jnp.isinf(ratio), 1, ratio / (ratio + 2))

    def num_samples_for(self, signal_to_noise: float) -> Array:
        """Returns the N for a wanted signal-to-noise: errors fall with 1/√N. Without a signal, it is inf.

        Raises:
            ValueError: `signal_to_noise` is not a finite number > 0.
        """
        check_positive("signal_to_noise", signal_to_noise, "1 is a good one")
        kept = self.num_samples - self.num_discarded
        return jnp.ceil(kept * (signal_to_noise / self.signal_to_noise) ** 2)

    def __str__(self) -> str:
        """A table of the report of one gradient; `combined` makes one of many."""
        if isinstance(self.num_samples, jax.core.Tracer):
            return f"{type(self).__name__} of traced values; return it from jit, and print it there"
        if jnp.ndim(self.num_samples):
            return (
                f"{type(self).__name__} of {jnp.shape(self.num_samples)} gradients; see diagnostics.combined"
            )
        lines = [
            ("samples", f"{self.num_samples:.0f}, {self.num_discarded:.0f} discarded"),
            ("samples whose value changed", f"{self.share_changed:.1%}"),
            ("samples that carry the gradient", f"{self.effective_samples:.1f}"),
            ("smoothing bias |F - f(x)|", f"{self.bias:.3g} ± {self.value_error:.2g}"),
            ("gradient norm", f"{self.gradient_norm:.3g}, standard error {self.gradient_error:.3g}"),
            ("signal-to-noise", f"{self.signal_to_noise:.3g}"),
            ("cosine between halves", f"{self.cosine:.3g}"),
            ("samples for signal-to-noise 1", f"{self.num_samples_for(1.0):.0f}"),
        ]
        if self.share_credited < 1:
            lines.append(("pairs of term and coordinate credited", f"{self.share_credited:.2%}"))
        if self.share_explained != 0:
            lines.append(("variance explained by control", f"{self.share_explained:.1%}"))
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def diagnose(smoothed: Any, key: Any, x: Any, *args: Any, sigma: Any = None) -> Report:
    """Returns what the samples of one call say about its gradient in x.

    It takes the evaluations of one call and one more, f(x); it works inside `jit` and `vmap`.

    Args:
        smoothed: from `esjax.smooth`.
        key: a PRNG key; with the same key, a call has the same samples.
        x: as for the call.
        *args: as for the call.
        sigma: σ in place of that of `smoothed`.

    Raises:
        ValueError: as for the call; or `smoothed` is not from `esjax.smooth`, or has a control variate.

    Examples:
        >>> import jax, jax.numpy as jnp, esjax
        >>> step = esjax.smooth(lambda x: jnp.where(x > 0, 1.0, 0.0), sigma=0.5, num_samples=256)
        >>> report = esjax.diagnostics.diagnose(step, jax.random.key(0), 0.1)
        >>> bool(report.signal_to_noise > 5), bool(report.num_samples_for(1.0) < 20)
        (True, True)
    """
    _check_smoothed(smoothed)
    return smoothed.with_info(key, x, *args, sigma=sigma)[1]


def _check_smoothed(smoothed: Any) -> None:
    if not hasattr(smoothed, "with_info"):
        raise ValueError(
            f"smoothed={smoothed!r} has no report on its samples; pass what esjax.smooth returns itself "
            "(not jax.jit or jax.grad of it, nor what esjax.smooth_decisions returns)"
        )


def _check_reports(reports: Any) -> None:
    if not isinstance(reports, Report):
        raise ValueError(f"reports={reports!r} is not a Report; pass what smoothed.with_info reports")


def combined(reports: Report, *, axis: int | None = None) -> Report:
    """Combines the reports of independent gradients, such as one for each example of a batch, into one.

    Together they are one long gradient: squares of norms and errors add up, ‖g‖² = Σ_b ‖g_b‖², as do numbers
    of samples; shares and effective samples are those of all samples.

    Args:
        reports: a report whose arrays have axes, as `jax.vmap` of `with_info` gives.
        axis: the axis to combine. None: all.

    Raises:
        ValueError: `reports` is not a `Report`, or its arrays have no axes, or not that one.
    """
    _check_reports(reports)
    ndim = jnp.ndim(reports.num_samples)
    if ndim == 0:
        raise ValueError("reports is the report of one gradient already; combine those of jax.vmap")
    if axis is not None and axis not in range(-ndim, ndim):
        raise ValueError(f"axis={axis!r} must be in [{-ndim}, {ndim - 1}], an axis of the reports, or None")
    kept = reports.num_samples - reports.num_discarded

    squares = reports.gradient_error**2
    without_control = (squares / (1 - reports.share_explained)).sum(axis)

    def root_of_sum(array: Array) -> Array:
        return jnp.sqrt((array**2).sum(axis))

    return Report(
        num_samples=reports.num_samples.sum(axis),
        num_discarded=reports.num_discarded.sum(axis),
        share_changed=jnp.where(kept > 0, reports.share_changed * kept, 0).sum(axis) / kept.sum(axis),
        effective_samples=reports.effective_samples.sum(axis),
        bias=root_of_sum(reports.bias),
        value_error=root_of_sum(reports.value_error),
        gradient_norm=root_of_sum(reports.gradient_norm),
        gradient_error=root_of_sum(reports.gradient_error),
        share_credited=reports.share_credited.mean(axis),
        share_explained=jnp.where(without_control > 0, 1 - squares.sum(axis) / without_control, 0),
    )


def evaluations_per_second(smoothed: Any, key: Any, x: Any, *args: Any, num_calls: int = 5) -> float:
    """Returns how many evaluations of the block are made per second, for value and gradient in x, compiled.

    Args:
        smoothed: from `esjax.smooth`.
        key: a PRNG key.
        x: as for the call.
        *args: as for the call.
        num_calls: how many calls, ≥ 1, to take the median of, after one that warms up.

    Raises:
        ValueError: as for the call; `smoothed` is not from `esjax.smooth`, or `num_calls` is out of range.
    """
    _check_smoothed(smoothed)
    check_count("num_calls", num_calls)
    check_key(key)
    random.consume(key)
    data, as_key = random.data_of(jnp.asarray(key))  # one key for all calls

    def sums(x: Any, data: Any, *args: Any) -> Array:
        leaves = jax.tree.leaves(smoothed(as_key(data), x, *args))
        return jnp.stack([leaf.sum().astype(jnp.float32) for leaf in leaves]).sum()

    call = jax.jit(jax.value_and_grad(sums))

    def seconds() -> float:
        start = time.perf_counter()
        jax.tree.map(lambda leaf: leaf.block_until_ready(), call(x, data, *args))
        return time.perf_counter() - start

    seconds()
    return smoothed.num_samples / float(np.median([seconds() for _ in range(num_calls)]))


def plot(reports: Report, *, steps: Any = None) -> Any:
    """Draws reports of many steps: is the gradient signal, and what are its samples doing?

    Args:
        reports: a report whose arrays are (T,), one for each step.
        steps: (T,) numbers along the axis. None: 0, 1, ...

    Returns:
        A `matplotlib.figure.Figure`, to be shown or saved. matplotlib is not a dependency of the core.

    Raises:
        ValueError: `reports` is not a `Report`, or its arrays or `steps` are not (T,).
    """
    from matplotlib.figure import Figure

    _check_reports(reports)
    if jnp.ndim(reports.num_samples) != 1:
        shape = jnp.shape(reports.num_samples)
        raise ValueError(f"reports has arrays of shape {shape}; stack those of T steps to (T,)")
    count = len(reports.num_samples)
    steps = np.arange(count) if steps is None else np.asarray(steps)
    if steps.shape != (count,):
        raise ValueError(f"steps has shape {steps.shape}; give one number for each of the {count} reports")
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    (noise, gradient), (samples, value) = figure.subplots(2, 2, sharex=True)
    noise.plot(steps, reports.signal_to_noise)
    noise.axhline(1, color="gray", linestyle=":")
    noise.set(ylabel="signal-to-noise of the gradient", yscale="log")
    gradient.plot(steps, reports.gradient_norm, label="norm")
    gradient.plot(steps, reports.gradient_error, label="standard error")
    gradient.set(ylabel="gradient", yscale="log")
    samples.plot(steps, reports.share_changed, label="value changed")
    samples.plot(steps, reports.effective_samples / reports.num_samples, label="carry the gradient")
    samples.set(ylabel="share of the samples", ylim=(0, 1), xlabel="step")
    value.errorbar(steps, reports.bias, reports.value_error, elinewidth=0.6)
    value.set(ylabel="smoothing bias |F - f(x)|", xlabel="step")
    for axes in (gradient, samples):
        axes.legend()
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    return figure
