"""σ by trial: descents at each of several σ, the signal-to-noise ratio and the bias, in one table."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from esjax._core import random, trees
from esjax._core.check import as_array, check_count, check_key
from esjax._core.traceable import checked
from esjax.smoothing import smooth

Array = jax.Array


class Optimizer(Protocol):
    """A pair of pure functions, as every optimiser of Optax is.

    Attributes:
        init: x → state.
        update: (gradient, state, x) → (what to add to x, state).
    """

    @property
    def init(self) -> Callable[..., Any]: ...  # noqa: D102  # described in the class

    @property
    def update(self) -> Callable[..., Any]: ...  # noqa: D102  # described in the class


class Calibration(NamedTuple):
    """What `calibrate` chose, and the curves that it chose from: arrays (S,), one entry for each candidate.

    Attributes:
        sigma: (), the chosen σ.
        value: (), f(x).
        sigmas: (S,) the candidates, ascending.
        final: (S,) f where a trial descent from x ends, mean over the repeats.
        final_error: (S,) its standard error.
        signal_to_noise: (S,) of a gradient of N samples at x, ‖∇F‖ over its standard error.
        signal_to_noise_error: (S,) its standard error.
        bias: (S,) |F_σ(x) − f(x)|, what smoothing changes in the value.
        bias_error: (S,) its standard error.
    """

    sigma: Array
    value: Array
    sigmas: Array
    final: Array
    final_error: Array
    signal_to_noise: Array
    signal_to_noise_error: Array
    bias: Array
    bias_error: Array

    @property
    def remark(self) -> str:
        """A warning about the choice, or empty."""
        chosen = int(np.flatnonzero(np.asarray(self.sigmas) == np.asarray(self.sigma))[0])
        if not self.final[chosen] + 2 * self.final_error[chosen] < self.value:
            return (
                "no candidate lowers f by more than two standard errors: use more samples, steps or repeats, "
                "or another x"
            )
        if chosen in (0, len(self.sigmas) - 1):
            return "the choice is at the end of the candidates: pass sigmas that reach further"
        return ""

    def __str__(self) -> str:
        """A table of the curves, the chosen σ marked."""
        if isinstance(self.sigma, jax.core.Tracer):
            return f"{type(self).__name__} of traced values; return it from jit, and print it there"
        lines = [f"{'sigma':>10}  {'f ends at':>18}  {'signal-to-noise':>15}  {'bias |F - f(x)|':>19}"]
        for number, sigma in enumerate(self.sigmas):
            final = f"{self.final[number]:.3g} ± {self.final_error[number]:.1g}"
            noise = f"{self.signal_to_noise[number]:.2f} ± {self.signal_to_noise_error[number]:.2f}"
            bias = f"{self.bias[number]:.3g} ± {self.bias_error[number]:.1g}"
            mark = "  chosen" if sigma == self.sigma else ""
            lines.append(f"{sigma:>10.3g}  {final:>18}  {noise:>15}  {bias:>19}{mark}")
        lines.append(f"f starts at {self.value:.3g}")
        return "\n".join(lines + ([self.remark] if self.remark else []))


def calibrate(
    fun: Callable[..., Any],
    key: Any,
    x: Any,
    *args: Any,
    num_samples: int,
    sigmas: Any = None,
    optimizer: Optimizer | None = None,
    num_steps: int = 100,
    num_repeats: int = 4,
) -> Calibration:
    """Chooses σ for minimising `fun` from x: the one with which trial descents end lowest, on average.

    For each candidate, `num_repeats` descents of `num_steps` steps are made, with the same keys for every
    candidate: each step takes the gradient of N samples of normal noise, with the defaults of
    `esjax.smooth`. Of candidates that end equally low, the one of the largest signal-to-noise is taken.

    Longer descents favour a smaller σ, which ends closer to an optimum: for training that is many times
    longer than the trials, raise `num_steps`, and give the optimiser that training will use.

    Signal-to-noise alone cannot choose: where only a few samples change anything, their gradient may be
    clear, and lead nowhere; and where f does not change with the scale of x, the curve is flat. Nor can a
    single step: it favours a σ that sees far, and ends too far from the optimum. The trials take
    S · `num_repeats` · `num_steps` · N evaluations for S candidates. Works inside `jit`.

    Args:
        fun: `fun(x, *args) -> ()`, to be *minimised*: negate what is to be maximised, and include what
            follows the block in the pipeline.
        key: a PRNG key, consumed by the call.
        x: a pytree of floating arrays: where the optimisation starts.
        *args: passed on to `fun`.
        num_samples: N, evaluations for each gradient: as many as will be used.
        sigmas: (S,) candidates > 0, ascending, in units of x. None: 13 of them from 0.01 to 10 times the root
            mean square of x.
        optimizer: of the trials, such as `optax.adam(0.01)`. None: Adam (Kingma and Ba, arXiv 1412.6980) at a
            tenth of the root mean square of x, decaying to 0 along a cosine.
        num_steps: of each trial, ≥ 1.
        num_repeats: independent trials for each candidate, ≥ 2.

    Raises:
        ValueError: `fun` does not return one number; `sigmas` is not as described; x is zero, and `sigmas`
            or `optimizer` is None; or as for `esjax.smooth`.
        TypeError: `optimizer` has no `init` and `update`.

    Examples:
        >>> import jax, jax.numpy as jnp, esjax
        >>> def rounded(x):  # has no gradient
        ...     return jnp.sum((jnp.round(x) - 0.4) ** 2)
        >>> found = esjax.sigma.calibrate(rounded, jax.random.key(0), jnp.full(8, 3.0), num_samples=64)
        >>> bool(0.1 < found.sigma < 3)
        True
    """
    check_key(key)
    num_steps = check_count("num_steps", num_steps)
    num_repeats = _checked_repeats(num_repeats)
    smoothed = smooth(fun, sigma=1.0, num_samples=num_samples)
    x = _checked_start(fun, x, args)
    candidates = _candidates(sigmas, x)
    optimizer = _checked_optimizer(optimizer, x, num_steps)
    at_x = fun(x, *args)
    keys, as_key = random.data_of(jax.random.split(key, num_repeats))  # the same for every candidate

    def trial(data: Array, sigma: Array) -> Array:
        """Returns f at the end of a descent."""

        def gradient(x: Any, data: Array) -> Any:
            return jax.grad(smoothed, argnums=1)(as_key(data), x, *args, sigma=sigma)

        steps, _ = random.data_of(jax.random.split(as_key(data), num_steps))
        return fun(_descended(gradient, optimizer, x, steps), *args)

    def at_start(data: Array, sigma: Array) -> tuple[Array, Array, Array]:
        """Returns F̂, ‖ĝ‖² less its error², and error²."""
        value, report = smoothed.with_info(as_key(data), x, *args, sigma=sigma)
        noise = report.gradient_error**2
        return value, report.gradient_norm**2 - noise, noise

    def curves(sigma: Array) -> tuple[Array, ...]:
        ends = jax.vmap(trial, (0, None))(keys, sigma)
        values, signal, noise = jax.vmap(at_start, (0, None))(keys, sigma)
        return (
            ends.mean(),
            _standard_error(ends),
            *_signal_to_noise(signal, noise),
            jnp.abs(values.mean() - at_x),
            _standard_error(values),
        )

    found = jax.lax.map(curves, candidates)
    chosen = _lowest(found[0], found[2])
    return Calibration(candidates[chosen], at_x, candidates, *found)


def _lowest(ends: Array, signal_to_noise: Array) -> Array:
    """Returns which candidate ends lowest (); of equal ones, the one of the largest signal-to-noise."""
    ends = jnp.where(jnp.isnan(ends), jnp.inf, ends)  # a trial that diverged does not end low
    return jnp.argmax(jnp.where(ends == ends.min(), signal_to_noise, -1))


def _checked_repeats(num_repeats: Any) -> int:
    count = check_count("num_repeats", num_repeats)
    if count < 2:
        raise ValueError(f"num_repeats={count} must be >= 2, for a standard error")
    return count


def _checked_start(fun: Callable[..., Any], x: Any, args: tuple[Any, ...]) -> Any:
    """Returns x as arrays; refuses x, args and a function of them that `calibrate` cannot use."""
    trees.check_arrays(x, "x", "pass arrays")
    trees.check_args(args)
    x = jax.tree.map(jnp.asarray, x)
    trees.check_floating(x, "x", "convert it with .astype(jnp.float32), or pass it in args")
    _check_scalar(checked("fun", fun), x, args)
    return x


def _checked_optimizer(optimizer: Optimizer | None, x: Any, num_steps: int) -> Optimizer:
    if optimizer is None:
        return _adam(0.1 * _scale(x, "optimizer=optax.adam(...)"), num_steps)
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(f"optimizer={optimizer!r} has no init and update; give one of Optax")
    return optimizer


def _descended(gradient: Callable[[Any, Array], Any], optimizer: Optimizer, x: Any, steps: Array) -> Any:
    """Returns where a descent from x ends, with `gradient(x, data)` for the data of each step."""

    def step(at: tuple[Any, Any], data: Array) -> Any:
        x, state = at
        change, state = optimizer.update(gradient(x, data), state, x)
        return (jax.tree.map(jnp.add, x, change), state), None

    (last, _), _ = jax.lax.scan(step, (x, optimizer.init(x)), steps)
    return last


def _adam(rate: Array, num_steps: int) -> Optimizer:
    """Adam with Optax's defaults (the core needs no Optax), its rate falling to 0 along half a cosine."""

    def init(x: Any) -> Any:
        zero = jax.tree.map(jnp.zeros_like, x)
        return 0, zero, zero

    def update(gradient: Any, state: Any, x: Any) -> Any:
        step, mean, square = state
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradient)
        square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, square, gradient)
        rate_now = rate * 0.5 * (1 + jnp.cos(jnp.pi * step / num_steps))

        def change(m: Array, v: Array) -> Array:
            m, v = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
            return (-rate_now * m / (jnp.sqrt(v) + 1e-8)).astype(m.dtype)

        return jax.tree.map(change, mean, square), (step + 1, mean, square)

    return _Adam(init, update)


class _Adam(NamedTuple):
    init: Callable[..., Any]
    update: Callable[..., Any]


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


def _scale(x: Any, remedy: str) -> Array:
    """Returns the root mean square of all numbers of x."""
    scale = jnp.sqrt(jnp.mean(ravel_pytree(x)[0] ** 2))
    if not isinstance(scale, jax.core.Tracer) and not 0 < float(scale) < math.inf:
        raise ValueError(
            f"x has root mean square {float(scale)}, which gives no scale; pass {remedy} in the units of x"
        )
    return scale


def _candidates(sigmas: Any, x: Any) -> Array:
    if sigmas is None:
        scale = _scale(x, "sigmas, such as jnp.geomspace(0.01, 10, 13),")
        return scale * jnp.geomspace(0.01, 10.0, 13, dtype=scale.dtype)
    candidates = as_array("sigmas", sigmas).astype(ravel_pytree(x)[0].dtype)
    known = not isinstance(candidates, jax.core.Tracer)
    if candidates.ndim != 1 or candidates.size == 0 or (known and not _ascending(candidates)):
        raise ValueError(f"sigmas={sigmas} must be finite numbers (S,) > 0, ascending")
    return candidates


def _ascending(candidates: Array) -> bool:
    inside = (candidates[0] > 0) & (candidates[-1] < jnp.inf) & (jnp.diff(candidates) > 0).all()
    return bool(inside)
