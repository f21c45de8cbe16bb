"""`python -m esjax.benchmarks.defaults`: is the default σ of training any good, and does it lose a class?

Accuracy of standardised logits is trained with a grid of σ around the default, beside cross-entropy, for
several shares of random labels and scales of the last layer's initial weights. All runs hold a tenth of the
training set out, labels as they are: it chooses the epoch whose weights are tested and, of several learning
rates, one for each run.
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

import esjax
from esjax.train import loop, models, objectives, run, step, tables
from esjax.train.config import Estimator, Network, TrainConfig
from esjax.train.data import Dataset, hold_out, load, with_label_noise

_CROSS_ENTROPY = "cross-entropy"


@dataclass(frozen=True, kw_only=True)
class Study:
    """What to train, and how often."""

    data: str = "digits"
    """As for `esjax train`."""
    network: Network = "mlp"
    estimator: Estimator = "es"
    """As for `esjax train`."""
    epochs: int = 100
    batch_size: int = TrainConfig.batch_size
    seeds: int = 5
    sigmas: tuple[float, ...] = (0.5, 1.0, 4.0)
    """The grid, beside the default."""
    learning_rates: tuple[float, ...] = (TrainConfig.learning_rate,)
    label_noise: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6)
    scales: tuple[float, ...] = (0.1, 1.0, 10.0)
    """What the last layer's initial weights are multiplied by."""
    cross_entropy: bool = True
    """Whether it is trained, too."""
    out: Path | None = None
    """A file to which each run is added as a line of JSON."""


class Trained(NamedTuple):
    """One run.

    Attributes:
        label_noise: share of random training labels.
        scale: of the last layer's initial weights.
        method: σ as text, or cross-entropy.
        learning_rate: the peak.
        seed: of everything random.
        held_out: the score that the weights were kept for.
        test_accuracy: of the weights kept.
        last: test accuracy of the last epoch's weights.
        lost: number of classes of which the weights kept get no test example right.
        signal_to_noise: of a step in the last epoch; None without samples.
        drop: the most that test accuracy fell below an earlier one, after a tenth of the run.
    """

    label_noise: float
    scale: float
    method: str
    learning_rate: float
    seed: int
    held_out: float
    test_accuracy: float
    last: float
    lost: int
    signal_to_noise: float | None
    drop: float


def main(study: Study) -> None:
    """Trains all runs and prints the table."""
    rows = []
    for row in trained(study):
        rows.append(row)
        if study.out is not None:
            with study.out.open("a") as file:
                about = {"data": study.data, "network": study.network, "estimator": study.estimator}
                file.write(json.dumps(about | row._asdict()) + "\n")
    print(f"{study.data}, {study.network}, {study.estimator}, {study.epochs} epochs\n\n{markdown(rows)}")


def trained(study: Study) -> Iterator[Trained]:
    """Yields the runs as they end; those of a learning rate share one program, of which σ is an argument."""
    data = load(study.data)
    sigmas = sorted({esjax.sigma.for_standardised(data.num_classes), *study.sigmas})
    methods = [f"{sigma:g}" for sigma in sigmas] + [_CROSS_ENTROPY] * study.cross_entropy
    trainers = {rate: _trainers(study, data, rate, methods) for rate in study.learning_rates}
    for label_noise in study.label_noise:
        for scale in study.scales:
            for seed in range(study.seeds):
                noisy = _held_out(with_label_noise(data, label_noise, seed=seed), seed)
                network = _network(study, data, seed=seed, scale=scale)
                for rate in study.learning_rates:
                    optimizer = _optimizer(study, noisy, rate)
                    _, state = step.make_trainer(network, objectives.cross_entropy, optimizer)
                    for method in methods:
                        found = _trained(study, trainers[rate][method], state, noisy, seed)
                        yield Trained(label_noise, scale, method, rate, seed, *found)


def _held_out(data: Dataset, seed: int) -> Dataset:
    return hold_out(data, TrainConfig.held_out, seed=seed)


def _optimizer(study: Study, data: Dataset, rate: float) -> Any:
    config = TrainConfig(epochs=study.epochs, batch_size=study.batch_size, learning_rate=rate)
    return run.optimizer(config, len(data.train_labels))


def _trainers(study: Study, data: Dataset, rate: float, methods: Sequence[str]) -> dict[str, step.Trainer]:
    """Returns a trainer by the name of its method."""
    optimizer = _optimizer(study, _held_out(data, seed=0), rate)
    like = _network(study, data, seed=0, scale=1.0)
    config = TrainConfig(network=study.network)

    @jax.jit
    def step_of(sigma: Any, state: step.State, batch: step.Batch, key: Any) -> Any:
        objective = objectives.standardised(objectives.SMOOTHED["accuracy", study.estimator](sigma, config))
        return step.make_trainer(like, objective, optimizer)[0].step(state, batch, key)

    plain = step.make_trainer(like, objectives.cross_entropy, optimizer)[0]
    return {
        method: plain
        if method == _CROSS_ENTROPY
        else step.Trainer(partial(step_of, np.float32(method)), plain.logits)
        for method in methods
    }


def _network(study: Study, data: Dataset, *, seed: int, scale: float) -> models.Network:
    make = models.NETWORKS[study.network]
    network = make(data.train_images.shape[1:], data.num_classes, rngs=nnx.Rngs(seed))
    network.logits.kernel[...] *= scale
    return network


def _trained(
    study: Study, trainer: step.Trainer, state: step.State, data: Dataset, seed: int
) -> tuple[float, float, float, int, float | None, float]:
    """Returns what `Trained` says of a run from `held_out` on."""
    stream = loop.epochs(
        trainer, state, data, num_epochs=study.epochs, batch_size=study.batch_size, seed=seed
    )
    history = list(stream)
    epochs = [epoch for _, epoch in history]
    kept, last = loop.kept(epochs), epochs[-1]
    late = np.array([epoch.test_accuracy for epoch in epochs[study.epochs // 10 :]])
    drop = float((np.maximum.accumulate(late) - late).max())
    chosen = history[-1][0].kept
    assert chosen is not None  # something is held out
    accuracies = kept.test_accuracy, last.test_accuracy
    return float(chosen.best), *accuracies, len(kept.lost_classes), last.signal_to_noise, drop


# --- the table ---------------------------------------------------------------------------------------


class _Cell(NamedTuple):
    """What the table says about a method, a share of random labels and an initial scale.

    Attributes:
        rows: one run for each seed: the learning rate of the best score on what was held out.
        points: their mean accuracy less that of the best σ of the grid, in percentage points.
        over_cross_entropy: mean of the paired differences in points, and its standard error; None without.
    """

    rows: list[Trained]
    points: float
    over_cross_entropy: tuple[float, float] | None


def markdown(rows: Sequence[Trained]) -> str:
    """Returns a table: for each share of noise and scale a row for each method."""
    columns: dict[str, Callable[[_Cell], Any]] = {
        "random labels": lambda cell: f"{cell.rows[0].label_noise:.0%}",
        "initial scale": lambda cell: f"{cell.rows[0].scale:g}",
        "σ": lambda cell: cell.rows[0].method,
        "test accuracy": lambda cell: _mean(cell, "test_accuracy"),
        "last epoch": lambda cell: _mean(cell, "last"),
        "less the best σ, points": lambda cell: f"{cell.points:.1f}",
        "less cross-entropy, points": lambda cell: _points(cell.over_cross_entropy),
        "runs that lost a class": lambda cell: f"{sum(r.lost > 0 for r in cell.rows)} of {len(cell.rows)}",
        "signal-to-noise at the end": _signal_to_noise,
        "largest drop": lambda cell: f"{max(row.drop for row in cell.rows):.1%}",
    }
    return tables.markdown(_cells(rows), columns)


def _cells(rows: Sequence[Trained]) -> list[_Cell]:
    found = []
    for noise, scale in dict.fromkeys((row.label_noise, row.scale) for row in rows):
        here = [row for row in rows if (row.label_noise, row.scale) == (noise, scale)]
        methods = {name: _of_method(here, name) for name in dict.fromkeys(row.method for row in here)}
        means = {
            name: np.mean([row.test_accuracy for row in each])
            for name, each in methods.items()
            if name != _CROSS_ENTROPY
        }
        plain = methods.get(_CROSS_ENTROPY)
        for each in methods.values():
            points = 100 * float(np.mean([row.test_accuracy for row in each]) - max(means.values()))
            found.append(_Cell(each, points, _paired(each, plain)))
    return found


def _of_method(rows: Sequence[Trained], method: str) -> list[Trained]:
    """Returns, for each seed, the run whose learning rate did best on what was held out."""
    own = [row for row in rows if row.method == method]
    return [
        max((row for row in own if row.seed == seed), key=lambda row: row.held_out)
        for seed in dict.fromkeys(row.seed for row in own)
    ]


def _paired(rows: list[Trained], others: list[Trained] | None) -> tuple[float, float] | None:
    if others is None or rows is others:
        return None
    pairs = zip(rows, others, strict=True)
    return tables.mean_and_error([100 * (one.test_accuracy - other.test_accuracy) for one, other in pairs])


def _mean(cell: _Cell, name: str) -> str:
    return tables.percent(tables.mean_and_error([getattr(row, name) for row in cell.rows]))


def _points(found: tuple[float, float] | None) -> str:
    return "-" if found is None else f"{found[0]:.2f} ± {found[1]:.2f}"


def _signal_to_noise(cell: _Cell) -> str:
    known = [row.signal_to_noise for row in cell.rows if row.signal_to_noise is not None]
    return f"{np.median(known):.2f}" if known else "-"


if __name__ == "__main__":
    main(tyro.cli(Study))
