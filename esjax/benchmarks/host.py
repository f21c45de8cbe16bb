"""`python -m esjax.benchmarks.host`: what `esjax.host.wrap` costs beside the Python function itself."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import esjax

_CALLS = 11
_ONE = np.float32(0)


def first(x: Any) -> Any:
    """Does next to nothing."""
    return x[0]


def ten_milliseconds(x: Any) -> Any:
    """Waits as long as a solver might work."""
    time.sleep(0.01)
    return x[0]


def main() -> None:
    """Prints the overhead in threads, the throughput of two processes, and what a driver can hand out."""
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
    for name, executor_of in (("ProcessPool", esjax.host.ProcessPool), ("Ray", _ray), ("Dask", _dask)):
        try:
            with executor_of(2) as workers:
                call = jax.jit(jax.vmap(esjax.host.wrap(first, _ONE, workers)))
                rate = 512 / _seconds(call, xs[:512])
            print(f"handed out, 1,000 floats, 2 workers of {name}: {rate:.0f} samples/s")
        except ModuleNotFoundError as error:
            print(f"handed out, {name}: {error}")


@contextmanager
def _ray(num_workers: int) -> Iterator[Executor]:
    import ray

    ray.init(num_cpus=num_workers, include_dashboard=False, log_to_driver=False)
    try:
        yield esjax.host.RayExecutor()
    finally:
        ray.shutdown()


@contextmanager
def _dask(num_workers: int) -> Iterator[Executor]:
    import distributed

    untyped: Any = distributed
    local = {"n_workers": num_workers, "threads_per_worker": 1, "dashboard_address": None}
    with untyped.LocalCluster(**local) as cluster, untyped.Client(cluster) as client:
        yield client.get_executor(pure=False)


def _seconds(call: Callable[..., Any], *args: Any) -> float:
    def once() -> float:
        start = time.perf_counter()
        jax.tree.map(lambda leaf: leaf.block_until_ready(), call(*args))
        return time.perf_counter() - start

    once()
    return float(np.median([once() for _ in range(_CALLS)]))


if __name__ == "__main__":
    from esjax.benchmarks import host  # workers import its functions by this name

    host.main()
