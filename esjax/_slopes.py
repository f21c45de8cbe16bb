"""A value with slopes that were estimated apart from it, right in every order."""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


@jax.custom_jvp
def with_slopes(value: Array, probs: Array, differences: Array, log_all: Array, log_others: Array) -> Array:
    """Returns `value` (m,), with the derivative of Σ_i Σ_a p_i(a) f_i(a) in the probabilities.

    The two log-likelihoods matter from the second order on, where derivatives are those of expectations under
    them; a box is 1 in value (Foerster et al. 2018).

    Args:
        value: f(d), (m,).
        probs: p_i(a), (c, a).
        differences: f_i(a) − f(d), (c, a, m).
        log_all: log-likelihood of what f(d) was drawn from, ().
        log_others: of what the f_i(a) were drawn given, (c,).
    """
    del probs, differences, log_all, log_others
    return value


@with_slopes.defjvp
def _with_slopes_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    _, _, differences, log_all, log_others = primals
    value_dot, probs_dot, *_ = tangents
    moved = jnp.einsum("i,ia,iam->m", _box(log_others), probs_dot, differences)
    return with_slopes(*primals), _box(log_all) * value_dot + moved


def _box(log_likelihood: Array) -> Array:
    return jnp.exp(log_likelihood - jax.lax.stop_gradient(log_likelihood))
