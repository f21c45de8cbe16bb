"""`python -m esjax.benchmarks.control`: Swimmer by a linear policy, beside augmented random search (ARS).

All contenders have the same environment, policy, worker processes and number of training episodes, and their
last policies play the same episodes, which no other policy has played. ARS is that of Mania et al. 2018
(arXiv 1803.07055), algorithms 1 and 2: steps along differences of returns at ±ν δ, over their standard
deviation, of the b best of N directions; V2 normalises observations as `esjax.train.moments` does. (Here, its
actions are clipped to their bounds, too.) The last of the three was chosen on other seeds, as esjax's options
were.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro

import esjax
from esjax.train import control, environments, episodes, moments, rl, tables
from esjax.train.config import RLConfig
from esjax.train.episodes import Played

_TEST = 20
"""Episodes of each test on the way."""

_SEEDS = 2**31 - 1

Policy = tuple[episodes.Params, Any, Any]  # parameters, and the mean and scale of observations


class ARS(NamedTuple):
    """Augmented random search.

    Attributes:
        step: α.
        noise: ν, standard deviation of the perturbations.
        directions: N, two episodes each.
        top: b, how many of them make the step.
        normalises: whether observations are normalised: V2.
    """

    step: float
    noise: float
    directions: int
    top: int
    normalises: bool


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains each contender on several seeds, and prints a table of the returns of their last policies.

    Attributes:
        environment: of Gymnasium, with real actions.
        seeds: how many, at least 2.
        first_seed: the first of them.
        num_episodes: of training, for each seed.
        target: the return that is waited for.
        workers: processes.
    """

    environment: str = "Swimmer-v5"
    seeds: int = 3
    first_seed: int = 0
    num_episodes: int = 500
    target: float = 325.0
    workers: int = 2


def main(options: Options) -> None:
    """Prints the table."""
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    rows = []
    with esjax.host.ProcessPool(options.workers) as pool:
        for name, contender in _contenders(options).items():
            found = [_of_seed(options, pool, contender, seed) for seed in seeds]
            rows.append((name, [returns for returns, _ in found], [first for _, first in found]))
    columns: dict[str, Callable[[Any], Any]] = {
        "": lambda row: row[0],
        **{f"seed {seed}": partial(_mean_of, number) for number, seed in enumerate(seeds)},
        f"episodes until {options.target:g}": lambda row: ", ".join(map(_number, row[2])),
    }
    print(tables.markdown(rows, columns))


def _mean_of(number: int, row: Any) -> str:
    return "{:.1f} ± {:.1f}".format(*tables.mean_and_error(row[1][number]))


def _number(episodes: float) -> str:
    return f"{episodes:.0f}" if math.isfinite(episodes) else "never"


Contender = Callable[[Any, int], Iterator[tuple[int, Policy]]]


def _contenders(options: Options) -> dict[str, Contender]:
    config = RLConfig(
        environment=options.environment,
        hidden=0,
        population=4,
        learning_rate=0.05,
        generations=options.num_episodes // 4,
        target=math.nextafter(math.inf, 0),
        test_every=options.num_episodes,
        test_episodes=2,
    )
    return {
        "esjax": partial(_with_esjax, config),
        "ARS V1, α = ν = 0.02": partial(_with_ars, options, ARS(0.02, 0.02, 1, 1, False)),
        "ARS V2, α = ν = 0.02": partial(_with_ars, options, ARS(0.02, 0.02, 1, 1, True)),
        "ARS V2, α = 0.05, ν = 0.1": partial(_with_ars, options, ARS(0.05, 0.1, 1, 1, True)),
    }


def _of_seed(options: Options, pool: Any, contender: Contender, seed: int) -> tuple[list[float], float]:
    """Returns 100 returns of the last policy, and the training episodes until a test reached the target."""
    first, tested = math.inf, 0
    for trained, policy in contender(pool, seed):
        if trained - tested >= 50:
            tested = trained
            if np.mean(_returns(options, pool, policy, _TEST, seed=2 * seed)) >= options.target:
                first = min(first, trained)
    return _returns(options, pool, policy, 100, seed=2 * seed + 1), first


def _returns(options: Options, pool: Any, policy: Policy, count: int, *, seed: int) -> list[float]:
    seeds = np.random.default_rng((seed, _SEEDS)).integers(_SEEDS, size=count)
    return [float(played.total) for played in _played(options, pool, [(policy, each) for each in seeds])]


def _played(options: Options, pool: Any, policies: list[tuple[Policy, Any]]) -> list[Played]:
    play = partial(episodes.play_in_worker, options.environment)
    futures = [pool.submit(play, *jax.tree.map(np.asarray, policy), seed) for policy, seed in policies]
    return [future.result() for future in futures]


def _with_esjax(config: RLConfig, pool: Any, seed: int) -> Iterator[tuple[int, Policy]]:
    config = dataclasses.replace(config, seed=seed)
    for each in rl.generations(config, control.problem(config, pool), rl.initial(config)):
        if each.moments is not None:
            yield each.episodes, (each.params, each.moments.mean, moments.scale(each.moments))


def _with_ars(options: Options, ars: ARS, pool: Any, seed: int) -> Iterator[tuple[int, Policy]]:
    found = environments.look_at(options.environment)
    known = moments.initial(np.zeros(found.num_inputs))
    weights = np.zeros((found.num_inputs, found.num_outputs))
    rng = np.random.default_rng(seed)
    for number in range(options.num_episodes // (2 * ars.directions)):
        seen = known.mean, moments.scale(known)
        deltas = rng.standard_normal((ars.directions, *weights.shape))
        policies = [
            ({"last": weights + sign * ars.noise * delta}, *seen) for delta in deltas for sign in (1, -1)
        ]
        seeds = rng.integers(_SEEDS, size=len(policies))
        played = _played(options, pool, list(zip(policies, seeds, strict=True)))
        returns = np.array([each.total for each in played], float).reshape(-1, 2)
        best = np.argsort(-returns.max(1))[: ars.top]
        differences = returns[best, 0] - returns[best, 1]
        step = np.tensordot(differences, deltas[best], 1) / (ars.top * returns[best].std())
        weights = weights + ars.step * step
        if ars.normalises:
            known = moments.merged(known, _mean(played), len(played))
        yield 2 * ars.directions * (number + 1), ({"last": weights}, known.mean, moments.scale(known))


def _mean(played: list[Played]) -> Played:
    return Played(*(np.mean(values, 0, np.float32) for values in zip(*played, strict=True)))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
