"""What samples say about a network's gradient, over many examples and class by class."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from esjax import diagnostics
from esjax.diagnostics import Report
from esjax.train import objectives, tables
from esjax.train.checks import require_at_least
from esjax.train.plot import new_figure
from esjax.train.run import Run

_AT_ONCE = 256
"""Examples looked at together, so that memory does not grow with their number."""


class Row(NamedTuple):
    """What the table says about a class, or about all examples.

    Attributes:
        name: the class, or "all".
        num_examples: how many there are.
        accuracy: share of them that the network, unperturbed, gets right.
        report: on their gradients in the logits, taken as one gradient.
    """

    name: str
    num_examples: int
    accuracy: float
    report: Report


def diagnose(run: Run, *, num_examples: int, seed: int = 0) -> list[Row]:
    """Samples the gradient of the run's block in the logits of its first training examples.

    Args:
        run: a run on accuracy or top-k; one with the estimator exact is sampled as with es.
        num_examples: how many, >= 1; all, if there are fewer.
        seed: of the perturbations, >= 0.

    Returns:
        A row for all examples together, and one for each class that is among them.

    Raises:
        ValueError: the run's objective has no block of one example, or a number is out of range.
    """
    require_at_least("num_examples", num_examples, 1)
    require_at_least("seed", seed, 0)
    config = run.config
    if config.objective not in objectives.BLOCKS or config.sigma is None:
        raise ValueError(
            f"objective={config.objective!r} has no samples of one example each; diagnose a run of "
            + " or ".join(objectives.BLOCKS)
        )
    block = objectives.BLOCKS[config.objective](config)
    smoothed = objectives.sampled(block, config.sigma, config.num_samples)
    seen = objectives.seen(config)
    report_of = jax.jit(jax.vmap(lambda key, x, label: smoothed.with_info(key, seen(x), label)[1]))
    images, labels = run.data.train_images[:num_examples], run.data.train_labels[:num_examples]
    keys = jax.random.split(jax.random.key(seed), len(labels))
    parts, predicted = [], []
    for start in range(0, len(labels), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        logits = run.trainer.logits(run.state, images[some])
        parts.append(report_of(keys[some], logits, labels[some]))
        predicted.append(np.asarray(logits.argmax(-1)))
    reports = jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)
    hits = np.concatenate(predicted) == labels
    classes = [label for label in range(run.data.num_classes) if (labels == label).any()]
    chosen = [("all", np.full(len(labels), True)), *((str(label), labels == label) for label in classes)]
    return [_row(name, mask, hits, reports) for name, mask in chosen]


def _row(name: str, mask: NDArray[np.bool_], hits: NDArray[np.bool_], reports: Report) -> Row:
    some = diagnostics.combined(jax.tree.map(lambda array: array[mask], reports))
    return Row(name, int(mask.sum()), float(hits[mask].mean()), some)


def markdown(rows: Sequence[Row]) -> str:
    """Returns the table in Markdown."""
    columns: dict[str, Callable[[Row], Any]] = {
        "class": lambda row: row.name,
        "examples": lambda row: row.num_examples,
        "accuracy": lambda row: f"{row.accuracy:.1%}",
        "samples that change the outcome": lambda row: f"{row.report.share_changed:.1%}",
        "gradient per example": lambda row: f"{row.report.gradient_norm / row.num_examples**0.5:.2g}",
        "signal-to-noise": lambda row: f"{row.report.signal_to_noise:.2g}",
        "samples for signal-to-noise 1": lambda row: (
            f"{row.report.num_samples_for(1) / row.num_examples:.3g}"
        ),
    }
    return tables.markdown(rows, columns)


def plot(path: Path, rows: Sequence[Row], title: str) -> None:
    """Draws accuracy and signal-to-noise of each class."""
    figure = new_figure(8, 5)
    accuracy, noise = figure.subplots(2, 1, sharex=True)
    names = [row.name for row in rows]
    accuracy.bar(names, [row.accuracy for row in rows], color="tab:gray")
    accuracy.set(ylabel="accuracy", ylim=(0, 1))
    noise.bar(names, [float(row.report.signal_to_noise) for row in rows])
    noise.axhline(1, color="black", linestyle=":", linewidth=0.8)
    noise.set(xlabel="class", ylabel="signal-to-noise")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
