"""Whole networks: noise of low rank inside the products, beside full noise, OpenES and forward passes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from evosax.algorithms import Open_ES

import esjax
from esjax.benchmarks import measure
from esjax.benchmarks.report import Claim, Curve, Row, Section, Table

Array = jax.Array
Estimator = Callable[..., Any]  # (key, params, *args) -> gradient

_SIGMA = 0.05


class _Network(NamedTuple):
    """A network to be scored: `fun(params, *args)`, and the number of samples."""

    name: str
    fun: Callable[..., Array]
    params: Any
    args: tuple[Array, Array]
    num_samples: int


def run(quick: bool) -> Section:
    """Measures time, memory and bias."""
    batches = (128,) if quick else (1, 32, 128)
    networks = [_mlp(batch) for batch in batches] + [_transformer()]
    wanted = {1: 20.0, 32: 20.0, 128: 10.0, None: 5.0}
    tables, claims = [], []
    for network, batch in zip(networks, [*batches, None], strict=True):
        table, found = _beside(network, wanted[batch], quick)
        tables.append(table)
        claims += found
    memory, flat, curves = _memory(quick)
    tables += [] if jax.default_backend() == "cpu" else [_beside_inference(quick)]
    return Section("Whole networks", [*tables, memory, _biases(quick)], [*claims, flat], curves)


# --- networks ----------------------------------------------------------------------------------------


def _mlp(batch: int, num_samples: int = 256, width: int = 256) -> _Network:
    """784-width-width-10, scored by its accuracy on noise: the time does not depend on what it is given."""
    pairs = zip(
        jax.random.split(jax.random.key(0), 3), [(784, width), (width, width), (width, 10)], strict=True
    )
    params = [(jax.random.normal(key, size) / size[0] ** 0.5, jnp.zeros(size[1])) for key, size in pairs]
    x = jax.random.normal(jax.random.key(1), (batch, 784))
    labels = jax.random.randint(jax.random.key(2), (batch,), 0, 10)

    def accuracy(params: Any, x: Array, labels: Array) -> Array:
        *inner, (weight, bias) = params
        for w, b in inner:
            x = jax.nn.relu(x @ w + b)
        return jnp.mean((x @ weight + bias).argmax(-1) == labels)

    return _Network(
        f"MLP 784-{width}-{width}-10, batch of {batch}", accuracy, params, (x, labels), num_samples
    )


_HEADS = 4


def _transformer(width: int = 128, depth: int = 5, length: int = 32, num_samples: int = 64) -> _Network:
    """A language model of 1 M weights with a tied output, scored by how many next tokens it finds."""
    keys = iter(jax.random.split(jax.random.key(0), 100))

    def matrix(rows: int, columns: int) -> Array:
        return jax.random.normal(next(keys), (rows, columns)) / rows**0.5

    def layer() -> dict[str, Array]:
        sizes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, 4 * width)}
        matrices = {name: matrix(*size) for name, size in sizes.items()} | {"down": matrix(4 * width, width)}
        return matrices | {"attention": jnp.ones(width), "mlp": jnp.ones(width)}

    params = {"table": matrix(256, width), "layers": [layer() for _ in range(depth)]}
    tokens = jax.random.randint(next(keys), (1, length + 1), 0, 256)
    return _Network(
        f"transformer, {sum(leaf.size for leaf in jax.tree.leaves(params)):,} weights, {length} tokens",
        _found,
        params,
        (tokens[:, :-1], tokens[:, 1:]),
        num_samples,
    )


def _found(params: Any, tokens: Array, following: Array) -> Array:
    h = params["table"][tokens]
    for layer in params["layers"]:
        h = h + _attended(_normalised(h, layer["attention"]), layer)
        h = h + jax.nn.gelu(_normalised(h, layer["mlp"]) @ layer["up"]) @ layer["down"]
    return jnp.mean((h @ params["table"].T).argmax(-1) == following)


def _normalised(h: Array, scale: Array) -> Array:
    return scale * jax.nn.standardize(h)


def _attended(h: Array, layer: dict[str, Array]) -> Array:
    batch, length, width = h.shape
    q, k, v = jnp.split((h @ layer["qkv"]).reshape(batch, length, _HEADS, -1), 3, -1)
    return jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(batch, length, width) @ layer["out"]


# --- time --------------------------------------------------------------------------------------------


def _low_rank(network: _Network, rank: int = 1) -> Estimator:
    smoothed = esjax.smooth_weights(network.fun, sigma=_SIGMA, num_samples=network.num_samples, rank=rank)
    return jax.grad(smoothed, 1)


def _full(network: _Network) -> Estimator:
    return jax.grad(esjax.smooth(network.fun, sigma=_SIGMA, num_samples=network.num_samples), 1)


def _open_es(network: _Network) -> Estimator:
    """The gradient inside evosax's OpenES: pairs of full noise."""
    strategy = Open_ES(
        network.num_samples,
        network.params,
        optimizer=optax.trace(decay=0.0),  # keeps the last gradient
        std_schedule=optax.constant_schedule(_SIGMA),
        fitness_shaping_fn=lambda population, fitness, state, params: fitness,
    )
    options = strategy.default_params

    def gradient(key: Any, params: Any, *args: Array) -> Array:
        init_key, ask_key, tell_key = jax.random.split(key, 3)
        state = strategy.init(init_key, params, options)
        population, state = strategy.ask(ask_key, state, options)
        values = jax.vmap(lambda each: network.fun(each, *args))(population)
        state, _ = strategy.tell(tell_key, population, values, state, options)
        return state.opt_state.trace

    return gradient


def _forward(network: _Network) -> Estimator:
    """N evaluations of the network as it is, one after the other; each waits for the one before."""

    def values(key: Any, params: Any, *args: Array) -> Array:
        def step(total: Array, _: None) -> tuple[Array, None]:
            shift = jnp.where(total < 0, 1, 0)  # 0, which the compiler does not know
            moved = jax.tree.map(lambda leaf: leaf + shift.astype(leaf.dtype), args)
            return total + network.fun(params, *moved), None

        return jax.lax.scan(step, jnp.float32(0), None, length=network.num_samples)[0]

    return values


def _beside(network: _Network, wanted: float, quick: bool) -> tuple[Table, list[Claim]]:
    functions = {
        "esjax.smooth_weights": _low_rank(network),
        "esjax.smooth": _full(network),
        "evosax OpenES": _open_es(network),
        "N forward passes alone": _forward(network),
    }
    effort = measure.Effort(1, 3 if quick else 7, 0.05 if quick else 0.3)
    found = measure.costs(functions, jax.random.key(0), network.params, *network.args, effort=effort)
    ours, full, _, forward = (cost.seconds for cost in found.values())
    where = f"{network.name}, N = {network.num_samples}"
    rows: list[Row] = [
        {
            "": name,
            "median ms ± spread": cost.milliseconds,
            "over forward passes": cost.seconds / forward,
            "temporaries, MB": cost.temporaries / 2**20,
            "compile, s": cost.compile_seconds,
        }
        for name, cost in found.items()
    ]
    claims = [Claim(f"{where}: time of smooth over it", full / ours, wanted, at_most=False)]
    if "batch of 128" in network.name:
        claims += [Claim(f"{where}: time over N forward passes", ours / forward, 1.5)]
    return Table(f"Gradient of accuracy: {where}", rows), claims


def _beside_inference(quick: bool) -> Table:
    """Compares with one evaluation of the network as it is, on N times the batch: what a device can reach."""
    rows: list[Row] = []
    for network in (_mlp(32, 1024, width=2048), _transformer(num_samples=1024)):
        args = [jnp.concatenate([arg] * network.num_samples) for arg in network.args]

        def inference(key: Any, params: Any, *_: Array, fun: Any = network.fun, args: Any = args) -> Array:
            return fun(params, *args)

        functions = {"es": _low_rank(network), "inference": inference}
        effort = measure.Effort(1, 3 if quick else 7, 0.3)
        found = measure.costs(functions, jax.random.key(0), network.params, *network.args, effort=effort)
        rows.append(
            {
                "": f"{network.name}, N = {network.num_samples:,}",
                "gradient, ms": found["es"].milliseconds,
                "inference on N batches, ms": found["inference"].milliseconds,
                "share of inference's throughput": found["inference"].seconds / found["es"].seconds,
            }
        )
    return Table("Gradient of accuracy, beside batched inference", rows)


# --- memory ------------------------------------------------------------------------------------------


def _memory(quick: bool) -> tuple[Table, Claim, list[Curve]]:
    counts = [256, 4096] if quick else [64, 256, 1024, 4096, 16_384]
    found = []
    for count in counts:
        network = _mlp(32, count)
        compiled = (
            jax.jit(_low_rank(network)).lower(jax.random.key(0), network.params, *network.args).compile()
        )
        found.append(measure.temporaries(compiled) / 2**20)
    rows: list[Row] = [
        {"N": count, "temporaries, MB": each} for count, each in zip(counts, found, strict=True)
    ]
    claim = Claim(
        f"temporaries at N = {counts[-1]:,} over those at N = 256", found[-1] / found[counts.index(256)], 1.1
    )
    curve = Curve("N, MLP", "temporaries, MB", "esjax", [float(count) for count in counts], found)
    return Table("Memory beside arguments and results: MLP, batch of 32", rows), claim, [curve]


# --- bias --------------------------------------------------------------------------------------------


def _biases(quick: bool) -> Table:
    """Compares the mean of many gradients with the smoothed gradient, by autodiff at normal noise.

    ‖bias‖² is ⟨ĝ − ∇F, ĝ' − ∇F⟩ of independent halves, which has no error of its own on average; beside it,
    what of ∇F is found: ⟨ĝ, ∇F⟩ / ‖∇F‖².
    """
    fun, params = _small_network()
    keys = jax.random.split(jax.random.key(3), 8 if quick else 64)
    rows: list[Row] = []
    for sigma in (0.1, 0.3):
        exact = _smoothed_gradient(fun, params, sigma, 2000 if quick else 20_000)
        for rank in (1, 4, 16):
            gradient = jax.grad(esjax.smooth_weights(fun, sigma=sigma, num_samples=8192, rank=rank), 1)
            means = np.array([_flat(gradient(key, params)) for key in keys])
            first, second = means[::2].mean(0) - exact, means[1::2].mean(0) - exact
            shares = means @ exact / (exact @ exact)
            rows.append(
                {
                    "σ": sigma,
                    "rank": rank,
                    "share of ∇F found": (shares.mean(), shares.std() / len(keys) ** 0.5),
                    "‖bias‖² / ‖∇F‖²": float(first @ second / (exact @ exact)),
                }
            )
    return Table("Bias of the gradient against that of `smooth`: cross-entropy of 40-40-3, tanh", rows)


def _small_network() -> tuple[Callable[[Any], Array], Any]:
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "w": jax.random.normal(keys[0], (40, 40)) / 40**0.5,
        "v": jax.random.normal(keys[1], (40, 3)) / 40**0.5,
    }
    x, labels = jax.random.normal(keys[2], (16, 40)), jnp.arange(16) % 3

    def fun(params: Any) -> Array:
        logits = jnp.tanh(x @ params["w"]) @ params["v"]
        return jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(16), labels])

    return fun, params


def _smoothed_gradient(fun: Callable[[Any], Array], params: Any, sigma: float, count: int) -> Any:
    """Returns E[∇f(W + σ ε)] at normal noise in full, by autodiff."""

    def slope(key: Any) -> Any:
        keys = jax.random.split(key, len(params))
        return jax.grad(fun)(
            {
                name: leaf + sigma * jax.random.normal(own, leaf.shape)
                for own, (name, leaf) in zip(keys, params.items(), strict=True)
            }
        )

    keys = jax.random.split(jax.random.key(4), count)
    mean = jax.jit(
        lambda keys: jax.tree.map(lambda leaf: leaf.mean(0), jax.lax.map(slope, keys, batch_size=100))
    )
    return _flat(mean(keys))


def _flat(tree: Any) -> Any:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)
