"""A value with slopes that were estimated apart from it, right in every order."""

from typing import Any

import jax
import jax.numpy as jnp

from esjax._guard import guarded
from esjax._products import einsum

Array = jax.Array


@jax.custom_jvp
def with_slopes(value: Array, probs: Array, differences: Array, log_likelihood: Array) -> Array:
    """Returns `value` (m,), with the derivative of Σ_i Σ_a p_i(a) f_i(a) in the probabilities.

    Args:
        value: f(d), (m,).
        probs: p_i(a), (c, a).
        differences: f_i(a) − f(d), (c, a, m).
        log_likelihood: of what d was drawn from, (). First derivatives do not see it; those of them are
            of expectations under it, by a box that is 1 in value (Foerster et al. 2018).
    """
    del differences
    return guarded(value, probs, log_likelihood)


@with_slopes.defjvp
def _with_slopes_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    _, _, differences, log_likelihood = primals
    value_dot, probs_dot, *_ = tangents
    box = jnp.exp(log_likelihood - jax.lax.stop_gradient(log_likelihood))
    moved = einsum("ia,iam->m", probs_dot, differences)
    return with_slopes(*primals), box * (value_dot + moved)
