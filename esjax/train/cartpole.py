"""CartPole-v1 with a small policy, written twice: in JAX, and by gymnasium on the host.

An episode's return is the number of steps, at most 500, before the cart leaves the track or the pole falls:
a simulator and an argmax, with no gradient. Both take the same parameters.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax.train import policies
from esjax.train.episodes import Params as Params
from esjax.train.episodes import outputs

Array = jax.Array

NUM_STEPS = 500
"""Largest number of steps in an episode."""

_GRAVITY, _CART, _POLE, _HALF_LENGTH, _FORCE, _SECONDS = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
_TRACK, _ANGLE = 2.4, 12 * 2 * math.pi / 360
_SPREAD = 0.05  # largest size of each number of the first state


def init_policy(key: Any, hidden: int = 16) -> Params:
    """Returns the parameters of a policy with one hidden layer, 4 → hidden → 2, the last weights 0."""
    return policies.init(key, 4, 2, hidden)


def act(params: Params, state: Any) -> Any:
    """Returns the action, 0 (left) or 1 (right), at a state (4,); for NumPy and JAX arrays alike."""
    return outputs(params, state).argmax()


def episode(params: Params, key: Any) -> Array:
    """Returns the return () of an episode in JAX."""
    state = jax.random.uniform(key, (4,), params["last"].dtype, -_SPREAD, _SPREAD)

    def one_step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        state, alive = carry
        state = step(state, act(params, state))
        inside = (jnp.abs(state[0]) <= _TRACK) & (jnp.abs(state[2]) <= _ANGLE)
        return (state, alive & inside), alive

    _, alive = jax.lax.scan(one_step, (state, jnp.array(True)), length=NUM_STEPS)
    return alive.sum(dtype=state.dtype)


def step(state: Array, action: Array) -> Array:
    """Returns the state (4,): position, velocity, angle, angular velocity, 0.02 s later, by Euler's rule.

    The equations are those of Barto, Sutton and Anderson 1983, as Florian 2007 corrects them, frictionless.
    """
    _, velocity, angle, spin = state
    force = jnp.where(action == 1, _FORCE, -_FORCE)
    mass = _CART + _POLE
    pushed = (force + _POLE * _HALF_LENGTH * spin**2 * jnp.sin(angle)) / mass
    spin_change = (_GRAVITY * jnp.sin(angle) - jnp.cos(angle) * pushed) / (
        _HALF_LENGTH * (4 / 3 - _POLE * jnp.cos(angle) ** 2 / mass)
    )
    speed_change = pushed - _POLE * _HALF_LENGTH * spin_change * jnp.cos(angle) / mass
    return state + _SECONDS * jnp.stack([velocity, speed_change, spin, spin_change])


def episode_on_host(params: Params, seed: Any) -> np.float32:
    """Returns the return () of an episode of gymnasium's CartPole-v1; `seed` () chooses the first state."""
    environment = _environment()
    state, _ = environment.reset(seed=int(seed))
    total = 0.0
    while True:
        state, reward, ended, cut, _ = environment.step(int(act(params, state)))
        total += float(reward)
        if ended or cut:
            return np.float32(total)


@functools.cache
def _environment() -> Any:
    import gymnasium

    return gymnasium.make("CartPole-v1")
