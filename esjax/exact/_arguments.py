"""What `exact` asks of its arguments, scores in units of σ, and the cases that infinite scores decide."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import esjax.noise
from esjax._core import placement
from esjax._core.check import as_array, as_classes, as_given, check_count, check_sigma, known
from esjax._core.rules import with_rule
from esjax.exact._argmax_integrals import FAR
from esjax.noise import Noise

Array = jax.Array


# --- scores in units of σ, and what is infinite ------------------------------------------------------


def standardized(scores: Array, reference: Array, finite: Array, sigma: Array) -> Array:
    """Returns (scores − reference) / σ (..., K), −FAR where a score is not finite; zero gradients there.

    The reference is a constant: probabilities do not change when all scores move together.
    """
    reference = jax.lax.stop_gradient(jnp.where(jnp.isfinite(reference), reference, 0))
    s = in_units(jnp.where(finite, scores, 0) - reference, sigma[..., None], FAR)
    return jnp.where(finite, s, -FAR)


def in_units(difference: Array, sigma: Array, far: float) -> Array:
    """Returns difference / σ, and ±`far` with zero gradients beyond that, where the ratio may overflow."""
    beyond = jnp.abs(difference) >= far * sigma
    ratio = jnp.where(beyond, 0, difference) / jnp.where(beyond, 1, sigma)
    return jnp.where(beyond, far * jnp.sign(difference), ratio)


def leads(scores: Array, labels: Array, sigma: Array) -> Array:
    """Returns by how many σ each rival (..., K) leads the label, whose own entry is −FAR."""
    reference = own(scores, labels)[..., None]
    has_place = jnp.isfinite(reference)
    finite = jnp.isfinite(scores) & has_place
    ahead = jnp.where(finite, scores, 0) - jnp.where(has_place, reference, 0)
    ahead = in_units(ahead, sigma[..., None], FAR)
    ahead = jnp.where(finite & ~_is_label(scores, labels), ahead, -FAR)
    return jnp.where(jnp.isposinf(scores) & has_place, FAR, ahead)


def _is_label(scores: Array, labels: Array) -> Array:
    classes = jnp.arange(scores.shape[-1], dtype=labels.dtype).reshape((1,) * labels.ndim + (-1,))
    return classes == labels[..., None]


def own(scores: Array, labels: Array) -> Array:
    """Returns the label's score (...)."""
    inside = jnp.clip(labels, 0, scores.shape[-1] - 1)
    return jnp.take_along_axis(scores, inside[..., None], -1)[..., 0]


def share(probs: Array, scores: Array, k: int) -> Array:
    """Returns probs (..., K), replaced where infinite scores decide, NaN for examples without an answer."""
    top, masked = jnp.isposinf(scores), jnp.isneginf(scores)
    num_top = top.sum(-1, keepdims=True)
    of_each = jnp.minimum(k / jnp.maximum(num_top, 1).astype(probs.dtype), 1)
    decided = jnp.where(top, of_each, 0)
    few = (~masked).sum(-1, keepdims=True) <= k
    probs = jnp.where(masked | top | (num_top >= k), decided, jnp.where(few, 1, probs))
    valid = ~(jnp.isnan(scores).any(-1, keepdims=True) | masked.all(-1, keepdims=True))
    return nan_unless(valid, probs, jnp.where(jnp.isinf(scores), 0, scores).sum(-1, keepdims=True))


def share_of_label(probs: Array, scores: Array, labels: Array, k: int) -> Array:
    """Returns probs (...), replaced where infinite scores decide."""
    label_score, num_top = own(scores, labels), jnp.isposinf(scores).sum(-1)
    of_each = jnp.minimum(k / jnp.maximum(num_top, 1).astype(probs.dtype), 1)
    decided = jnp.where(jnp.isposinf(label_score), of_each, 0)
    return jnp.where(jnp.isfinite(label_score) & (num_top < k), probs, decided)


def where_valid(probs: Array, scores: Array, labels: Array) -> Array:
    """Returns probs (...), NaN for examples without an answer."""
    valid = ~(jnp.isnan(scores).any(-1) | jnp.isneginf(scores).all(-1))
    valid = valid & (labels >= 0) & (labels < scores.shape[-1])
    return nan_unless(valid, probs, jnp.where(jnp.isinf(scores), 0, scores).sum(-1))


def nan_unless(valid: Array, value: Array, total: Array) -> Array:
    """Returns the value where it is valid, else NaN with NaN derivatives in it and in `total`.

    A choice between the value and NaN alone would have a gradient of 0 there, which looks like a right one.

    Args:
        valid: booleans that broadcast to `value`.
        value: (...).
        total: the sum of what the value is a function of; broadcasts to `value`.
    """
    known = jax.lax.stop_gradient(value)
    return with_rule(jnp.where(valid, known, jnp.nan), _nan_unless_dot, (value, total, valid))


def _nan_unless_dot(inputs: Any, tangents: Any) -> Array:
    (value, _, valid), (value_dot, total_dot, _) = inputs, tangents
    moved = jnp.zeros_like(value)
    if value_dot is not None:
        moved = moved + jnp.where(valid, 1, jnp.nan).astype(value.dtype) * value_dot
    if total_dot is not None:
        moved = moved + jnp.where(valid, 0, jnp.nan).astype(value.dtype) * total_dot
    return moved


# --- refusals ----------------------------------------------------------------------------------------


def check_scores(
    name: str, scores: Any, sigma: Any, num_nodes: Any = None, *, of_classes: bool = False
) -> tuple[Array, Array, Array]:
    """Returns `scores`; the same in at least float32; and σ, with the batch's shape and that dtype."""
    given = as_array(name, scores)
    if not jnp.issubdtype(given.dtype, jnp.floating):
        raise ValueError(f"{name} has dtype {given.dtype}; convert it with .astype(jnp.float32)")
    batch = given.shape
    if of_classes:
        if given.ndim < 1 or given.shape[-1] < 2:
            raise ValueError(f"{name} has shape {given.shape}; give (..., K) of at least two classes")
        batch = given.shape[:-1]
    values = known(given)
    if values is not None:
        if np.isnan(values).any():
            raise ValueError(f"{name} holds NaN; find where it comes from with jax.debug_nans(True)")
        if of_classes and np.isneginf(values).all(-1).any():
            raise ValueError(f"{name} of an example are all −inf; leave at least one class unmasked")
    check_sigma(sigma)
    if num_nodes is not None:
        check_count("num_nodes", num_nodes)
        if num_nodes < 8:
            raise ValueError(f"num_nodes={num_nodes} is too few for an integral; use at least 8, or None")
    wide = given if given.dtype == jnp.float64 else given.astype(jnp.float32)
    return given, wide, broadcast("sigma", sigma, batch, wide.dtype)


def broadcast(name: str, value: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    value = as_array(name, as_given(name, value, "give one number, or an array").astype(dtype))
    try:
        return jnp.broadcast_to(value, shape)
    except ValueError:
        raise ValueError(
            f"{name} has shape {value.shape}, which does not broadcast to {shape}; "
            "use one number or that shape"
        ) from None


def check_labels(labels: Any, scores: Array) -> Array:
    given = as_given("labels", labels, "give integer classes")
    if not jnp.issubdtype(given.dtype, jnp.integer) or given.shape != scores.shape[:-1]:
        raise ValueError(
            f"labels has dtype {given.dtype} and shape {given.shape}; "
            f"give one integer class for each example, shape {scores.shape[:-1]}"
        )
    return as_classes(scores.shape[-1], labels=given)[0]


def check_k(k: Any, scores: Array) -> None:
    check_count("k", k)
    if k > scores.shape[-1]:
        raise ValueError(f"k={k} is more than the {scores.shape[-1]} classes; use k <= {scores.shape[-1]}")


def check_noise(noise: Any, supported: tuple[str, ...]) -> None:
    if any(noise == getattr(esjax.noise, name) for name in supported):
        return
    names = {id(value): name for name, value in vars(esjax.noise).items() if isinstance(value, Noise)}
    raise ValueError(
        f"noise={names.get(id(noise), repr(noise))} has no closed form here; use "
        + " or ".join(f"esjax.noise.{name}" for name in supported)
        + ", or sample it with esjax.smooth"
    )


def by_example(function: Any, options: tuple[Any, ...], scores: Array, *others: Array) -> Array:
    """Returns `function` of scores (..., K) and what goes with them, batched over examples."""
    return placement.by_batch(function, options, scores.ndim - 1, scores, *others)
