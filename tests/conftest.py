"""What every test of the core runs under: strict promotion of dtypes and ranks, and a compiler in a hurry."""

import gc
import os
from importlib.metadata import version

os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
if version("jaxlib").startswith("0.10."):  # later ones do not know the third flag, and end
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=1 --xla_cpu_parallel_codegen_split_count=1"
        " --xla_cpu_use_fusion_emitters=false",
    )
else:
    os.environ.setdefault(
        "XLA_FLAGS", "--xla_backend_optimization_level=1 --xla_cpu_parallel_codegen_split_count=1"
    )
# Most of the time is compilation. `XLA_FLAGS= pytest` compiles as users' programs are.

import jax  # after its flags
import pytest

_MOST_TIME_IS_COMPILATION = (
    "test_baselines",
    "test_blocks",
    "test_control",
    "test_decisions",
    "test_diagnostics",
    "test_discard",
    "test_estimator",
    "test_exact",
    "test_laws",
    "test_misuse",
    "test_numerics",
    "test_peers",
    "test_sigma",
    "test_smoothing",
    "test_unbiased",
)
"""Compiled without most optimisations. Other files look at compiled programs or bits, or train."""


@pytest.fixture(autouse=True, scope="module")
def _what_is_old_stays():
    """Keeps imports and JAX's caches out of garbage collection, which its check for leaks asks for often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture
def compiled(monkeypatch):
    """A list that grows with every program that is compiled."""
    seen = []
    monkeypatch.setattr("jax._src.interpreters.pxla.logger.log", lambda *args: seen.append(args))
    with jax.log_compiles():
        yield seen


@pytest.fixture(autouse=True)
def _strict(request):
    name = request.path.stem
    hurry = name in _MOST_TIME_IS_COMPILATION and "large" not in request.keywords
    jax.config.update("jax_disable_most_optimizations", hurry)
    if name.startswith(("test_train", "test_tasks", "test_benchmarks")):
        yield  # Optax's Adam itself raises a float to an integer's power
    else:
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            yield


collect_ignore = ["sharded.py"]  # a script that test_sharding.py runs
