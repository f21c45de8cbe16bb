"""Draws the picture of the README, `python docs/pictures/draw.py`: a pipeline, and a step smoothed."""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
from matplotlib.figure import Figure

import esjax

SIGMA, NUM_SAMPLES = 0.5, 64
CHAIN, BLOCK, GREY = "#00695c", "#c2410c", "#6b7280"


def _step(x):
    return jnp.where(x > 0, 1.0, 0.0)


def _draw_pipeline(axes):
    """Draws values that go right, and the gradient that comes back, by rule and by samples."""
    axes.set(xlim=(0, 100), ylim=(0, 34))
    axes.axis("off")
    names = ("images", "network", "logits", "argmax", "accuracy")
    places = (9, 29, 49, 69, 90)
    for name, x in zip(names, places, strict=True):
        boxed = {"network": CHAIN, "argmax": BLOCK}.get(name)
        style = {"boxstyle": "round,pad=0.6", "facecolor": "white", "edgecolor": boxed, "linewidth": 1.6}
        axes.text(x, 22, name, ha="center", va="center", fontsize=12, bbox=style if boxed else None)
    for left, right in ((14.5, 22), (36, 44), (54, 62.5), (75.5, 82.5)):
        _arrow(axes, (left, 22), (right, 22), GREY)
    _arrow(axes, (90, 17), (51, 17), BLOCK, bend=-0.28)
    _arrow(axes, (47, 17), (29, 17), CHAIN, bend=-0.28)
    axes.text(70.5, 3, "no derivative: evolution strategies", ha="center", color=BLOCK, fontsize=10.5)
    axes.text(34, 3, "chain rule: autodiff", ha="center", color=CHAIN, fontsize=10.5)


def _arrow(axes, start, end, colour, bend=0.0):
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.6, "mutation_scale": 13}
    axes.annotate("", end, start, arrowprops=style | {"connectionstyle": f"arc3,rad={bend}"})


def _draw_values(axes, x, points, values):
    axes.step(x, _step(x), color=GREY, linewidth=1.4, label="a step f, no gradient")
    exact = esjax.exact.threshold_probs(x, SIGMA)
    axes.plot(x, exact, color=BLOCK, label=f"smoothed: E f(x + σε), σ = {SIGMA}")
    axes.plot(points, values, ".", color=CHAIN, label=f"its estimate, N = {NUM_SAMPLES}")
    axes.set(xlabel="x", title="value")


def _draw_slopes(axes, x, points, slopes):
    axes.plot(x, jnp.zeros_like(x), color=GREY, linewidth=1.4, label="of f: 0 wherever there is one")
    exact = jax.vmap(jax.grad(lambda x: esjax.exact.threshold_probs(x, SIGMA)))(x)
    axes.plot(x, exact, color=BLOCK, label="of the smoothed step")
    axes.plot(points, slopes, ".", color=CHAIN, label="estimate, from values of f alone")
    axes.set(xlabel="x", title="gradient", ylim=(-0.08, 1.28))


def draw():
    """Returns the figure; its points are calls of `esjax.smooth`."""
    smoothed = esjax.smooth(_step, sigma=SIGMA, num_samples=NUM_SAMPLES)
    x, points = jnp.linspace(-2, 2, 401), jnp.linspace(-2, 2, 41)
    keys = jax.random.split(jax.random.key(0), len(points))
    values, slopes = jax.vmap(jax.value_and_grad(smoothed, argnums=1))(keys, points)
    figure = Figure(figsize=(8.6, 5.2), layout="constrained")
    rows = figure.subplot_mosaic([["pipeline", "pipeline"], ["values", "slopes"]], height_ratios=(1, 1.5))
    _draw_pipeline(rows["pipeline"])
    _draw_values(rows["values"], x, points, values)
    _draw_slopes(rows["slopes"], x, points, slopes)
    for name in ("values", "slopes"):
        rows[name].legend(fontsize=8.5, loc="upper left", frameon=False)
        rows[name].grid(alpha=0.25)
    rows["values"].set_ylim(-0.08, 1.55)
    return figure


if __name__ == "__main__":
    matplotlib.rcParams["svg.hashsalt"] = "esjax"  # the same file at every run
    draw().savefig(Path(__file__).with_name("esjax.svg"), metadata={"Date": None})
