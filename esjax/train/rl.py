"""Evolution strategies over all of a network's parameters: a policy for CartPole, from returns alone."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import esjax
from esjax.train import cartpole
from esjax.train.checks import require_one_of
from esjax.train.config import RLConfig

Array = jax.Array

SOLVED = 475.0
"""Mean return over 100 episodes at which CartPole-v1 counts as solved."""

_TEST_EPISODES = 100
_SEEDS = 2**31 - 1

BASELINES = {"rank": esjax.baselines.centered_rank, "leave-one-out": esjax.baselines.leave_one_out}
"""By the names that the command line knows."""


class Generation(NamedTuple):
    """One step of the optimiser.

    Attributes:
        number: steps so far, from 1 on.
        episodes: episodes trained on so far, those of tests not counted.
        population_return: mean return of the perturbed policies.
        test_return: mean return of the policy itself over 100 other episodes.
        params: the policy's parameters.
    """

    number: int
    episodes: int
    population_return: float
    test_return: float
    params: cartpole.Params


def train(config: RLConfig) -> Iterator[Generation]:
    """Yields generations until one is solved, or all are done.

    All policies of a generation play the same episode: the differences between their returns are their own.

    Raises:
        ModuleNotFoundError: gymnasium is not installed.
    """
    with _executor(config) as executor:
        block = returns(config.environment, executor)
        step = jax.jit(make_step(config, block))
        test = jax.jit(lambda key, params: mean_return(block, jax.random.clone(key), params))
        test_key, first_key, keys = jax.random.split(jax.random.key(config.seed), 3)
        params = cartpole.init_policy(first_key)
        state = optax.adam(config.learning_rate).init(params)
        for number, key in enumerate(jax.random.split(keys, config.generations), 1):
            params, state, value = step(params, state, key)
            tested = float(test(test_key, params))
            yield Generation(number, number * config.population, float(value), tested, params)
            if tested >= SOLVED:
                return


def _executor(config: RLConfig) -> Any:
    if config.environment == "jax":
        return nullcontext()
    import gymnasium  # noqa: F401  # here, so that a worker need not say that it is missing

    return esjax.host.ProcessPool(config.workers)


def returns(environment: str, executor: Executor | None) -> Callable[[cartpole.Params, Any], Array]:
    """Returns the block: `(params, key) -> return ()` of an episode, in JAX or on the host.

    Raises:
        ValueError: `environment` is neither "gymnasium" nor "jax".
    """
    require_one_of("environment", environment, ("gymnasium", "jax"))
    if environment == "jax":
        return cartpole.episode
    on_host = esjax.host.wrap(cartpole.episode_on_host, np.float32(0), executor)
    return lambda params, key: on_host(params, jax.random.randint(key, (), 0, _SEEDS))


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
