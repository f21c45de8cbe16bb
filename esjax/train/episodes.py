"""Episodes of Gymnasium's environments, in NumPy alone: what a worker process does.

Worker processes import this file, so it does without JAX.
"""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import connection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Params = dict[str, Any]


class Played(NamedTuple):
    """What an episode gives; of several episodes, the mean of each.

    Attributes:
        total: its return ().
        count: T (), how many observations the policy acted on. None: they were not counted.
        sums: Σ_t (x_t − m) (D,), with m the mean that observations are normalised with.
        squares: Σ_t (x_t − m)² (D,).
    """

    total: Any
    count: Any = None
    sums: Any = None
    squares: Any = None


def outputs(params: Params, x: Any) -> Any:
    """Returns what a policy makes of x (D,): (K,) numbers, for NumPy and JAX arrays alike.

    x M                                   linear, with params {last: M}
    tanh(x first + bias) last + last_bias  with one hidden layer
    """
    if "first" not in params:
        return x @ params["last"]
    np_or_jnp = x.__array_namespace__()
    hidden = np_or_jnp.tanh(x @ params["first"] + params["bias"])
    return hidden @ params["last"] + params["last_bias"]


def play(environment: str, params: Params, mean: Any, scale: Any, seed: Any) -> Played:
    """Plays an episode, which `seed` () determines, by a policy that sees (x − mean) / scale, both (D,)."""
    world, to_action = _world(environment)
    x, _ = world.reset(seed=int(seed))
    total, count, sums, squares = 0.0, 0, np.zeros(len(mean)), np.zeros(len(mean))
    while True:
        offset = x - np.asarray(mean, float)
        count, sums, squares = count + 1, sums + offset, squares + offset**2
        x, reward, ended, cut, _ = world.step(to_action(outputs(params, offset / scale)))
        total += float(reward)
        if ended or cut:
            return Played(np.float32(total), np.float32(count), _float32(sums), _float32(squares))


def _float32(array: NDArray[Any]) -> NDArray[np.float32]:
    return array.astype(np.float32)


@functools.cache
def _world(environment: str) -> tuple[Any, Callable[[NDArray[Any]], Any]]:
    import gymnasium

    world = gymnasium.make(environment)
    return world, action_of(world.action_space)


def action_of(space: Any) -> Callable[[NDArray[Any]], Any]:
    """Returns what makes an action of a policy's outputs (K,).

    Of a `Discrete` space it is the largest's number. Of a `Box`, the outputs are clipped to the bounds, once
    [−1, 1] is mapped to those that are finite on both sides.
    """
    if hasattr(space, "n"):
        return lambda found: space.start + found.argmax()
    low, high = (np.asarray(bound, float).reshape(-1) for bound in (space.low, space.high))
    bounded = np.isfinite(low) & np.isfinite(high)
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        centre, half = np.where(bounded, (low + high) / 2, 0), np.where(bounded, (high - low) / 2, 1)

    def action(found: NDArray[Any]) -> Any:
        return np.clip(centre + half * found, low, high).astype(space.dtype).reshape(space.shape)

    return action


def play_in_worker(environment: str, params: Params, mean: Any, scale: Any, seed: Any) -> Played:
    """Plays an episode as `play` does, in a process that ends with its parent and leaves it Ctrl-C."""
    stay_with_parent()
    return play(environment, params, mean, scale, seed)


@functools.cache
def stay_with_parent() -> None:
    """Ends this process with its parent, even if that is killed, and leaves Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
