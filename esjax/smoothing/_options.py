"""The options of `smooth`: refused where they are wrong, and turned into functions that JAX may trace.

It imports the NamedTuples of `noise`, `samplers` and `baselines`, and knows neither estimators nor pytrees.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from esjax import baselines, samplers
from esjax import noise as noises
from esjax._core.check import check_count, check_sigma, one_of
from esjax._core.placement import Shards
from esjax._core.traceable import checked
from esjax._jaxpr.hoisting import hoisted, hoisted_elementwise
from esjax.baselines import Baseline
from esjax.credit import Credit
from esjax.noise import Noise
from esjax.samplers import Groups, Sampler

Array = jax.Array


class Options(NamedTuple):
    """The options of `smooth` other than σ and a control variate of known mean; see there."""

    noise: Noise
    sampler: Sampler
    baseline: Baseline
    credit: Credit
    discard: Callable[[Array], Array] | None
    num_samples: int
    chunk_size: int | None
    shards: Shards | None
    control: Callable[..., Any] | None = None


# --- refusals ----------------------------------------------------------------------------------------


def check(fun: Any, options: Options, sigma: Any, control: Any) -> None:
    """Raises `ValueError` for the first option that is wrong by itself."""
    if not callable(fun):
        raise ValueError(f"fun={fun!r} is not callable; pass the function to smooth")
    check_sigma(sigma)
    if not isinstance(options.noise, Noise):
        remedy = one_of("noise", noises.__all__, options.noise)
        raise ValueError(f"noise={options.noise!r} is not a Noise; {remedy}")
    if not callable(options.sampler):
        remedy = one_of("samplers", samplers.__all__, options.sampler)
        raise ValueError(f"sampler={options.sampler!r} is not callable; {remedy}")
    if not isinstance(options.baseline, Baseline):
        remedy = one_of("baselines", baselines.__all__, options.baseline)
        raise ValueError(f"baseline={options.baseline!r} is not a Baseline; {remedy}")
    if not isinstance(options.credit, Credit):
        remedy = one_of("credit", ("auto", "traced", "none"), options.credit)
        raise ValueError(f"credit={options.credit!r} is not a Credit; {remedy}, or declared(reads)")
    if options.discard is not None and not callable(options.discard):
        raise ValueError(f"discard={options.discard!r} is not callable; pass a function such as jnp.isnan")
    if control is not None:
        _check_control(control, options)


def _check_control(control: Any, options: Options) -> None:
    if callable(control):
        if options.baseline.transform is not None:
            raise ValueError(
                f"baseline={options.baseline!r} transforms values, and control explains them as they are; "
                "use another baseline, such as esjax.baselines.leave_one_out, or leave control out"
            )
        return
    if not (isinstance(control, tuple) and len(control) == 2 and all(map(callable, control))):
        raise ValueError(f"control={control!r} must be a function c, or a pair of functions (c, c_mean)")
    if options.discard is not None:
        raise ValueError(
            f"discard={options.discard!r} together with control=(c, c_mean) would leave out samples that the "
            "known mean includes; use one of the two, or control=c"
        )
    if options.num_samples < 4 or options.num_samples % 4:
        raise ValueError(
            f"num_samples={options.num_samples} must be a multiple of 4 with control, which halves them"
        )


def check_groups(options: Options, groups: Any) -> None:
    """Raises `ValueError` unless the sampler made groups, and enough of them for the baseline."""
    if not isinstance(groups, Groups):
        raise ValueError(
            f"sampler={options.sampler!r} returns a {type(groups).__name__}; return a samplers.Groups"
        )
    size, num_samples = groups.size, options.num_samples
    check_count("the size of the sampler's groups", size)
    num_groups, least = -(-num_samples // size), options.baseline.least_groups
    if options.control is not None and num_groups < 2:
        raise ValueError(
            f"num_samples={num_samples} makes {num_groups} independent group(s) of {size}, and control is "
            f"fitted on other groups than it is used for; use num_samples >= {2 * size}, or leave control out"
        )
    if num_groups < least:
        raise ValueError(
            f"num_samples={num_samples} makes {num_groups} independent group(s) of {size}, and the baseline "
            f"compares at least {least}; use num_samples >= {least * size}, twice that with control, which "
            "halves them, or baseline=esjax.baselines.none"
        )


def _check_drawn(options: Options, drawn: Any, shape: tuple[int, int], dtype: Any) -> None:
    if (drawn.shape, drawn.dtype) != (shape, dtype):
        raise ValueError(
            f"sampler={options.sampler!r} draws {drawn.dtype}{list(drawn.shape)} for a group of {shape[0]}; "
            f"return {dtype}{list(shape)} from Groups.draw"
        )


def _check_discarded(found: Any, like: Any) -> None:
    if getattr(found, "dtype", None) != jnp.bool_ or found.shape != like.shape:
        raise ValueError(
            f"discard turns values {like.shape} into {jax.tree.map(jnp.shape, found)} of type "
            f"{getattr(found, 'dtype', type(found))}; return one bool for each value, as jnp.isnan does"
        )


# --- options that may close over traced values -------------------------------------------------------


class Functions(NamedTuple):
    """What the options do, each a function of `(consts, *args)`, as in `Problem`; None where there is none.

    `consts` are the traced values that the functions close over; see `functions`.
    """

    draw: Callable[..., Array]
    score: Callable[..., Array]
    coefficients: Callable[..., tuple[Any, Any]]
    at_input: Callable[..., Any] | None
    transform: Callable[..., Array] | None
    discard: Callable[..., Array] | None
    control: Callable[..., Any] | None = None


def functions(
    options: Options, groups: Groups, key: Any, dim: int, values: Array
) -> tuple[Functions, dict[str, list[Any]]]:
    """Returns what the options do and, by the function's name, the traced values that each closes over.

    `values` (num_values,) may be any that have the dtype that is computed in, and vary as fun's will.
    """
    dtype = values.dtype
    draw, drawn, draw_consts = hoisted(lambda key: groups.draw(key, dtype), jax.random.fold_in(key, 0))
    _check_drawn(options, drawn, (groups.size, dim), dtype)
    score, score_consts = hoisted_elementwise(options.noise.score, values.sum())
    coefficients, coefficient_consts = hoisted_elementwise(
        options.baseline.coefficients, values.sum(), values.sum()
    )
    at_input, at_input_consts = _at_input(options.baseline.at_input)
    transform, transform_consts = _transform(options, values)
    discard, discard_consts = _discard(options, values)
    consts = {
        "draw": draw_consts,
        "score": score_consts,
        "coefficients": coefficient_consts,
        "at_input": at_input_consts,
        "transform": transform_consts,
        "discard": discard_consts,
    }
    return Functions(draw, score, coefficients, at_input, transform, discard), consts


def averages(baseline: Baseline, group_size: int, num_samples: int) -> bool:
    """Whether each b_n is known to be an average of values, so that an offset of all values drops out."""
    with jax.ensure_compile_time_eval():
        own, total = baseline.coefficients(group_size, num_samples)
    if isinstance(own, jax.core.Tracer) or isinstance(total, jax.core.Tracer):
        return False
    of_input = isinstance(baseline.at_input, jax.Array) or baseline.at_input != 0
    return not of_input and abs(float(own) * group_size + float(total) * num_samples - 1) < 1e-9


def _at_input(share: Any) -> tuple[Callable[..., Any] | None, list[Any]]:
    if isinstance(share, jax.Array):
        return lambda consts: consts[0], [share]
    return (None if share == 0 else lambda consts: share), []


def _transform(options: Options, values: Array) -> tuple[Callable[..., Array] | None, list[Any]]:
    if options.baseline.transform is None:
        return None, []
    like = jnp.broadcast_to(values.sum(), options.num_samples)
    transform, _, consts = hoisted(options.baseline.transform, like, like)
    return transform, consts


def _discard(options: Options, values: Array) -> tuple[Callable[..., Array] | None, list[Any]]:
    if options.discard is None:
        return None, []
    of_values, found, consts = hoisted(checked("discard", options.discard), values)
    _check_discarded(found, values)
    return lambda consts, values: of_values(consts, values).any(), consts
