"""What a gradient costs beside its floor and beside optax's, and how that grows with N, D and K."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax

from esjax.benchmarks import measure, metric_peers, peers, problems
from esjax.benchmarks.report import Claim, Curve, Row, Section, Table

_DIM, _NUM_SAMPLES = 10_000, 4096
_PEERS: dict[str, peers.Peer] = {"optax": peers.optax_normal, "esjax": peers.auto}


def run(quick: bool) -> Section:
    """Measures a threshold count at D = 10,000, and fits exponents of time."""
    costs, claims = _beside_floor(quick)
    curves, growth, exponents = _growth(quick)
    memory, flat, in_memory = _memory(quick)
    return Section("Time and memory", [costs, growth, memory], claims + exponents + flat, curves + in_memory)


def _beside_floor(quick: bool) -> tuple[Table, list[Claim]]:
    problem = problems.threshold_count(_DIM)
    functions: dict[str, Callable[..., Any]] = {
        "floor: jax.random.normal, N evaluations": peers.floor(problem, _NUM_SAMPLES),
        "esjax, value only": peers.value_only(problem, _NUM_SAMPLES),
        "esjax": peers.auto(problem, _NUM_SAMPLES),
        "esjax, antithetic": peers.antithetic(problem, _NUM_SAMPLES),
        "optax": peers.optax_normal(problem, _NUM_SAMPLES),
    }
    effort = measure.Effort(1 if quick else 3, 5 if quick else 15, 0.05 if quick else 0.3)
    found = measure.costs(functions, jax.random.key(0), problem.x, effort=effort)
    floor, value, ours, _, optax = found.values()
    rows: list[Row] = [
        {
            "": name,
            "median ms ± spread": cost.milliseconds,
            "over the floor": cost.seconds / floor.seconds,
            "over optax": cost.seconds / optax.seconds,
            "temporaries, MB": cost.temporaries / 2**20,
            "compile, s": cost.compile_seconds,
        }
        for name, cost in found.items()
    ]
    many = jax.jit(peers.auto(problem, 1_000_000)).lower(jax.random.key(0), problem.x).compile()
    where = f"D = {_DIM:,}, N = {_NUM_SAMPLES:,}"
    claims = [
        Claim(f"{where}: time over the floor, drawn by jax.random", ours.seconds / floor.seconds, 1.1),
        Claim(f"{where}: time over its own draws and evaluations", ours.seconds / value.seconds, 1.1),
        Claim(f"{where}: time over optax's", ours.seconds / optax.seconds, 0.25),
        Claim(f"{where}: temporaries over optax's", ours.temporaries / optax.temporaries, 1 / 50),
        Claim(f"{where}: compile time over optax's", ours.compile_seconds / optax.compile_seconds, 1.2),
        Claim("N = 1,000,000: temporaries, MB", measure.temporaries(many) / 2**20, 200),
    ]
    return Table(f"Value and gradient of a threshold count, {where}", rows), claims


class _Line(NamedTuple):
    """One estimator, to be timed as one quantity grows.

    Attributes:
        axis: the quantity: N, D or K.
        name: of the estimator.
        values: of the quantity.
        make: `value -> (function to time, its x)`.
    """

    axis: str
    name: str
    values: list[int]
    make: Callable[[int], tuple[Callable[..., Any], jax.Array]]


def _lines(quick: bool) -> list[_Line]:
    counts = [1024, 4096] if quick else [1024, 2048, 4096, 8192, 16_384, 32_768]
    dims = [4000, 16_000] if quick else [2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000]
    classes = [512, 4096] if quick else [256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768]

    def of_samples(count: int, peer: peers.Peer) -> tuple[Callable[..., Any], jax.Array]:
        problem = problems.threshold_count(4000)
        return peer(problem, count), problem.x

    def of_dims(dim: int, peer: peers.Peer) -> tuple[Callable[..., Any], jax.Array]:
        problem = problems.threshold_count(dim)
        return peer(problem, 1024), problem.x

    def of_classes(num_classes: int) -> tuple[Callable[..., Any], jax.Array]:
        batch = problems.labelled(64, num_classes)
        return metric_peers.accuracy_exact(batch), batch.logits

    of_peers = [
        _Line(axis, name, values, partial(make, peer=peer))
        for axis, values, make in (("N", counts, of_samples), ("D", dims, of_dims))
        for name, peer in _PEERS.items()
    ]
    return [*of_peers, _Line("K", "esjax.exact", classes, of_classes)]


def _growth(quick: bool) -> tuple[list[Curve], Table, list[Claim]]:
    """Fits time = a · quantityᵇ."""
    curves, rows, claims = [], [], []
    fixed = {"N": "D = 4,000", "D": "N = 1,024", "K": "64 examples"}
    for axis, name, values, make in _lines(quick):
        times = [_seconds(*make(value), quick=quick) for value in values]
        xs = [float(value) for value in values]
        fitted = measure.exponent(xs, times)
        curves.append(Curve(f"{axis}, at {fixed[axis]}", "ms", name, xs, [1e3 * time for time in times]))
        rows.append(
            {
                "": name,
                "quantity": f"{axis}, at {fixed[axis]}",
                "from": values[0],
                "to": values[-1],
                "fitted exponent of time": fitted,
            }
        )
        if name.startswith("esjax"):
            claims.append(Claim(f"{name}: exponent of time in {axis}", fitted, 1.1))
    return curves, Table("Growth of time", rows), claims


def _seconds(function: Callable[..., Any], x: jax.Array, *, quick: bool) -> float:
    effort = measure.Effort(1, 3, 0.05 if quick else 0.2)
    return measure.costs({"": function}, jax.random.key(0), x, effort=effort)[""].seconds


def _memory(quick: bool) -> tuple[Table, list[Claim], list[Curve]]:
    """Measures the peak of a process of its own for each N."""
    counts = [1024, 16_384] if quick else [256, 1024, 4096, 16_384, 65_536]
    peaks: dict[str, list[float]] = {}
    for name in _PEERS:
        most = counts[-1] if name == "esjax" else 8192  # optax's would be gigabytes
        peaks[name] = [
            measure.peak_memory(gradient_once, name, _DIM, count) / 2**20 for count in counts if count <= most
        ]
    rows: list[Row] = [
        {"N": count} | {name: found[i] if i < len(found) else "not run" for name, found in peaks.items()}
        for i, count in enumerate(counts)
    ]
    curves = [
        Curve(f"N, at D = {_DIM:,}", "peak memory, MB", name, [float(n) for n in counts[: len(found)]], found)
        for name, found in peaks.items()
    ]
    ours = peaks["esjax"]
    name = f"peak memory at N = {counts[-1]:,} over that at N = {counts[-2 if quick else -3]:,}"
    claims = [Claim(name, ours[-1] / ours[-2 if quick else -3], 1.1)]
    return (
        Table(
            f"Peak memory, MB, of a process that imports JAX and computes one gradient; D = {_DIM:,}", rows
        ),
        claims,
        curves,
    )


def gradient_once(name: str, dim: int, num_samples: int) -> None:
    """Computes one gradient, in a process whose memory is watched."""
    problem = problems.threshold_count(dim)
    value, gradient = jax.jit(_PEERS[name](problem, num_samples))(jax.random.key(0), problem.x)
    value.block_until_ready(), gradient.block_until_ready()
