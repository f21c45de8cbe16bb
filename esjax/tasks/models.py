"""The models of tasks on tables: a linear one, and one with a hidden layer beside it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

Array = jax.Array
Params = dict[str, Array]
Loss = Callable[[Params, Any, tuple[Array, ...]], Array]


def init(key: Any, num_features: int, num_outputs: int, hidden: int) -> Params:
    """Returns parameters that give scores 0: of a linear model, and of `hidden` units if there are any."""
    params = {"linear": jnp.zeros((num_features, num_outputs)), "offset": jnp.zeros(num_outputs)}
    if hidden:
        params["first"] = jax.random.normal(key, (num_features, hidden)) / num_features**0.5
        params["bias"] = jnp.zeros(hidden)
        params["last"] = jnp.zeros((hidden, num_outputs))
    return params


def scores(params: Params, x: Array) -> Array:
    """Returns scores (B, K) of features (B, D)."""
    found = x @ params["linear"] + params["offset"]
    if "first" in params:
        found = found + jnp.tanh(x @ params["first"] + params["bias"]) @ params["last"]
    return found


@partial(jax.jit, static_argnames=("loss", "num_steps", "rate", "decay"))
def fit(
    loss: Loss,
    params: Params,
    key: Any,
    data: tuple[Array, ...],
    *,
    num_steps: int,
    rate: float,
    decay: float,
) -> Params:
    """Returns the parameters after steps of AdamW on all the data, with a rate that falls along a cosine."""
    optimizer = optax.adamw(optax.cosine_decay_schedule(rate, num_steps), weight_decay=decay)

    def step(carry: Any, key: Any) -> Any:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, key, data), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, num_steps))
    return params
