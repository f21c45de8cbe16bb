"""Black boxes with a gradient that does not come from this library's estimators, the reference for errors."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.stats import norm
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from sklearn.datasets import load_digits

import esjax

Array = jax.Array


class Problem(NamedTuple):
    """A block to differentiate at x, under normal noise.

    Attributes:
        name: for the table.
        fun: the block, (D,) → ().
        gradient: ∇E[fun(x + σ ε)], (D,), in closed form, by autodiff, or by a long plain run.
        x: (D,) float32.
        sigma: σ.
        num_samples: N to compare estimators at.
    """

    name: str
    fun: Callable[[Array], Array]
    gradient: Array
    x: Array
    sigma: float
    num_samples: int


def _with_closed_form(
    name: str,
    fun: Callable[[Array], Array],
    smoothed: Callable[[Array], Array],
    x: Array,
    sigma: float,
    num_samples: int,
) -> Problem:
    return Problem(f"{name}, D = {x.size:,}", fun, jax.grad(smoothed)(x), x, sigma, num_samples)


def rank_correlation(dim: int, num_samples: int = 256, sigma: float = 0.5) -> Problem:
    """Spearman's correlation of x with fixed ranks: E[rank_i] = Σ_{j≠i} Φ((x_i − x_j) / (σ √2))."""
    target = jnp.linspace(-1.0, 1.0, dim)
    centre = (dim - 1) / 2
    scale = jnp.linalg.norm(jnp.arange(dim) - centre) * jnp.linalg.norm(target)

    def fun(x: Array) -> Array:
        ranks = jnp.argsort(jnp.argsort(x)).astype(x.dtype)
        return (ranks - centre) @ target / scale

    def smoothed(x: Array) -> Array:
        ranks = norm.cdf((x[:, None] - x[None, :]) / (sigma * 2**0.5)).sum(1) - 0.5
        return (ranks - centre) @ target / scale

    return _with_closed_form("rank correlation", fun, smoothed, _point(dim), sigma, num_samples)


def rounding(dim: int, num_samples: int = 256, sigma: float = 0.5, target: float = 0.3) -> Problem:
    """Mean squared distance of the rounded x from a target off the grid, a sum of steps between integers."""
    steps = jnp.arange(-20.0, 20.0)

    def fun(x: Array) -> Array:
        return jnp.mean((jnp.round(x) - target) ** 2)

    def smoothed(x: Array) -> Array:
        heights = (steps + 1 - target) ** 2 - (steps - target) ** 2
        above = norm.cdf((x[:, None] - steps[None, :] - 0.5) / sigma)
        return jnp.mean(above @ heights) + (steps[0] - target) ** 2

    return _with_closed_form("rounding", fun, smoothed, 2 * _point(dim), sigma, num_samples)


def threshold_count(dim: int, num_samples: int = 256, sigma: float = 0.5) -> Problem:
    """Share of x above 0."""

    def fun(x: Array) -> Array:
        return jnp.mean((x > 0).astype(x.dtype))

    def smoothed(x: Array) -> Array:
        return jnp.mean(norm.cdf(x / sigma))

    return _with_closed_form("threshold count", fun, smoothed, _point(dim), sigma, num_samples)


def _point(dim: int) -> Array:
    return jax.random.normal(jax.random.key(dim), (dim,))


# --- a solver on the host -------------------------------------------------------------------------------


def shortest_path(size: int, num_samples: int = 256, sigma: float = 0.5, long_run: int = 2**19) -> Problem:
    """True cost, over the least, of the path that Dijkstra's algorithm finds for the costs softplus(x).

    The block is SciPy's, on the host. The reference is a long run in JAX, with the algorithm of Bellman and
    Ford; it finds the same paths.
    """
    true = jax.nn.softplus(jax.random.normal(jax.random.key(0), (size, size))) + 0.1
    noise = jax.random.normal(jax.random.key(1), (size * size,))
    x = jnp.log(jnp.expm1(true)).ravel() + noise
    least = path_cost(true, true)
    on_host = esjax.host.wrap(partial(_dijkstra_cost, np.asarray(true)), np.float32(0))

    def in_jax(x: Array) -> Array:
        return path_cost(jax.nn.softplus(x).reshape(size, size), true) / least

    def fun(x: Array) -> Array:
        return on_host(jax.nn.softplus(x)) / least

    def add(total: Array, key: Any) -> tuple[Array, None]:
        eps = jax.random.normal(key, (1024, x.size))
        return total + (jax.vmap(in_jax)(x + sigma * eps) - in_jax(x)) @ eps, None

    keys = jax.random.split(jax.random.key(2), long_run // 1024)
    gradient = jax.jit(lambda: jax.lax.scan(add, jnp.zeros_like(x), keys)[0])() / (long_run * sigma)
    name = f"shortest path {size} × {size}, on the host"
    return Problem(name, fun, gradient, x, sigma, num_samples)


def _dijkstra_cost(true: Any, predicted: Any) -> Any:
    """Cost by `true` (n, n) of the path from first to last cell that is shortest by `predicted` (n²,)."""
    sources, targets = _edges(len(true))
    last = true.size - 1
    graph = csr_array((predicted[targets].astype(np.float64), (sources, targets)), shape=(last + 1, last + 1))
    _, before = dijkstra(graph, indices=0, return_predecessors=True)
    cost, cell = 0.0, last
    while cell >= 0:
        cost += true.ravel()[cell]
        cell = before[cell]
    return np.float32(cost)


def _edges(size: int) -> tuple[Any, Any]:
    """Returns the cells from and to which a step leads in a grid, (edges,) each."""
    cells = np.arange(size * size).reshape(size, size)
    across, down = (cells[:, :-1], cells[:, 1:]), (cells[:-1], cells[1:])
    pairs = [across, across[::-1], down, down[::-1]]
    sources, targets = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    return sources, targets


def path_cost(predicted: Array, true: Array) -> Array:
    """Cost by `true` (n, n) of the path from first to last cell that is shortest by `predicted` (n, n)."""
    size = len(predicted)
    moves = jnp.array([(-1, 0), (1, 0), (0, -1), (0, 1)])

    def of_neighbours(distance: Array) -> Array:
        d = jnp.pad(distance, 1, constant_values=1e6)
        return jnp.stack([d[:-2, 1:-1], d[2:, 1:-1], d[1:-1, :-2], d[1:-1, 2:]])

    def relax(_: Any, distance: Array) -> Array:  # Bellman and Ford
        return jnp.minimum(distance, predicted + of_neighbours(distance).min(0))

    start = jnp.full((size, size), 1e6).at[-1, -1].set(predicted[-1, -1])
    towards = of_neighbours(jax.lax.fori_loop(0, size**2, relax, start)).argmin(0)

    def walk(carry: Any, _: Any) -> Any:
        cell, cost = carry
        there = (cell == size - 1).all()
        after = jnp.where(there, cell, cell + moves[towards[cell[0], cell[1]]])
        return (after, cost + jnp.where(there, 0, true[after[0], after[1]])), None

    (_, cost), _ = jax.lax.scan(walk, (jnp.array([0, 0]), true[0, 0]), length=size**2 // 2)
    return cost


# --- a whole network ------------------------------------------------------------------------------------


def whole_network(hidden: int = 325, num_samples: int = 256, sigma: float = 0.02) -> Problem:
    """Cross-entropy of an MLP on 128 digits, a black box of all its parameters; autodiff is the reference."""
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images[:128] / 16, jnp.float32), jnp.asarray(labels[:128])
    keys = jax.random.split(jax.random.key(0), 3)
    sizes = [(64, hidden), (hidden, hidden), (hidden, 10)]
    weights = [jax.random.normal(key, size) / size[0] ** 0.5 for key, size in zip(keys, sizes, strict=True)]
    x, unravel = ravel_pytree([(weight, jnp.zeros(weight.shape[1])) for weight in weights])

    def fun(x: Array) -> Array:
        *inner, (weight, bias) = unravel(x)
        values = images
        for w, b in inner:
            values = jax.nn.relu(values @ w + b)
        logits = values @ weight + bias
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels])

    def slope(key: Any) -> Array:
        return jax.grad(fun)(x + sigma * jax.random.normal(key, x.shape))

    gradient = jax.jit(lambda keys: jax.lax.map(slope, keys).mean(0))(
        jax.random.split(jax.random.key(1), 256)
    )
    return Problem(f"whole network, D = {x.size:,}", fun, gradient, x, sigma, num_samples)


# --- batches of logits ----------------------------------------------------------------------------------


class Labelled(NamedTuple):
    """A batch of logits, to be scored against labels.

    Attributes:
        logits: (B, K) float32.
        labels: (B,) int32.
        sigma: σ.
    """

    logits: Array
    labels: Array
    sigma: float


def labelled(num_examples: int, num_classes: int, lead: float = 0.0, sigma: float = 1.0) -> Labelled:
    """Standard normal logits, that of the label higher by `lead`."""
    label_key, logit_key = jax.random.split(jax.random.key(num_classes))
    labels = jax.random.randint(label_key, (num_examples,), 0, num_classes)
    logits = jax.random.normal(logit_key, (num_examples, num_classes))
    return Labelled(logits + lead * jax.nn.one_hot(labels, num_classes), labels, sigma)


def accuracy_gradient(batch: Labelled) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Returns ∂/∂logits (B, K) of the smoothed accuracy, in double precision."""
    with jax.enable_x64(True):
        logits = jnp.asarray(np.asarray(batch.logits), jnp.float64)
        labels = jnp.asarray(np.asarray(batch.labels))

        def value(logits: Array) -> Array:
            return esjax.exact.accuracy(logits, labels, batch.sigma).mean()

        return np.asarray(jax.grad(value)(logits))


# --- lists to rank --------------------------------------------------------------------------------------


class Lists(NamedTuple):
    """Lists of items, to be ranked by scores.

    Attributes:
        scores: (B, n) float32.
        relevance: (B, n) float32, grades 0 to 4.
        sigma: σ.
        k: the places that count.
    """

    scores: Array
    relevance: Array
    sigma: float
    k: int


def lists(num_lists: int = 12, num_items: int = 120, sigma: float = 0.3, k: int = 10) -> Lists:
    """Grades as rare as those of web search, and scores that are half the grade plus normal noise."""
    relevance_key, score_key = jax.random.split(jax.random.key(num_items))
    grades = jnp.log(jnp.array([0.52, 0.32, 0.13, 0.02, 0.01]))
    relevance = jax.random.categorical(relevance_key, grades, shape=(num_lists, num_items)).astype(
        jnp.float32
    )
    scores = 0.5 * relevance + jax.random.normal(score_key, relevance.shape)
    return Lists(scores, relevance, sigma, k)
