"""A value with slopes that were estimated separately, right to every order."""

from typing import Any

import jax
import jax.numpy as jnp

from esjax._core.products import einsum
from esjax._core.rules import with_rule

Array = jax.Array


def with_slopes(value: Array, probs: Array, differences: Array, log_likelihood: Array) -> Array:
    """Returns `value` (m,), with the derivative of Σ_i Σ_a p_i(a) f_i(a) in the probabilities.

    Args:
        value: f(d), (m,).
        probs: p_i(a), (c, a).
        differences: f_i(a) − f(d), (c, a, m).
        log_likelihood: of the outcome that made d, (). First derivatives do not depend on it; by a factor
            of value 1, the box, theirs are derivatives of expectations (Foerster et al. 2018).
    """
    return with_rule(jax.lax.stop_gradient(value), _value_dot, (value, probs, differences, log_likelihood))


def _value_dot(inputs: Any, tangents: Any) -> Array:
    value, _, differences, log_likelihood = inputs
    value_dot, probs_dot, *_ = tangents
    box = jnp.exp(log_likelihood - jax.lax.stop_gradient(log_likelihood))
    moved = jnp.zeros_like(value) if value_dot is None else value_dot
    if probs_dot is not None:
        moved = moved + einsum("ia,iam->m", probs_dot, differences)
    return box * moved
