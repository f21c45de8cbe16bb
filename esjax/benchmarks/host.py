"""`python -m esjax.benchmarks.host`: what `esjax.host.wrap` costs beside the Python function itself."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import esjax

_CALLS = 11
_ONE = np.float32(0)


def first(x: Any) -> Any:
    """Does as good as nothing."""
    return x[0]


def ten_milliseconds(x: Any) -> Any:
    """Waits as a solver would work."""
    time.sleep(0.01)
    return x[0]


def main() -> None:
    """Prints the overhead per sample in threads, and the throughput of two worker processes."""
    print(f"jax {jax.__version__}; {os.cpu_count()} CPU cores; medians of {_CALLS} calls\n")
    xs = jnp.ones((1000, 1000))
    with ThreadPoolExecutor(2) as threads:
        for name, executor in (("no executor", None), ("2 threads", threads)):
            call = jax.jit(jax.vmap(esjax.host.wrap(first, _ONE, executor)))
            print(f"overhead, 1,000 floats, {name}: {_seconds(call, xs) / len(xs) * 1e6:.1f} µs per sample")
    with esjax.host.ProcessPool(2) as pool:
        block = esjax.host.wrap(ten_milliseconds, _ONE, pool, timeout=5.0)
        smoothed = esjax.smooth(block, sigma=0.5, num_samples=64)
        step = jax.jit(jax.value_and_grad(lambda x: smoothed(jax.random.key(0), x)))
        rate = 64 / _seconds(step, jnp.zeros(1000))
        print(f"block of 10 ms, 2 processes: {rate:.0f} evaluations/s, {rate / 200:.0%} of 2 × 100")


def _seconds(call: Callable[..., Any], *args: Any) -> float:
    def once() -> float:
        start = time.perf_counter()
        jax.tree.map(lambda leaf: leaf.block_until_ready(), call(*args))
        return time.perf_counter() - start

    once()
    return float(np.median([once() for _ in range(_CALLS)]))


if __name__ == "__main__":
    main()
