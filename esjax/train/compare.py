"""Objectives side by side: same data, initial weights and batches, trained epoch by epoch in turn."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from esjax.train import loop, plot, run, tables
from esjax.train.config import CompareConfig
from esjax.train.loop import Epoch
from esjax.train.run import Run

CURVES = "comparison.png"
RESULTS = "results.json"
TABLE = "table.md"

Epochs = dict[str, list[list[Epoch]]]  # by objective, by seed


def set_up(config: CompareConfig, *, seed: int) -> dict[str, Run]:
    """Makes the runs of one seed, by objective; raises as `run.set_up` does, which finds all wrong input."""
    return {objective: run.set_up(config.of_run(objective, seed)) for objective in config.objectives}


def train(
    config: CompareConfig,
    first: dict[str, Run],
    *,
    on_step: Callable[[], None] = lambda: None,
    on_epoch: Callable[[str, int, Epoch], None] = lambda objective, seed, epoch: None,
) -> Epochs:
    """Trains all runs: for each seed an epoch of each objective in turn, so that times are comparable.

    Args:
        config: the options.
        first: the runs of seed 0, from `set_up`.
        on_step: called after each step.
        on_epoch: called with objective, seed and record after each epoch.
    """
    epochs: Epochs = {objective: [] for objective in config.objectives}
    for seed in range(config.seeds):
        runs = set_up(config, seed=seed) if seed else first
        for objective in runs:
            epochs[objective].append([])
        for turn in zip(*(run.stream(each, on_step=on_step) for each in runs.values()), strict=True):
            for objective, (_, epoch) in zip(runs, turn, strict=True):
                epochs[objective][-1].append(epoch)
                on_epoch(objective, seed, epoch)
    return epochs


class Row(NamedTuple):
    """What the table says about an objective; accuracies are means over seeds with their standard error.

    Attributes:
        objective: its name.
        kept: test accuracy of the weights that the held-out examples chose; of the last ones without any.
        last: test accuracy after the last epoch.
        best: largest test accuracy of any epoch: what early stopping would give if it looked at the
            test set's clean labels, so the most that honest early stopping could give.
        fitted: share of the training labels, wrong ones included, that the network got right in the last
            epoch.
        lost_classes: how many classes had recall 0 with the weights kept, over all seeds.
        milliseconds: median time of a step.
        relative_time: median over epochs of a step's time, divided by that of the quickest objective
            in the same epoch of the same seed.
    """

    objective: str
    kept: tuple[float, float]
    last: tuple[float, float]
    best: tuple[float, float]
    fitted: tuple[float, float]
    lost_classes: int
    milliseconds: float
    relative_time: float


def summarise(epochs: Epochs) -> list[Row]:
    """Makes the rows of the table, one for each objective."""
    seconds = {name: [e.seconds_per_step for seed in seeds for e in seed] for name, seeds in epochs.items()}
    quickest = min(seconds.values(), key=np.median)
    return [
        Row(
            objective=name,
            kept=tables.mean_and_error([loop.kept(seed).test_accuracy for seed in seeds]),
            last=tables.mean_and_error([seed[-1].test_accuracy for seed in seeds]),
            best=tables.mean_and_error([max(epoch.test_accuracy for epoch in seed) for seed in seeds]),
            fitted=tables.mean_and_error([seed[-1].train_accuracy for seed in seeds]),
            lost_classes=sum(len(loop.kept(seed).lost_classes) for seed in seeds),
            milliseconds=1e3 * float(np.median(seconds[name])),
            relative_time=float(np.median(np.divide(seconds[name], quickest))),
        )
        for name, seeds in epochs.items()
    ]


def markdown(rows: Sequence[Row]) -> str:
    """Returns the table in Markdown."""
    columns: dict[str, Callable[[Row], Any]] = {
        "objective": lambda row: row.objective,
        "test accuracy": lambda row: tables.percent(row.kept),
        "last epoch": lambda row: tables.percent(row.last),
        "best epoch": lambda row: tables.percent(row.best),
        "training labels met": lambda row: tables.percent(row.fitted),
        "lost classes": lambda row: row.lost_classes,
        "ms per step": lambda row: f"{row.milliseconds:.1f}",
        "relative time": lambda row: f"{row.relative_time:.2f}",
    }
    return tables.markdown(rows, columns)


def write(path: Path, config: CompareConfig, epochs: Epochs, title: str) -> None:
    """Writes table, numbers and picture into the folder `path`.

    Raises:
        OSError: it cannot be written to.
    """
    (path / TABLE).write_text(f"{title}\n\n{markdown(summarise(epochs))}", "utf-8")
    records = {name: [[e._asdict() for e in seed] for seed in seeds] for name, seeds in epochs.items()}
    results = {"config": dataclasses.asdict(config), "epochs": records}
    (path / RESULTS).write_text(json.dumps(results), "utf-8")
    plot.comparison(path / CURVES, epochs, title)
