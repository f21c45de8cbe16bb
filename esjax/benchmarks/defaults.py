"""`python -m esjax.benchmarks.defaults`: is the default σ of training any good, and does it lose a class?

Accuracy is trained with σ from `esjax.sigma.from_logits` over a grid of factors around the
default 10, for clean and noisy labels and several scales of the last layer's initial weights.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro
from flax import nnx

from esjax.train import loop, models, objectives, run, step, tables
from esjax.train.config import Network, TrainConfig
from esjax.train.data import Dataset, load, with_label_noise

_DEFAULT = 10.0


@dataclass(frozen=True, kw_only=True)
class Study:
    """What to train, and how often."""

    data: str = "digits"
    """As for `esjax train`."""
    network: Network = "mlp"
    epochs: int = 100
    seeds: int = 20
    """Runs with the default factor."""
    grid_seeds: int = 3
    """Runs with each of the other factors, with the first of the same seeds."""
    factors: tuple[float, ...] = (1.0, 3.0, 30.0, 100.0)
    """The grid, beside the default factor."""
    label_noise: tuple[float, ...] = (0.0, 0.4)
    scales: tuple[float, ...] = (0.1, 1.0, 10.0)
    """What the last layer's initial weights are multiplied by."""
    out: Path | None = None
    """A file to which each run is added as a line of JSON."""


class Trained(NamedTuple):
    """One run.

    Attributes:
        label_noise: share of random training labels.
        scale: of the last layer's initial weights.
        factor: of `from_logits`.
        seed: of everything random.
        test_accuracy: after the last epoch.
        lost: number of classes of which no test example is right after the last epoch.
    """

    label_noise: float
    scale: float
    factor: float
    seed: int
    test_accuracy: float
    lost: int


def main(study: Study) -> None:
    """Trains all runs and prints the table."""
    rows = []
    for row in trained(study):
        rows.append(row)
        if study.out is not None:
            with study.out.open("a") as file:
                file.write(json.dumps({"data": study.data, "network": study.network, **row._asdict()}) + "\n")
    print(f"{study.data}, {study.network}, {study.epochs} epochs\n\n{markdown(rows)}")


def trained(study: Study) -> Iterator[Trained]:
    """Yields the runs as they end; all share one compiled step, of which σ is an argument."""
    data = load(study.data)
    config = TrainConfig(data=study.data, network=study.network, epochs=study.epochs)
    like = _network(study, data, seed=0, scale=1.0)
    optimizer = run.optimizer(config, len(data.train_labels))

    @jax.jit
    def step_of(sigma: Any, state: step.State, batch: step.Batch, key: Any) -> Any:
        objective = objectives.SMOOTHED["accuracy", "es"](sigma, config)
        return step.make_trainer(like, objective, optimizer)[0].step(state, batch, key)

    logits_of = step.make_trainer(like, objectives.cross_entropy, optimizer)[0].logits
    for label_noise in study.label_noise:
        for scale in study.scales:
            for seed in range(study.seeds):
                network = _network(study, data, seed=seed, scale=scale)
                noisy = with_label_noise(data, label_noise, seed=seed)
                state = step.make_trainer(network, objectives.cross_entropy, optimizer)[1]
                default = run.initial_sigma(network, data)
                for factor in (_DEFAULT, *(study.factors if seed < study.grid_seeds else ())):
                    sigma = default * (factor / _DEFAULT)
                    trainer = step.Trainer(partial(step_of, sigma), logits_of)
                    epoch = _last(trainer, state, noisy, config, seed)
                    yield Trained(
                        label_noise, scale, factor, seed, epoch.test_accuracy, len(epoch.lost_classes)
                    )


def _network(study: Study, data: Dataset, *, seed: int, scale: float) -> models.Network:
    make = models.NETWORKS[study.network]
    network = make(data.train_images.shape[1:], data.num_classes, rngs=nnx.Rngs(seed))
    network.logits.kernel[...] *= scale
    return network


def _last(
    trainer: step.Trainer, state: step.State, data: Dataset, config: TrainConfig, seed: int
) -> loop.Epoch:
    for _, epoch in loop.epochs(  # noqa: B007  # the last one is what is wanted
        trainer, state, data, num_epochs=config.epochs, batch_size=config.batch_size, seed=seed
    ):
        pass
    return epoch


def markdown(rows: Sequence[Trained]) -> str:
    """Returns a table: for each share of noise and scale, the default beside the best of the grid."""
    cells = dict.fromkeys((row.label_noise, row.scale) for row in rows)
    summaries = [_summarise([row for row in rows if (row.label_noise, row.scale) == cell]) for cell in cells]
    columns: dict[str, Callable[[_Cell], Any]] = {
        "random labels": lambda cell: f"{cell.label_noise:.0%}",
        "initial scale": lambda cell: f"{cell.scale:g}",
        "runs": lambda cell: cell.lost[_DEFAULT][1],
        "test accuracy": lambda cell: tables.percent(cell.accuracy),
        "runs that lost a class": lambda cell: cell.lost[_DEFAULT][0],
        "best factor": lambda cell: f"{cell.best:g}",
        "default − best, points": lambda cell: f"{cell.points:.1f}",
        "lost a class, by factor": lambda cell: ", ".join(
            f"{f:g}: {n}/{m}" for f, (n, m) in cell.lost.items()
        ),
    }
    return tables.markdown(summaries, columns)


class _Cell(NamedTuple):
    """What the table says about the runs with one share of random labels and one initial scale.

    Attributes:
        label_noise: share of random training labels.
        scale: of the last layer's initial weights.
        accuracy: of the default factor: mean and its standard error.
        best: the factor of the highest mean accuracy, over the seeds that all factors have.
        points: mean accuracy of the default factor less that of the best, in percentage points.
        lost: by factor, the runs that lost a class, and all runs.
    """

    label_noise: float
    scale: float
    accuracy: tuple[float, float]
    best: float
    points: float
    lost: dict[float, tuple[int, int]]


def _summarise(rows: Sequence[Trained]) -> _Cell:
    by_factor = {f: [row for row in rows if row.factor == f] for f in sorted({row.factor for row in rows})}
    shared = min(len(runs) for runs in by_factor.values())
    means = {f: np.mean([row.test_accuracy for row in runs[:shared]]) for f, runs in by_factor.items()}
    best = max(means, key=lambda factor: means[factor])
    accuracies = [row.test_accuracy for row in by_factor[_DEFAULT]]
    return _Cell(
        label_noise=rows[0].label_noise,
        scale=rows[0].scale,
        accuracy=tables.mean_and_error(accuracies),
        best=best,
        points=100 * float(means[_DEFAULT] - means[best]),
        lost={f: (sum(row.lost > 0 for row in runs), len(runs)) for f, runs in by_factor.items()},
    )


if __name__ == "__main__":
    main(tyro.cli(Study))
