"""Pictures of training, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from esjax.train import loop
from esjax.train.loop import Epoch

if TYPE_CHECKING:  # imported where there is something to draw: a command that draws nothing starts sooner
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 120

_ANNOTATED_CLASSES = 20
"""Up to this many classes, each cell of the confusion matrix shows its count."""


def new_figure(width: float, height: float) -> "Figure":
    """Returns an empty figure of that size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def training(path: Path, epochs: Sequence[Epoch], title: str) -> None:
    """Draws accuracy, objective, recall of each class and signal-to-noise of one run, against epochs."""
    figure = new_figure(9, 6.4)
    (accuracy, loss), (recall, noise) = figure.subplots(2, 2)
    numbers = [epoch.epoch for epoch in epochs]
    test, kept = [epoch.test_accuracy for epoch in epochs], loop.kept(epochs)
    accuracy.plot(numbers, test, label=f"test, {test[-1]:.1%} at the end")
    accuracy.plot(numbers, [epoch.train_accuracy for epoch in epochs], label="training labels", alpha=0.6)
    if kept.held_out_accuracy is not None:
        held = [epoch.held_out_accuracy for epoch in epochs]
        accuracy.plot(numbers, np.array(held, float), label="held-out labels", alpha=0.6)
        label = f"kept: epoch {kept.epoch}, test {kept.test_accuracy:.1%}"
        accuracy.plot(kept.epoch, kept.test_accuracy, "o", color="black", label=label)
    _label_accuracy(accuracy, "accuracy")
    loss.plot(numbers, [epoch.loss for epoch in epochs], color="tab:gray")
    loss.set(xlabel="epoch", ylabel="objective, minimised")
    recalls = np.array([epoch.recall for epoch in epochs], float)
    recall.plot(numbers, recalls, linewidth=0.8)
    recall.set(xlabel="epoch", ylabel="recall of each class", ylim=(-0.02, 1.02))
    ratios = np.array([epoch.signal_to_noise for epoch in epochs], float)
    noise.plot(numbers, ratios)
    noise.set(xlabel="epoch", ylabel="signal-to-noise of a step")
    noise.set_ylim(bottom=0)
    if np.isnan(ratios).all():
        noise.text(0.5, 0.5, "not sampled", ha="center", va="center", transform=noise.transAxes)
    for axes in (loss, recall, noise):
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=_DPI)


def confusion(path: Path, counts: NDArray[np.int64], title: str) -> None:
    """Draws a confusion matrix (K, K), label by predicted class, coloured by share of the label."""
    num_classes = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = new_figure(6, 5.4)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if num_classes <= _ANNOTATED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count) if count else "", ha="center", va="center", color=color)
        axes.set(xticks=range(num_classes), yticks=range(num_classes))
    axes.set(xlabel="predicted class", ylabel="label")
    axes.set_title(f"{title}: {counts.trace() / counts.sum():.1%} right", fontsize="medium")
    figure.colorbar(image, label="share of the label's examples", shrink=0.8)
    figure.savefig(path, dpi=_DPI)


def comparison(path: Path, runs: Mapping[str, Sequence[Sequence[Epoch]]], title: str) -> None:
    """Draws test accuracy of several objectives against epochs: each seed thin, their mean thick."""
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    for number, (name, seeds) in enumerate(runs.items()):
        curves = np.array([[epoch.test_accuracy for epoch in epochs] for epochs in seeds])
        numbers = [epoch.epoch for epoch in seeds[0]]
        axes.plot(numbers, curves.T, color=f"C{number}", alpha=0.3, linewidth=0.8)
        axes.plot(numbers, curves.mean(0), color=f"C{number}", label=name, linewidth=2)
    _label_accuracy(axes, "test accuracy")
    axes.set_title(title, fontsize="medium")
    figure.savefig(path, dpi=_DPI)


def learning(path: Path, rows: Sequence[Mapping[str, Any]], target: float, title: str) -> None:
    """Draws mean returns of the population and, where it was tested, of the policy, against episodes.

    Args:
        path: of the file.
        rows: with `episodes`, `population_return` and `test_return`, None where there was no test.
        target: the mean return at which training ends, drawn where it is finite.
        title: of the picture.
    """
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    axes.plot(
        [row["episodes"] for row in rows],
        [row["population_return"] for row in rows],
        label="population, perturbed",
        linewidth=0.8,
    )
    tested = [row for row in rows if row["test_return"] is not None]
    axes.plot(
        [row["episodes"] for row in tested],
        [row["test_return"] for row in tested],
        "o-",
        label="policy, tested",
    )
    if np.isfinite(target):
        axes.axhline(target, color="tab:gray", linestyle="--", label=f"target {target:g}")
    axes.set(xlabel="training episodes", ylabel="mean return")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    axes.set_title(title, fontsize="medium")
    figure.savefig(path, dpi=_DPI)


def _label_accuracy(axes: "Axes", name: str) -> None:
    axes.set(xlabel="epoch", ylabel=name)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
