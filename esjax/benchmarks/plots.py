"""Pictures of the benchmarks' curves, as PNG files."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from esjax.benchmarks.report import Curve

_COLORS = {
    "plain": "tab:gray",
    "optax": "tab:orange",
    "evosax, OpenES": "tab:green",
    "esjax": "tab:blue",
    "esjax.exact": "tab:purple",
    "without": "tab:gray",
    "learned": "tab:blue",
}


def draw(path: Path, curves: list[Curve], title: str) -> None:
    """Draws curves with logarithmic axes, those with the same axes in one panel."""
    panels = list(dict.fromkeys((curve.x_label, curve.y_label) for curve in curves))
    figure = Figure(figsize=(4 * len(panels), 3.6), layout="constrained")
    for axes, labels in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for curve in curves:
            if (curve.x_label, curve.y_label) == labels:
                axes.loglog(
                    curve.xs, curve.ys, "o-", markersize=3, label=curve.name, color=_COLORS[curve.name]
                )
        axes.set(xlabel=labels[0], ylabel=labels[1])
        for axis in (axes.xaxis, axes.yaxis):
            decades = np.log10(axis.get_view_interval())
            if np.floor(decades[1]) - np.ceil(decades[0]) >= 1:  # two powers of ten say enough
                axis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3, which="both", linewidth=0.4)
        axes.legend(fontsize="small")
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=120)
