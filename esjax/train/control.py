"""What `esjax rl` solves: a policy's first parameters, its episodes, and when they are good enough."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import esjax
from esjax.host.executors import described
from esjax.train import cartpole, environments, episodes, moments, policies
from esjax.train.checks import require_one_of
from esjax.train.config import CARTPOLES, RLConfig
from esjax.train.episodes import Params, Played
from esjax.train.moments import Moments

Array = jax.Array

SOLVED = 475.0
"""Mean return over 100 episodes at which CartPole-v1 counts as solved."""

_SEEDS = 2**31 - 1

_RETRIES = 1
"""How often an episode whose worker died is played again, by another: it is the same episode."""


class Problem(NamedTuple):
    """What there is to solve, as functions.

    Attributes:
        block: `(params, moments, key) -> Played`: an episode.
        observe: `(moments, played) -> moments`, with what a population saw.
        target: mean return at which training ends; ∞ if it never does.
        log: of the calls on the host. None: there are none.
    """

    block: Callable[[Params, Moments | None, Any], Played]
    observe: Callable[[Moments | None, Played], Moments | None]
    target: float
    log: esjax.host.Log | None


def start(config: RLConfig, key: Any) -> tuple[Params, Moments | None]:
    """Returns the parameters of the first policy, and moments of no observations.

    Raises:
        ModuleNotFoundError: Gymnasium, or what the environment needs, is not installed.
        ValueError: there is no such environment, or a policy here cannot see or act in it.
    """
    if config.environment == "gymnasium":
        environments.look_at("CartPole-v1")
    if config.environment in CARTPOLES:
        return cartpole.init_policy(key, config.hidden), None
    found = environments.look_at(config.environment)
    params = policies.init(key, found.num_inputs, found.num_outputs, config.hidden)
    return params, moments.initial(found.first if config.normalises() else jnp.zeros(found.num_inputs))


def problem(config: RLConfig, executor: Executor | None) -> Problem:
    """Returns what the options ask for, with episodes on the host that `executor` plays; None: this process.

    Raises:
        ModuleNotFoundError, ValueError: as for `start`.
    """
    if config.environment in CARTPOLES:
        returned, log = _cartpole(config.environment, executor)
        return Problem(
            lambda params, _, key: Played(returned(params, key)),
            lambda none, _: none,
            _or(config.target, SOLVED),
            log,
        )
    found = environments.look_at(config.environment)
    play = episodes.play_in_worker if isinstance(executor, esjax.host.ProcessPool) else episodes.play
    number, numbers = np.float32(0), np.zeros(found.num_inputs, np.float32)
    on_host = _on_host(partial(play, config.environment), Played(number, number, numbers, numbers), executor)

    def block(params: Params, known: Any, key: Any) -> Played:
        return on_host(params, known.mean, moments.scale(known), _seed(key))

    def observe(known: Any, played: Played) -> Any:
        return moments.merged(known, played, config.population) if config.normalises() else known

    return Problem(block, jax.jit(observe), _or(config.target, _or(found.threshold, math.inf)), on_host.log)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _on_host(play: Callable[..., Any], result: Any, executor: Executor | None) -> esjax.host.Wrapped:
    return esjax.host.wrap(play, result, executor, retries=_RETRIES)


def _seed(key: Any) -> Array:
    return jax.random.randint(key, (), 0, _SEEDS)


def returns(environment: str, executor: Executor | None) -> Callable[[Params, Any], Array]:
    """Returns CartPole's block: `(params, key) -> return ()` of an episode, in JAX or on the host.

    Raises:
        ValueError: `environment` is neither "gymnasium" nor "jax".
    """
    require_one_of("environment", environment, CARTPOLES)
    return _cartpole(environment, executor)[0]


def _cartpole(
    environment: str, executor: Executor | None
) -> tuple[Callable[[Params, Any], Array], esjax.host.Log | None]:
    if environment == "jax":
        return cartpole.episode, None
    play = _play if isinstance(executor, esjax.host.ProcessPool) else cartpole.episode_on_host
    on_host = _on_host(play, np.float32(0), executor)
    return lambda params, key: on_host(params, _seed(key)), on_host.log


def _play(params: Params, seed: Any) -> np.float32:
    """Plays an episode of CartPole in a worker."""
    episodes.stay_with_parent()
    return cartpole.episode_on_host(params, seed)


@contextmanager
def faults_named(config: RLConfig, problem: Problem) -> Iterator[None]:
    """Turns what JAX raises, where an episode in the block failed, into one line that says what happened.

    Raises:
        ChildProcessError: a worker process died twice in the same episode, or the environment raised an
            exception.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, RuntimeError) as error:
        if problem.log is None or not problem.log.faults:
            raise
        fault = problem.log.faults[-1]
        what = " ".join(described(fault.error).split())
        if fault.kind == "death":
            raise ChildProcessError(
                f"environment={config.environment!r}: a worker died twice in the same episode ({what}), "
                "perhaps for want of memory; make room, and go on by --resume"
            ) from error
        raise ChildProcessError(
            f"environment={config.environment!r} failed in an episode: {what}; correct it, and go on by "
            "--resume"
        ) from error


def normalisation(known: Moments | None) -> dict[str, Any]:
    """Returns what a policy's observations are normalised with, by name: mean and scale (D,), or nothing."""
    return {} if known is None else {"mean": known.mean, "scale": moments.scale(known)}
