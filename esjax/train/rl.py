"""Evolution strategies over all of a network's parameters: a policy for CartPole, from returns alone."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import esjax
from esjax.train import cartpole, checkpoint, folder
from esjax.train.checks import require_one_of
from esjax.train.config import RLConfig

Array = jax.Array

POLICY = "policy.npz"
"""The policy's parameters: arrays by their names, for `numpy.load`."""

SOLVED = 475.0
"""Mean return over 100 episodes at which CartPole-v1 counts as solved."""

_TEST_EPISODES = 100
_SEEDS = 2**31 - 1

BASELINES = {"rank": esjax.baselines.centered_rank, "leave-one-out": esjax.baselines.leave_one_out}
"""The baselines by the names that the command line knows."""


class Generation(NamedTuple):
    """One step of the optimiser.

    Attributes:
        number: steps so far; 0 before the first.
        episodes: episodes trained on so far, not counting those of tests.
        population_return: mean return of the perturbed policies.
        test_return: mean return of the policy itself over 100 other episodes.
        params: the policy's parameters.
        opt_state: the optimiser's state.
    """

    number: int
    episodes: int
    population_return: float
    test_return: float
    params: cartpole.Params
    opt_state: Any


def initial(config: RLConfig) -> Generation:
    """Returns the state before the first step."""
    params = cartpole.init_policy(_keys(config)[1])
    return Generation(0, 0, 0.0, 0.0, params, optax.adam(config.learning_rate).init(params))


def _keys(config: RLConfig) -> Any:
    """Returns the keys of the tests, of the first parameters and of all steps."""
    return jax.random.split(jax.random.key(config.seed), 3)


def train(config: RLConfig, *, since: Generation | None = None) -> Iterator[Generation]:
    """Yields generations until CartPole is solved, or all are done.

    All policies of a generation play the same episode, so that their returns differ by the policies alone.

    Args:
        config: the options.
        since: the generation to go on from, to the very same parameters. None: that of `initial`.

    Raises:
        ModuleNotFoundError: gymnasium is not installed.
    """
    number, _, _, tested, params, state = since or initial(config)
    with _executor(config) as executor:
        block = returns(config.environment, executor)
        step = jax.jit(make_step(config, block))
        test = jax.jit(lambda params: mean_return(block, _keys(config)[0], params))
        for key in jax.random.split(_keys(config)[2], config.generations)[number:]:
            if tested >= SOLVED:
                return
            params, state, value = step(params, state, key)
            number, tested = number + 1, float(test(params))
            yield Generation(number, number * config.population, float(value), tested, params, state)


def begin(config: RLConfig, path: Path) -> None:
    """Makes the folder `path` with the options in it, or nothing; see `folder.new`."""
    with folder.new(path) as part:
        folder.write_config(part, config)


def restore(config: RLConfig, path: Path) -> Generation:
    """Returns the last generation in the folder `path`, and removes later ones from its log.

    Raises:
        ValueError: a file is damaged.
    """
    first = initial(config)
    found = checkpoint.restore(path / folder.CHECKPOINTS, first) or first
    folder.keep_lines(path, int(found.number))
    return found._replace(
        number=int(found.number),
        episodes=int(found.episodes),
        population_return=float(found.population_return),
        test_return=float(found.test_return),
    )


def finish(
    config: RLConfig,
    since: Generation,
    path: Path,
    *,
    on_generation: Callable[[Generation], None] = lambda generation: None,
) -> Generation:
    """Trains to the end, and leaves policy, log and checkpoints in the folder `path`; see `train`."""
    last = since
    for last in train(config, since=since):
        row = last._asdict()
        folder.append(path, {name: row[name] for name in Generation._fields[:4]})
        part = path / f"new-{POLICY}"
        np.savez(part, **last.params)
        part.replace(path / POLICY)
        checkpoint.save(path / folder.CHECKPOINTS, last.number, last)
        on_generation(last)
    return last


def _executor(config: RLConfig) -> Any:
    if config.environment == "jax":
        return nullcontext()
    import gymnasium  # noqa: F401  # to fail here, not in a worker

    return esjax.host.ProcessPool(config.workers)


def returns(environment: str, executor: Executor | None) -> Callable[[cartpole.Params, Any], Array]:
    """Returns the block: `(params, key) -> return ()` of an episode, in JAX or on the host.

    Raises:
        ValueError: `environment` is neither "gymnasium" nor "jax".
    """
    require_one_of("environment", environment, ("gymnasium", "jax"))
    if environment == "jax":
        return cartpole.episode
    play = _play if isinstance(executor, esjax.host.ProcessPool) else cartpole.episode_on_host
    on_host = esjax.host.wrap(play, np.float32(0), executor)
    return lambda params, key: on_host(params, jax.random.randint(key, (), 0, _SEEDS))


def _play(params: cartpole.Params, seed: Any) -> np.float32:
    """Plays an episode in a worker; Ctrl-C, which reaches it too, is left to its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return cartpole.episode_on_host(params, seed)


def make_step(config: RLConfig, block: Callable[..., Array]) -> Callable[..., Any]:
    """Makes `(params, state, key) -> (params, state, mean return)`, a step of Adam up the smoothed return."""
    smoothed = esjax.smooth(
        block, sigma=config.sigma, num_samples=config.population, baseline=BASELINES[config.baseline]
    )
    optimizer = optax.adam(config.learning_rate)

    def step(params: cartpole.Params, state: Any, key: Any) -> tuple[cartpole.Params, Any, Array]:
        noise_key, episode_key = jax.random.split(key)
        value, gradient = jax.value_and_grad(smoothed, argnums=1)(noise_key, params, episode_key)
        updates, state = optimizer.update(jax.tree.map(jnp.negative, gradient), state, params)
        return optax.apply_updates(params, updates), state, value

    return step


def mean_return(block: Callable[..., Array], key: Any, params: cartpole.Params) -> Array:
    """Returns the mean return () over 100 episodes."""
    return jax.vmap(block, (None, 0))(params, jax.random.split(key, _TEST_EPISODES)).mean()
