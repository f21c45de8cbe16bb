"""Choosing σ, the scale of the perturbations.

    found = esjax.sigma.calibrate(fun, key, x, *args, num_samples=64)  # a table, by print(found)

σ may also change from step to step: `smoothed(key, x, sigma=schedule(step))` for any function of the step,
such as a schedule of Optax; or be learned, by the gradient of `smoothed(key, x, sigma=jnp.exp(log_sigma))`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from esjax._check import check_count, check_key
from esjax.smoothing import smooth

Array = jax.Array

_ENOUGH = 0.97
"""Share of the deepest descent that a smaller σ has to reach, to be chosen instead."""


def from_logits(logits: Any, *, factor: float = 10.0) -> Array:
    """Returns `factor` times the spread of a batch of *initial* logits, to be kept fixed.

        σ = factor · sqrt(mean over examples and classes of (logit − mean of the example's logits)²)

    Accuracy does not change when logits and σ grow together, so a σ that follows the logits during
    training makes both run away. Take σ once, before the first step; the network's own growth then anneals.
    No factor alone keeps classes from being lost: centre the logits, as `esjax.train.models.Centred` does.

    Args:
        logits: (..., K), those of one batch from the untrained network.
        factor: σ in units of that spread, > 0.

    Returns:
        Array (), in the logits' dtype.

    Raises:
        ValueError: `factor` is not > 0; there are fewer than two classes; or the spread, where it is
            known (not traced), is 0 or not finite.
    """
    logits = jnp.asarray(logits)
    if not (factor > 0 and math.isfinite(factor)):
        raise ValueError(f"factor={factor} must be a finite number > 0; 10 is a good one")
    if logits.ndim < 1 or logits.shape[-1] < 2 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"logits has dtype {logits.dtype} and shape {logits.shape}; "
            "give floating logits (..., K) of at least two classes"
        )
    centred = logits - logits.mean(-1, keepdims=True)
    spread = jnp.sqrt(jnp.mean(centred**2))
    if not isinstance(spread, jax.core.Tracer) and not (0 < float(spread) < math.inf):
        raise ValueError(
            f"logits have spread {float(spread)}, from which no sigma follows; give the logits of a "
            "network whose last layer is not initialised to zero, or choose sigma yourself"
        )
    return factor * spread


class Calibration(NamedTuple):
    """What `calibrate` chose, and the curves that it chose from: arrays (S,), one entry for each candidate.

    Attributes:
        sigma: (), the chosen σ.
        value: (), f(x).
        sigmas: (S,) the candidates, ascending.
        gain: (S,) how far f falls by a short descent from x, mean over the repeats.
        gain_error: (S,) its standard error.
        signal_to_noise: (S,) of a gradient of N samples, ‖∇F‖ over its standard error.
        signal_to_noise_error: (S,) its standard error.
        bias: (S,) |F_σ(x) − f(x)|, what smoothing changes in the value.
        bias_error: (S,) its standard error.
    """

    sigma: Array
    value: Array
    sigmas: Array
    gain: Array
    gain_error: Array
    signal_to_noise: Array
    signal_to_noise_error: Array
    bias: Array
    bias_error: Array

    @property
    def remark(self) -> str:
        """What there is to say against the choice; empty if nothing."""
        chosen = int(np.flatnonzero(np.asarray(self.sigmas) == np.asarray(self.sigma))[0])
        if not self.gain[chosen] > 2 * self.gain_error[chosen]:
            return (
                "no candidate lowers f by more than two standard errors: use more samples or repeats, or "
                "another x"
            )
        if chosen in (0, len(self.sigmas) - 1):
            return "the choice is at the end of the candidates: pass sigmas that reach further"
        return ""

    def __str__(self) -> str:
        """A table of the curves, the chosen σ marked."""
        if isinstance(self.sigma, jax.core.Tracer):
            return f"{type(self).__name__} of traced values; return it from jit, and print it there"
        lines = [f"{'sigma':>10}  {'f falls by':>18}  {'signal-to-noise':>15}  {'bias |F - f(x)|':>19}"]
        for number, sigma in enumerate(self.sigmas):
            gain = f"{self.gain[number]:.3g} ± {self.gain_error[number]:.1g}"
            noise = f"{self.signal_to_noise[number]:.2f} ± {self.signal_to_noise_error[number]:.2f}"
            bias = f"{self.bias[number]:.3g} ± {self.bias_error[number]:.1g}"
            mark = "  chosen" if sigma == self.sigma else ""
            lines.append(f"{sigma:>10.3g}  {gain:>18}  {noise:>15}  {bias:>19}{mark}")
        return "\n".join(lines + ([self.remark] if self.remark else []))


def calibrate(
    fun: Callable[..., Any],
    key: Any,
    x: Any,
    *args: Any,
    num_samples: int,
    sigmas: Any = None,
    num_steps: int = 16,
    num_repeats: int = 8,
) -> Calibration:
    """Chooses σ for minimising `fun` from x: the least by which a short descent lowers f almost most.

    Almost most is 97 % of the most that any candidate reaches; a smaller σ ends closer to an optimum.

    For each candidate, `num_repeats` descents of `num_steps` steps are made, with the same keys for every
    candidate. A step is x ← x − η g / ‖g‖, g the gradient of N samples of normal noise with the defaults of
    `esjax.smooth`, and η the best of σ √dim · 2^j, j = −3, ..., 6, or 0 if none lowers f.

    Signal-to-noise alone does not choose: where only few samples change anything their gradient may be
    clear, and lead nowhere; and where f does not change with the scale of x, the curve is flat. Nor does a
    single step: it favours a σ that sees far, and ends too far from the optimum. It takes
    S · `num_repeats` · `num_steps` · (N + 11) evaluations for S candidates, and works inside `jit`.

    Args:
        fun: `fun(x, *args) -> ()`, to be *minimised*: put a minus before what is to be maximised, and
            what follows the block in the pipeline behind it.
        key: a PRNG key, consumed by the call.
        x: a pytree of floating arrays: where the optimisation starts.
        *args: passed on to `fun`.
        num_samples: N, evaluations for each gradient: as many as will be used, or more.
        sigmas: (S,) candidates > 0, ascending, in units of x. None: 13 of them from 0.01 to 10 times the root
            mean square of x.
        num_steps: of each descent, ≥ 1.
        num_repeats: independent descents for each candidate, ≥ 2.

    Raises:
        ValueError: `fun` does not return one number; `sigmas` is not as said; x is zero, and
            `sigmas` is None; or as `esjax.smooth`.

    Example:
        >>> import jax, jax.numpy as jnp, esjax
        >>> def rounded(x):  # has no gradient
        ...     return jnp.sum((jnp.round(x) - 0.4) ** 2)
        >>> found = esjax.sigma.calibrate(rounded, jax.random.key(0), jnp.full(8, 3.0), num_samples=64)
        >>> bool(0.1 < found.sigma < 3)
        True
    """
    check_key(key)
    num_steps = check_count("num_steps", num_steps)
    num_repeats = check_count("num_repeats", num_repeats)
    if num_repeats < 2:
        raise ValueError(f"num_repeats={num_repeats} must be >= 2, for a standard error")
    smoothed = smooth(fun, sigma=1.0, num_samples=num_samples)
    _check_scalar(fun, x, args)
    x = jax.tree.map(jnp.asarray, x)
    vector, unflatten = ravel_pytree(x)
    candidates = _candidates(sigmas, vector)
    keys = jax.random.split(key, num_repeats)
    at_x = fun(x, *args)
    lengths = vector.size**0.5 * 2.0 ** jnp.arange(-3, 7, dtype=vector.dtype)

    def descend(sigma: Array, key: Any) -> tuple[Array, Array, Array, Array]:
        """Returns F̂, ‖ĝ‖² less its error² and error², all at the start, and how far f falls."""

        def step(at: tuple[Array, Array], key: Any) -> Any:
            vector, value = at
            grad = jax.value_and_grad(smoothed.with_info, argnums=1, has_aux=True)
            (mean, report), gradient = grad(key, unflatten(vector), *args, sigma=sigma)
            flat = ravel_pytree(gradient)[0]
            norm = jnp.linalg.norm(flat)
            direction = flat / jnp.where(norm > 0, norm, 1)
            ahead = vector[None] - sigma * lengths[:, None] * direction[None]
            values = jax.lax.map(lambda vector: fun(unflatten(vector), *args), ahead)
            best = values.argmin()
            falls = values[best] < value
            noise = report.gradient_error**2
            return (
                (jnp.where(falls, ahead[best], vector), jnp.where(falls, values[best], value)),
                (mean, report.gradient_norm**2 - noise, noise),
            )

        (_, last), seen = jax.lax.scan(step, (vector, at_x), jax.random.split(key, num_steps))
        return *(array[0] for array in seen), at_x - last

    def curves(sigma: Array) -> tuple[Array, ...]:
        values, signal, noise, falls = jax.lax.map(lambda key: descend(sigma, key), keys)
        return (
            falls.mean(),
            _standard_error(falls),
            *_signal_to_noise(signal, noise),
            jnp.abs(values.mean() - at_x),
            _standard_error(values),
        )

    found = jax.lax.map(curves, candidates)
    chosen = jnp.argmax(found[0] >= _ENOUGH * found[0].max())  # the first that is true
    return Calibration(candidates[chosen], at_x, candidates, *found)


def _standard_error(values: Array) -> Array:
    return jnp.std(values, ddof=1) / len(values) ** 0.5


def _signal_to_noise(signal: Array, noise: Array) -> tuple[Array, Array]:
    """Returns √(mean signal / mean noise) of squares (R,), and its standard error by the jackknife."""

    def ratio(signal: Array, noise: Array) -> Array:
        return jnp.where(noise > 0, jnp.sqrt(jnp.maximum(signal, 0) / jnp.where(noise > 0, noise, 1)), 0)

    count = len(signal)
    left_out = ratio(*((array.sum() - array) / (count - 1) for array in (signal, noise)))
    return ratio(signal.mean(), noise.mean()), jnp.std(left_out) * (count - 1) ** 0.5


def _check_scalar(fun: Callable[..., Any], x: Any, args: tuple[Any, ...]) -> None:
    value = jax.eval_shape(fun, x, *args)
    if getattr(value, "shape", None) != ():
        raise ValueError(
            f"fun returns {jax.tree.map(jnp.shape, value)} instead of one number (); put what follows the "
            "block, down to the loss to be minimised, into fun"
        )


def _candidates(sigmas: Any, vector: Array) -> Array:
    if sigmas is None:
        scale = jnp.sqrt(jnp.mean(vector**2))
        if not isinstance(scale, jax.core.Tracer) and not 0 < float(scale) < math.inf:
            raise ValueError(
                f"x has root mean square {float(scale)}, from which no candidates follow; pass sigmas in the "
                "units of x, such as jnp.geomspace(0.01, 10, 13)"
            )
        return scale * jnp.geomspace(0.01, 10.0, 13, dtype=vector.dtype)
    candidates = jnp.asarray(sigmas, vector.dtype)
    known = not isinstance(candidates, jax.core.Tracer)
    if candidates.ndim != 1 or candidates.size == 0 or (known and not _ascending(candidates)):
        raise ValueError(f"sigmas={sigmas} must be finite numbers (S,) > 0, ascending")
    return candidates


def _ascending(candidates: Array) -> bool:
    inside = (candidates[0] > 0) & (candidates[-1] < jnp.inf) & (jnp.diff(candidates) > 0).all()
    return bool(inside)


def plot(calibration: Calibration) -> Any:
    """Draws the three curves over σ with bars of one standard error, the chosen σ marked.

    Args:
        calibration: from `calibrate`.

    Returns:
        A `matplotlib.figure.Figure`, to be shown or saved. matplotlib is not a dependency of the core.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    rows = figure.subplots(3, 1, sharex=True)
    c = calibration
    for axes, name, curve, error in zip(
        rows,
        ("f falls by", "signal-to-noise", "bias |F − f(x)|"),
        (c.gain, c.signal_to_noise, c.bias),
        (c.gain_error, c.signal_to_noise_error, c.bias_error),
        strict=True,
    ):
        axes.errorbar(*map(np.asarray, (c.sigmas, curve, error)), marker="o", markersize=3, elinewidth=0.8)
        axes.axvline(float(c.sigma), color="gray", linestyle=":")
        axes.set(ylabel=name, xscale="log")
        axes.grid(alpha=0.3)
    rows[0].set_title(f"chosen: σ = {float(c.sigma):.3g}", fontsize="medium")
    rows[-1].set_xlabel("σ")
    return figure
