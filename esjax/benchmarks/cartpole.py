"""`python -m esjax.benchmarks.cartpole`: episodes until CartPole is solved, beside evosax's OpenES.

The same policy, first parameters, population, σ, optimiser and episodes for each generation, in JAX; CartPole
counts as solved once the policy's mean return over 100 other episodes is at least 475.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from evosax.algorithms import Open_ES
from jax.flatten_util import ravel_pytree

from esjax.train import cartpole, rl, tables
from esjax.train.config import RLConfig

Array = jax.Array


def main(num_seeds: int = 256, config: RLConfig = RLConfig()) -> None:  # noqa: B008  # frozen
    """Prints the table."""
    contenders: dict[str, Callable[..., Array]] = {"evosax, OpenES": partial(_with_evosax, config)}
    for baseline in rl.BASELINES:
        chosen: Any = {"baseline": baseline}
        contenders[f"esjax, {baseline}"] = partial(_with_esjax, dataclasses.replace(config, **chosen))
    print(f"jax {jax.__version__}; population {config.population}, sigma {config.sigma}, {num_seeds} seeds\n")
    rows = []
    for name, contender in contenders.items():
        tested = np.array(jax.jit(jax.vmap(contender))(jax.random.split(jax.random.key(0), num_seeds)))
        solved = tested >= rl.SOLVED
        generations = np.where(solved.any(1), solved.argmax(1) + 1, config.generations)
        episodes = config.population * generations
        rows.append((name, episodes, (~solved.any(1)).sum()))
    columns: dict[str, Callable[[Any], Any]] = {
        "": lambda row: row[0],
        "episodes until solved, mean": lambda row: "{:.0f} ± {:.0f}".format(*tables.mean_and_error(row[1])),
        "median": lambda row: f"{np.median(row[1]):.0f}",
        "never solved": lambda row: row[2],
    }
    print(tables.markdown(rows, columns))


def _with_esjax(config: RLConfig, key: Any) -> Array:
    """Returns the test returns (generations,) of one seed."""
    params, test, keys = _start(config, key)
    step = rl.make_step(config, cartpole.episode)

    def generation(carry: Any, key: Any) -> Any:
        params, state, _ = step(*carry, key)
        return (params, state), test(params)

    return jax.lax.scan(generation, (params, optax.adam(config.learning_rate).init(params)), keys)[1]


def _with_evosax(config: RLConfig, key: Any) -> Array:
    params, test, keys = _start(config, key)
    vector, unravel = ravel_pytree(params)
    strategy = Open_ES(
        config.population,
        vector,
        optimizer=optax.adam(config.learning_rate),
        std_schedule=optax.constant_schedule(config.sigma),
    )
    options = strategy.default_params
    state = strategy.init(key, vector, options).replace(mean=vector)

    def generation(state: Any, key: Any) -> Any:
        ask_key, episode_key, tell_key = jax.random.split(key, 3)
        population, state = strategy.ask(ask_key, state, options)
        fitness = jax.vmap(lambda vector: -cartpole.episode(unravel(vector), episode_key))(population)
        state, _ = strategy.tell(tell_key, population, fitness, state, options)
        return state, test(unravel(state.mean))

    return jax.lax.scan(generation, state, keys)[1]


def _start(config: RLConfig, key: Any) -> tuple[cartpole.Params, Callable[[cartpole.Params], Array], Array]:
    first_key, test_key, key = jax.random.split(key, 3)
    test = partial(rl.mean_return, cartpole.episode, test_key)
    return cartpole.init_policy(first_key), test, jax.random.split(key, config.generations)


if __name__ == "__main__":
    main()
