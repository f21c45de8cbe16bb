"""First calls: the processor time to trace and compile a value and its gradient, beside optax's."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from esjax.benchmarks import peers, problems
from esjax.benchmarks.report import Claim, Row, Section, Table

PEERS: dict[str, peers.Peer] = {
    "optax": peers.optax_normal,
    "iid": partial(peers.with_options, sampler="iid"),
    "antithetic": partial(peers.with_options, sampler="antithetic"),
    "auto": peers.auto,
    "auto, without credit": partial(peers.with_options, credit="none"),
}
_MOST = {"iid": 1.2, "auto": 1.5}


def run(quick: bool) -> Section:
    """Measures each in turn, from empty caches."""
    chosen = [problems.threshold_count(100), problems.rank_correlation(10)]
    if not quick:
        chosen += [problems.rounding(10), problems.threshold_count(10_000, num_samples=4096)]
    tables, claims = [], []
    for problem in chosen:
        calls = {name: peer(problem, problem.num_samples) for name, peer in PEERS.items()}
        seconds = _seconds(calls, jax.random.key(0), problem.x, num_turns=3 if quick else 7)
        rows: list[Row] = [
            {"": name, "s": found, "over optax's": found / seconds["optax"]}
            for name, found in seconds.items()
        ]
        tables.append(Table(f"{problem.name}, N = {problem.num_samples:,}", rows))
        claims += [
            Claim(
                f"{problem.name}: first call by {name} over optax's", seconds[name] / seconds["optax"], most
            )
            for name, most in _MOST.items()
        ]
    return Section("First calls: processor time to trace and compile", tables, claims, [])


def _seconds(calls: dict[str, Callable[..., Any]], *args: Any, num_turns: int) -> dict[str, float]:
    """Returns medians over the turns, but for a first one, which fills what stays."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    clear_caches: Any = jax.clear_caches  # JAX gives it no types
    for _ in range(1 + num_turns):
        for name, call in calls.items():
            clear_caches()
            start = time.process_time()
            jax.jit(call).lower(*args).compile()
            found[name].append(time.process_time() - start)
    return {name: float(np.median(times[1:])) for name, times in found.items()}
