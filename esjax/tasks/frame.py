"""What all tasks share: seeds, a table with standard errors, a picture, and a choice of options by folds."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from esjax.train import tables
from esjax.train.checks import require_at_least
from esjax.train.plot import new_figure

PICTURE = "comparison.png"
RESULTS = "results.json"
TABLE = "table.md"


class Task(NamedTuple):
    """A metric on a data set, and the ways to train for it.

    Attributes:
        title: what is measured, and on what.
        baseline: the method that ours has to beat.
        ours: the method that trains on the metric.
        higher_is_better: whether the metric is to be maximised.
        seeds: how many it takes to tell methods apart, the number that is run unless another is asked for.
        test_over_train: number of test examples over that of training examples.
        compare: `(seed, on_fit)` → the metric on the test set, by method; another seed is another split.
            `on_fit()` is called after each model that was fitted.
        fits: how many models are fitted for a split.
        checksum: of data that no package ships, so that a resumed task has the same.
    """

    title: str
    baseline: str
    ours: str
    higher_is_better: bool
    seeds: int
    test_over_train: float
    compare: Callable[[int, Callable[[], None]], dict[str, float]]
    fits: int
    checksum: str = ""


def nothing() -> None:
    """Does nothing: what is called after each model by default."""


class Row(NamedTuple):
    """What the table says about a method: means over seeds with their standard errors.

    Splits of one data set overlap, so their results are not independent: of J splits the variance of the mean
    is s² (1/J + test/train) rather than s²/J (Nadeau and Bengio 2003, eq. 6).

    Attributes:
        name: of the method.
        metric: on the test sets.
        difference: to the baseline, seed by seed.
    """

    name: str
    metric: tuple[float, float]
    difference: tuple[float, float]


def summarise(task: Task, results: Sequence[Mapping[str, float]]) -> list[Row]:
    """Makes the rows, one for each method."""
    baseline = np.array([result[task.baseline] for result in results])
    rows = []
    for name in results[0]:
        found = np.array([result[name] for result in results])
        metric, difference = (
            tables.mean_and_error(values, test_over_train=task.test_over_train)
            for values in (found, found - baseline)
        )
        rows.append(Row(name, metric, difference))
    return rows


def verdict(task: Task, results: Sequence[Mapping[str, float]]) -> str:
    """Says of each other method whether ours beats it by more than two standard errors, a line for each."""
    lines = []
    for other in (name for name in results[0] if name != task.ours):
        differences = np.array([result[task.ours] - result[other] for result in results])
        gains = differences if task.higher_is_better else -differences
        gain, error = tables.mean_and_error(gains, test_over_train=task.test_over_train)
        if gain > 2 * error:
            lines.append(f"{task.ours} beats {other} by {gain:.4f} ± {error:.4f}")
        else:
            lines.append(f"{task.ours} does not beat {other}: {gain:+.4f} ± {error:.4f}")
    return "\n".join(lines)


def markdown(task: Task, rows: Sequence[Row]) -> str:
    """Returns the table in Markdown."""
    columns: dict[str, Callable[[Row], Any]] = {
        "": lambda row: row.name,
        task.title: lambda row: "{:.4f} ± {:.4f}".format(*row.metric),
        f"difference to {task.baseline}": lambda row: (
            "" if row.name == task.baseline else "{:+.4f} ± {:.4f}".format(*row.difference)
        ),
    }
    return tables.markdown(rows, columns)


def write(path: Path, task: Task, results: Sequence[Mapping[str, float]]) -> None:
    """Leaves table, numbers and picture in the folder `path`.

    Raises:
        OSError: it cannot be written to.
    """
    rows = summarise(task, results)
    (path / TABLE).write_text(f"{markdown(task, rows)}\n{verdict(task, results)}\n", "utf-8")
    (path / RESULTS).write_text(json.dumps(list(results)), "utf-8")
    figure = new_figure(7, 0.9 + 0.5 * len(rows))
    axes = figure.subplots()
    for number, row in enumerate(rows):
        axes.plot(
            [result[row.name] for result in results], [number] * len(results), ".", color="gray", alpha=0.5
        )
        axes.errorbar(row.metric[0], number, xerr=row.metric[1], fmt="o", color="tab:blue", capsize=4)
    axes.set(xlabel=task.title, ylim=(len(rows) - 0.5, -0.5))
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.locator_params(axis="x", nbins=5)
    axes.grid(alpha=0.3, axis="x")
    figure.savefig(path / PICTURE, dpi=120)


def grid(**options: Sequence[Any]) -> list[dict[str, Any]]:
    """Returns all combinations of options."""
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


def num_fits(*candidates: Sequence[dict[str, Any]], num_folds: int = 3) -> int:
    """Returns how many models are fitted by methods that choose by `best_by_folds` and refit the best."""
    return sum(1 + num_folds * len(options) * (len(options) > 1) for options in candidates)


def best_by_folds(
    candidates: Sequence[dict[str, Any]],
    metric: Callable[[dict[str, Any], NDArray[np.int64], NDArray[np.int64]], float],
    num_examples: int,
    *,
    seed: int,
    num_folds: int = 3,
) -> dict[str, Any]:
    """Returns the options with the highest mean metric over folds of the training set, or the only ones.

    Args:
        candidates: options to choose from.
        metric: `(options, training rows, held-out rows) -> metric`, higher is better.
        num_examples: of the training set.
        seed: of the folds.
        num_folds: ≥ 2.

    Raises:
        ValueError: there are no candidates; or as for `folds`.
    """
    if not candidates:
        raise ValueError("candidates is empty; give at least one, for instance by grid")
    if len(candidates) == 1:
        return candidates[0]
    pairs = folds(num_examples, seed=seed, num_folds=num_folds)
    return max(candidates, key=lambda options: float(np.mean([metric(options, *pair) for pair in pairs])))


def folds(
    num_examples: int, *, seed: int, num_folds: int = 3
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Returns pairs (training rows, held-out rows): each example is held out once.

    Raises:
        ValueError: `num_folds` is not in [2, num_examples], or `seed` is negative.
    """
    require_at_least("num_folds", num_folds, 2)
    require_at_least("seed", seed, 0)
    if num_folds > num_examples:
        raise ValueError(f"num_folds={num_folds} must be at most {num_examples}, the number of examples")
    parts = np.array_split(np.random.default_rng(seed).permutation(num_examples), num_folds)
    return [(np.concatenate([p for p in parts if p is not held]), held) for held in parts]
