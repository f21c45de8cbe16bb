"""Policies: a linear one, or one with a layer of hidden units; `episodes.outputs` says what they compute."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from esjax.train.episodes import Params


def init(key: Any, num_inputs: int, num_outputs: int, hidden: int) -> Params:
    """Returns the parameters of the first policy, whose last weights are 0.

    A linear policy has no bias, as in ARS (Mania et al. 2018, alg. 1).

    Args:
        key: of the first weights.
        num_inputs: D, numbers in an observation.
        num_outputs: K, numbers that an action is made of.
        hidden: units of the hidden layer; 0: a linear policy.
    """
    if not hidden:
        return {"last": jnp.zeros((num_inputs, num_outputs))}
    return {
        "first": jax.random.normal(key, (num_inputs, hidden)) / math.sqrt(num_inputs),
        "bias": jnp.zeros(hidden),
        "last": jnp.zeros((hidden, num_outputs)),
        "last_bias": jnp.zeros(num_outputs),
    }
