"""What is measured: errors against exact gradients, times in turn, memory by XLA's own count."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np


class Cost(NamedTuple):
    """What one call costs.

    Attributes:
        compile_seconds: to trace and compile; median.
        seconds: of a call; median.
        spread: half the distance of the quartiles of `seconds`, over their median.
        temporaries: bytes that XLA allocates beside arguments and results.
    """

    compile_seconds: float
    seconds: float
    spread: float
    temporaries: int


def relative_squared_error(
    gradient: Callable[[Any], jax.Array], reference: Any, *, num_repeats: int, at_once: int = 50
) -> tuple[float, float]:
    """Returns E‖g − ∇F‖² / ‖∇F‖² of `gradient(key)` over independent keys, and its standard error."""
    exact = np.asarray(reference, np.float64).ravel()
    gradients = jax.jit(jax.vmap(gradient))
    errors = []
    for number in range(-(-num_repeats // at_once)):
        draws = np.asarray(gradients(jax.random.split(jax.random.key(number), at_once)), np.float64)
        errors.append(((draws.reshape(at_once, -1) - exact) ** 2).sum(1) / (exact @ exact))
    joined = np.concatenate(errors)
    return float(joined.mean()), float(joined.std() / len(joined) ** 0.5)


def costs(
    functions: Mapping[str, Callable[..., Any]], *args: Any, num_compiles: int = 3, num_turns: int = 15
) -> dict[str, Cost]:
    """Measures several functions of the same arguments in turn, so that a noisy machine hits them alike."""
    compile_times: dict[str, list[float]] = {name: [] for name in functions}
    times: dict[str, list[float]] = {name: [] for name in functions}
    compiled = {}
    for _ in range(num_compiles):
        for name, function in functions.items():
            jax.clear_caches()  # type: ignore[no-untyped-call]  # jax's own lack of types
            start = time.perf_counter()
            compiled[name] = jax.jit(function).lower(*args).compile()
            compile_times[name].append(time.perf_counter() - start)
    for _ in range(num_turns):
        for name, call in compiled.items():
            times[name].extend(_turn(call, args))
    return {
        name: Cost(
            compile_seconds=float(np.median(compile_times[name])),
            seconds=float(np.median(times[name])),
            spread=float(np.subtract(*np.percentile(times[name], [75, 25])) / 2 / np.median(times[name])),
            temporaries=temporaries(compiled[name]),
        )
        for name in functions
    }


def _turn(call: Callable[..., Any], args: tuple[Any, ...], seconds: float = 0.3) -> list[float]:
    """Times calls in a row, as in a loop of their own: at least one, after one that is left out."""
    _wait(call(*args))  # the cache and the free memory are what another function left
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = time.perf_counter()
        _wait(call(*args))
        times.append(time.perf_counter() - start)
    return times


def _wait(arrays: Any) -> None:
    jax.tree.map(lambda leaf: leaf.block_until_ready(), arrays)


def temporaries(compiled: Any) -> int:
    """Returns the bytes that a compiled function allocates beside its arguments and results."""
    return int(compiled.memory_analysis().temp_size_in_bytes)
