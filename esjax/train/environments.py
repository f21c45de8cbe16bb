"""Gymnasium's environments by their ids, how many numbers a policy takes and gives there, and refusals."""

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_SHOWN = 60
"""Characters of a space that a message shows."""

_WRAP = (
    "register it, wrapped by {wrapper}, under an id of your own, and give that as module:Name-v0, where "
    "`module` registers it"
)


class Environment(NamedTuple):
    """What there is to know about an environment.

    Attributes:
        num_inputs: D, numbers in an observation.
        num_outputs: K, numbers that a policy makes an action of.
        first: an observation (D,).
        threshold: the mean return from which on Gymnasium counts it as solved. None: it names none.
    """

    num_inputs: int
    num_outputs: int
    first: NDArray[np.float32]
    threshold: float | None


@functools.cache
def look_at(name: str) -> Environment:
    """Makes an environment, and looks at its spaces.

    Args:
        name: its id, such as "Pendulum-v1" or "module:Name-v0", where `module` registers it.

    Raises:
        ModuleNotFoundError: Gymnasium, or a package that the environment needs, is not installed.
        ValueError: there is no such environment, or a policy here cannot see or act in it.
    """
    world = _made(name)
    try:
        _check_observations(name, world.observation_space)
        num_outputs = _num_outputs(name, world.action_space)
        first = np.asarray(world.reset(seed=0)[0], np.float32)
        return Environment(len(first), num_outputs, first, world.spec.reward_threshold)
    finally:
        world.close()


def _made(name: str) -> Any:
    try:
        import gymnasium
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"environment={name!r} needs Gymnasium; run pip install 'esjax[rl]'", name="gymnasium"
        ) from error
    if not isinstance(name, str) or not name:
        raise ValueError(f"environment={name!r} must be the id of an environment of Gymnasium, as text")
    try:
        return gymnasium.make(name)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise ModuleNotFoundError(
            f"environment={name!r} needs a package that is not installed: {_first_line(error)}; "
            "for MuJoCo, run pip install 'esjax[rl]'"
        ) from error
    except gymnasium.error.Error as error:
        raise ValueError(
            f"environment={name!r} is not known to Gymnasium: {_first_line(error)} Give an id such as "
            "Pendulum-v1, module:Name-v0 where `module` registers it, or for CartPole gymnasium or jax"
        ) from error
    except Exception as error:  # whatever its constructor raises
        raise ValueError(
            f"environment={name!r} cannot be made: {_first_line(error)}; register it with all that it needs"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_observations(name: str, space: Any) -> None:
    from gymnasium import spaces

    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.shape[0]:
        return
    kind = "images or arrays" if isinstance(space, spaces.Box) else "no vector"
    raise ValueError(
        f"environment={name!r} has observations {_shown(space)}, {kind}, and a policy here takes a vector of "
        f"numbers; {_WRAP.format(wrapper='gymnasium.wrappers.FlattenObservation')}"
    )


def _num_outputs(name: str, space: Any) -> int:
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating) and space.shape != (0,):
        return int(np.prod(space.shape))
    raise ValueError(
        f"environment={name!r} has actions {_shown(space)}, and a policy here gives one number of a choice "
        "(Discrete) or real numbers (Box of floats); "
        f"{_WRAP.format(wrapper='gymnasium.wrappers.TransformAction')}"
    )


def _shown(space: Any) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
