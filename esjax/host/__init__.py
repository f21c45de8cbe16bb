"""Python functions as JAX functions, evaluated on the host: simulators, encoders, solvers, programs.

    block = esjax.host.wrap(python_fun, jax.ShapeDtypeStruct((), jnp.float32), executor)
    smoothed = esjax.smooth(block, sigma=0.5, num_samples=64)  # inside jit, grad, vmap, scan

The samples are handed to any `concurrent.futures.Executor`: threads, processes, Dask's, Ray's.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported when they are first used: workers import this package, and need no JAX
    from esjax.host.executors import ProcessPool, RayExecutor
    from esjax.host.faults import Fault, Log
    from esjax.host.wrapping import Wrapped, wrap

__all__ = ["Fault", "Log", "ProcessPool", "RayExecutor", "Wrapped", "wrap"]

_HOMES = {
    "Fault": "faults",
    "Log": "faults",
    "ProcessPool": "executors",
    "RayExecutor": "executors",
    "Wrapped": "wrapping",
    "wrap": "wrapping",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"esjax.host.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'esjax.host' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
