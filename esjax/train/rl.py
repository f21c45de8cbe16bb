"""Evolution strategies over all of a policy's parameters: CartPole, or any environment of Gymnasium."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

import esjax
from esjax.train import checkpoint, control, folder, plot, tables
from esjax.train.config import RLConfig
from esjax.train.control import SOLVED as SOLVED
from esjax.train.control import Problem
from esjax.train.control import returns as returns
from esjax.train.episodes import Params
from esjax.train.moments import Moments

Array = jax.Array

POLICY = "policy.npz"
"""The policy's parameters: arrays by their names, for `numpy.load`."""

RESULT = "result.json"
"""Returns of the last policy in episodes that played no part in training or in when it ended."""

BASELINES = {"rank": esjax.baselines.centered_rank, "leave-one-out": esjax.baselines.leave_one_out}
"""The baselines by the names that the command line knows."""


class Generation(NamedTuple):
    """One step of the optimiser.

    Attributes:
        number: steps so far; 0 before the first.
        episodes: episodes trained on so far, not counting those of tests.
        population_return: mean return of the perturbed policies.
        test_return: mean return of the policy itself over other episodes; NaN where it was not tested.
        params: the policy's parameters.
        opt_state: the optimiser's state.
        moments: of all observations so far, which those to come are normalised with; None on CartPole.
    """

    number: int
    episodes: int
    population_return: float
    test_return: float
    params: Params
    opt_state: Any
    moments: Moments | None


def initial(config: RLConfig) -> Generation:
    """Returns the state before the first step; raises as `control.start` does."""
    params, moments = control.start(config, _keys(config)[1])
    return Generation(0, 0, 0.0, math.nan, params, optimizer(config).init(params), moments)


def optimizer(config: RLConfig) -> optax.GradientTransformation:
    """Returns Adam with the options' learning rate."""
    return optax.adam(config.learning_rate)


def _keys(config: RLConfig) -> Any:
    """Returns the keys of the tests, of the first parameters, of all steps and of the last episodes."""
    return jax.random.split(jax.random.key(config.seed), 4)


def train(config: RLConfig, *, since: Generation | None = None) -> Iterator[Generation]:
    """Yields generations until the environment is solved, or all are done.

    All policies of a generation play the same episode, so that their returns differ by the policies alone.

    Args:
        config: the options.
        since: the generation to go on from, to the very same parameters. None: that of `initial`.

    Raises:
        ModuleNotFoundError: Gymnasium, or what the environment needs, is not installed.
        ValueError: there is no such environment, or a policy here cannot see or act in it.
        ChildProcessError: a worker process died twice in the same episode, or the environment raised an
            exception.
        FloatingPointError: a return is not finite.
    """
    first = since or initial(config)
    with opened(config) as problem:
        yield from generations(config, problem, first)


@contextmanager
def opened(config: RLConfig) -> Iterator[Problem]:
    """Yields what is to be solved, whose worker processes end with the block."""
    on_host = config.environment != "jax"
    with esjax.host.ProcessPool(config.workers) if on_host else nullcontext() as executor:
        yield control.problem(config, executor)


def generations(config: RLConfig, problem: Problem, since: Generation) -> Iterator[Generation]:
    """Yields generations as `train` does, with workers that are there already.

    Raises:
        ChildProcessError: a worker process died twice in the same episode, or the environment raised an
            exception.
        FloatingPointError: a return is not finite.
    """
    step = jax.jit(make_step(config, problem.block))
    test = jax.jit(partial(mean_return, problem.block, num_episodes=config.test_episodes))
    last, every = since, config.tested_every()
    for key in jax.random.split(_keys(config)[2], config.generations)[since.number :]:
        if last.test_return >= problem.target:
            return
        number = last.number + 1
        is_tested = number % every == 0 or number == config.generations
        with control.faults_named(config, problem):
            params, state, played = step(last.params, last.opt_state, key, last.moments)
            moments = problem.observe(last.moments, played)
            tested = float(test(_keys(config)[0], params, moments)) if is_tested else math.nan
            found = float(played.total)
        if not math.isfinite(found) or (is_tested and not math.isfinite(tested)):
            raise FloatingPointError(f"generation {number}: a return of {config.environment} is not finite")
        last = Generation(number, number * config.population, found, tested, params, state, moments)
        yield last


def begin(config: RLConfig, path: Path) -> None:
    """Makes the folder `path` with the options in it, or nothing.

    Raises:
        OSError: the folder cannot be made; see `folder.new`.
        ModuleNotFoundError, ValueError: as for `initial`.
    """
    folder.check_new(path)
    initial(config)
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


class Result(NamedTuple):
    """What a run ended with.

    Attributes:
        last: the last generation.
        returns: of its policy in episodes that played no part in training or in when it ended, (episodes,).
        target: the mean return at which training ends; ∞ where it never does.
    """

    last: Generation
    returns: NDArray[np.float32]
    target: float


def finish(
    config: RLConfig,
    since: Generation,
    path: Path,
    *,
    on_generation: Callable[[Generation], None] = lambda generation: None,
) -> Result:
    """Trains to the end, and leaves policy, log, checkpoints, result and picture in `path`; see `train`."""
    last = since
    with opened(config) as problem:
        for last in generations(config, problem, since):
            folder.append(path, _logged(last))
            _write_policy(path, last)
            checkpoint.save(path / folder.CHECKPOINTS, last.number, last)
            on_generation(last)
        found = evaluate(config, problem, last)
    _write_result(config, path, Result(last, found, problem.target))
    return Result(last, found, problem.target)


def _logged(last: Generation) -> dict[str, Any]:
    row = {name: getattr(last, name) for name in Generation._fields[:4]}
    return row | {"test_return": None if math.isnan(last.test_return) else last.test_return}


def _write_policy(path: Path, last: Generation) -> None:
    part = path / f"new-{POLICY}"
    np.savez(part, **last.params, **control.normalisation(last.moments))
    part.replace(path / POLICY)


def _write_result(config: RLConfig, path: Path, result: Result) -> None:
    mean, error = tables.mean_and_error(result.returns)
    values = {
        "environment": config.environment,
        "training_episodes": result.last.episodes,
        "mean_return": mean,
        "standard_error": error,
        "returns": result.returns.tolist(),
    }
    part = path / f"new-{RESULT}"
    part.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
    part.replace(path / RESULT)
    rows = [json.loads(line) for line in folder.lines(path)]
    title = f"{config.environment}: {mean:.1f} ± {error:.1f} over {len(result.returns)} episodes at the end"
    plot.learning(path / folder.CURVES, rows, result.target, title)


def evaluate(config: RLConfig, problem: Problem, last: Generation) -> NDArray[np.float32]:
    """Returns the policy's returns in episodes of their own, (test_episodes,).

    Raises:
        ChildProcessError: a worker process died twice in the same episode, or the environment raised an
            exception.
    """
    every = jax.jit(partial(all_returns, problem.block, num_episodes=config.test_episodes))
    with control.faults_named(config, problem):
        return np.asarray(every(_keys(config)[3], last.params, last.moments))


def make_step(config: RLConfig, block: Callable[..., Any]) -> Callable[..., Any]:
    """Makes `(params, state, key, *args) -> (params, state, played)`, a step of Adam up the smoothed return.

    Args:
        config: the options.
        block: `block(params, *args, key)`: a return (), or a pytree whose first array it is. `played` is the
            mean of all that over the population.
    """
    smoothed = esjax.smooth(
        block,
        sigma=config.sigma,
        num_samples=config.population,
        baseline=BASELINES[config.baseline],
        chunk_size=config.population,  # all workers have work to the end
    )

    def step(params: Params, state: Any, key: Any, *args: Any) -> tuple[Params, Any, Any]:
        noise_key, episode_key = jax.random.split(key)

        def total(params: Params) -> tuple[Array, Any]:
            played = smoothed(noise_key, params, *args, episode_key)
            return _return_of(played), played

        (_, played), gradient = jax.value_and_grad(total, has_aux=True)(params)
        updates, state = optimizer(config).update(jax.tree.map(jnp.negative, gradient), state, params)
        return optax.apply_updates(params, updates), state, played

    return step


def _return_of(played: Any) -> Any:
    return jax.tree.leaves(played)[0]


def all_returns(
    block: Callable[..., Any], key: Any, params: Params, *args: Any, num_episodes: int = 100
) -> Array:
    """Returns the returns of the policy in several episodes, (num_episodes,)."""
    keys = jax.random.split(key, num_episodes)
    return jax.vmap(lambda key: _return_of(block(params, *args, key)))(keys)


def mean_return(
    block: Callable[..., Any], key: Any, params: Params, *args: Any, num_episodes: int = 100
) -> Array:
    """Returns the mean return () over several episodes."""
    return all_returns(block, key, params, *args, num_episodes=num_episodes).mean()
