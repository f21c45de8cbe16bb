"""The three curves of a calibration, drawn."""

from typing import Any

import numpy as np

from esjax.sigma.calibration import Calibration


def plot(calibration: Calibration) -> Any:
    """Draws the three curves over σ with bars of one standard error, the chosen σ marked.

    Args:
        calibration: from `calibrate`.

    Returns:
        A `matplotlib.figure.Figure`, to be shown or saved. matplotlib is not a dependency of the core.

    Raises:
        ValueError: `calibration` is not a `Calibration`.
    """
    from matplotlib.figure import Figure

    if not isinstance(calibration, Calibration):
        raise ValueError(f"calibration={calibration!r} is not a Calibration; pass what calibrate returns")

    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    rows = figure.subplots(3, 1, sharex=True)
    c = calibration
    for axes, name, curve, error in zip(
        rows,
        ("f ends at", "signal-to-noise", "bias |F − f(x)|"),
        (c.final, c.signal_to_noise, c.bias),
        (c.final_error, c.signal_to_noise_error, c.bias_error),
        strict=True,
    ):
        axes.errorbar(*map(np.asarray, (c.sigmas, curve, error)), marker="o", markersize=3, elinewidth=0.8)
        axes.axvline(float(c.sigma), color="gray", linestyle=":")
        axes.set(ylabel=name, xscale="log")
        axes.grid(alpha=0.3)
    rows[0].set_title(f"chosen: σ = {float(c.sigma):.3g}", fontsize="medium")
    rows[-1].set_xlabel("σ")
    return figure
