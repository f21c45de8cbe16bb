"""What is measured: errors against exact gradients, times in turn, memory by XLA and by the system."""

import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from esjax.train import tables


class Effort(NamedTuple):
    """How much is measured.

    Attributes:
        num_compiles: compilations of each function.
        num_turns: turns in which functions are timed, each in its turn.
        seconds: least time of a function's calls in one turn.
    """

    num_compiles: int = 3
    num_turns: int = 15
    seconds: float = 0.3


class Cost(NamedTuple):
    """What one call costs.

    Attributes:
        compile_seconds: to trace and compile; median.
        seconds: of a call; median.
        spread: half the interquartile range of `seconds`, over their median.
        temporaries: bytes that XLA allocates beside arguments and results.
        call: the compiled function.
    """

    compile_seconds: float
    seconds: float
    spread: float
    temporaries: int
    call: Callable[..., Any]

    @property
    def milliseconds(self) -> tuple[float, float]:
        """Median and spread of a call, for a table."""
        return 1e3 * self.seconds, 1e3 * self.seconds * self.spread


def relative_errors(
    gradient: Callable[..., jax.Array], reference: Any, *args: Any, num_repeats: int
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Returns ‖g − ∇F‖ / ‖∇F‖ of `gradient(key, *args)`, compiled, for independent keys, (num_repeats,)."""
    keys = jax.random.split(jax.random.key(0), num_repeats)
    return np.array([relative_error(gradient(key, *args), reference) for key in keys])


def relative_error(estimate: Any, reference: Any) -> float:
    """Returns ‖g − ∇F‖ / ‖∇F‖ of arrays of any shape."""
    exact = np.asarray(reference, np.float64).ravel()
    away = np.asarray(estimate, np.float64).ravel() - exact
    return float(np.linalg.norm(away) / np.linalg.norm(exact))


class Compared(NamedTuple):
    """An estimator of a gradient beside others.

    Attributes:
        error: E‖g − ∇F‖² / ‖∇F‖², and its standard error.
        cost: of a call.
    """

    error: tuple[float, float]
    cost: "Cost"

    @property
    def effort(self) -> float:
        """Squared error × seconds: the time that it takes to reach a given error, up to a factor."""
        return self.error[0] * self.cost.seconds


def side_by_side(
    functions: Mapping[str, Callable[..., Any]],
    x: jax.Array,
    reference: Any,
    *,
    effort: Effort,
    num_repeats: int,
) -> dict[str, Compared]:
    """Measures functions `(key, x) -> (value, gradient)` of one problem."""
    found = {}
    for name, cost in costs(functions, jax.random.key(0), x, effort=effort).items():
        squares = relative_errors(_second(cost.call), reference, x, num_repeats=num_repeats) ** 2
        found[name] = Compared(tables.mean_and_error(squares), cost)
    return found


def _second(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: call(*args)[1]


def costs(
    functions: Mapping[str, Callable[..., Any]],
    *args: Any,
    effort: Effort = Effort(),  # noqa: B008  # frozen
) -> dict[str, Cost]:
    """Measures several functions of the same arguments in turn, so that a noisy machine hits them alike."""
    compile_times: dict[str, list[float]] = {name: [] for name in functions}
    times: dict[str, list[float]] = {name: [] for name in functions}
    compiled = {}
    for _ in range(effort.num_compiles):
        for name, function in functions.items():
            jax.clear_caches()  # type: ignore[no-untyped-call]  # jax's own lack of types
            start = time.perf_counter()
            compiled[name] = jax.jit(function).lower(*args).compile()
            compile_times[name].append(time.perf_counter() - start)
    for _ in range(effort.num_turns):
        for name, call in compiled.items():
            times[name].extend(_turn(call, args, effort.seconds))
    return {
        name: Cost(
            compile_seconds=float(np.median(compile_times[name])),
            seconds=float(np.median(times[name])),
            spread=float(np.subtract(*np.percentile(times[name], [75, 25])) / 2 / np.median(times[name])),
            temporaries=temporaries(compiled[name]),
            call=compiled[name],
        )
        for name in functions
    }


def _turn(call: Callable[..., Any], args: tuple[Any, ...], seconds: float) -> list[float]:
    """Times calls in a row, as in a loop of their own: at least one, after one that is not counted."""
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


def exponent(xs: list[float], ys: list[float]) -> float:
    """Returns b of y = a xᵇ, by least squares in the logarithms."""
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


def peak_memory(function: Callable[..., None], *args: Any) -> int:
    """Returns the most bytes ever held by a new process that imports JAX and calls `function(*args)`.

    `function` must belong to a module, so that the process can import it.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_peak_after, function, *args).result()


def _peak_after(function: Callable[..., None], *args: Any) -> int:
    function(*args)
    return _peak()


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # Linux: the other figure would be that of the parent, where it is larger
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    import resource  # which Windows does not have

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
