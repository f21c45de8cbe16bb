"""Which σ suits a network and a data set: short trial runs over a grid, and the gradient before them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from esjax.diagnostics import Report
from esjax.train import diagnosis, run, tables
from esjax.train.config import SigmaConfig
from esjax.train.plot import new_figure
from esjax.train.run import Run

CURVES = "sigma.png"
TABLE = "table.md"

_EXAMPLES = 1000
"""Training examples whose gradient is looked at before the first step."""


class Row(NamedTuple):
    """What the table says about a σ.

    Attributes:
        factor: σ over the default σ.
        sigma: in units of the logits.
        report: of the untrained network's gradient, over many examples.
        fitted: share of the training labels that the network got right in the trial's last epoch.
        held_out: share of the held-out labels that it got right after it; None if nothing is held out.
        lost_classes: classes of which no test example is right after the trial.
    """

    factor: float
    sigma: float
    report: Report
    fitted: float
    held_out: float | None
    lost_classes: list[int]


def set_up(config: SigmaConfig) -> Run:
    """Makes the run with the default σ; raises as `run.set_up` does, which finds all wrong input."""
    return run.set_up(config.of_run(None))


def try_all(
    config: SigmaConfig,
    default: Run,
    *,
    on_step: Callable[[], None] = lambda: None,
    on_trial: Callable[[float], None] = lambda sigma: None,
) -> list[Row]:
    """Trains with each σ from the same initial weights, on the same batches.

    Args:
        config: the options.
        default: the run of the default σ, from `set_up`.
        on_step: called after each step.
        on_trial: called with σ before each trial.
    """
    unit = default.config.sigma
    assert unit is not None  # set_up has chosen it
    rows = []
    for factor in config.factors:
        sigma = factor * unit
        on_trial(sigma)
        trial = run.prepare(config.of_run(sigma), default.data)
        report = diagnosis.diagnose(trial, num_examples=_EXAMPLES, seed=config.seed)[0].report
        *_, (_, last) = run.stream(trial, on_step=on_step)
        rows.append(
            Row(factor, sigma, report, last.train_accuracy, last.held_out_accuracy, last.lost_classes)
        )
    return rows


def best(rows: Sequence[Row]) -> Row:
    """Returns the σ whose trial got the most held-out labels right: the test set has no say.

    Where nothing is held out, the training labels decide.
    """
    return max(rows, key=_score)


def _score(row: Row) -> float:
    return row.fitted if row.held_out is None else row.held_out


def markdown(rows: Sequence[Row]) -> str:
    """Returns the table in Markdown."""
    most = best(rows)
    return tables.markdown(
        rows,
        {
            "σ": lambda row: f"{row.sigma:.3g}",
            "over the default": lambda row: f"{row.factor:g}",
            "signal-to-noise at the start": lambda row: f"{row.report.signal_to_noise:.2g}",
            "samples that change the outcome": lambda row: f"{row.report.share_changed:.1%}",
            "training labels met": lambda row: f"{row.fitted:.1%}",
            "held-out labels met": lambda row: "-" if row.held_out is None else f"{row.held_out:.1%}",
            "lost classes": lambda row: ", ".join(map(str, row.lost_classes)) or "none",
            "": lambda row: "best" if row is most else "",
        },
    )


def write(path: Path, rows: Sequence[Row], title: str) -> None:
    """Writes table and picture into the folder `path`.

    Raises:
        OSError: it cannot be written to.
    """
    (path / TABLE).write_text(f"{title}\n\n{markdown(rows)}", "utf-8")
    figure = new_figure(6.4, 5)
    met, noise = figure.subplots(2, 1, sharex=True)
    sigmas = [row.sigma for row in rows]
    met.plot(sigmas, [row.fitted for row in rows], marker="o", label="training labels")
    if rows[0].held_out is not None:
        met.plot(sigmas, [_score(row) for row in rows], marker="o", label="held-out labels")
    met.set(ylabel="labels met", xscale="log")
    met.yaxis.set_major_formatter("{x:.0%}")
    for row in rows:
        if row.lost_classes:
            met.annotate(
                f"{len(row.lost_classes)} lost", (row.sigma, row.fitted), (0, 6), textcoords="offset points"
            )
    noise.plot(sigmas, [float(row.report.signal_to_noise) for row in rows], marker="o")
    noise.set(ylabel="signal-to-noise at the start", xlabel="σ")
    noise.set_ylim(bottom=0)
    for axes in (met, noise):
        axes.axvline(rows[0].sigma / rows[0].factor, color="gray", linestyle=":", label="default")
        axes.grid(alpha=0.3)
    met.legend()
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path / CURVES, dpi=120)
