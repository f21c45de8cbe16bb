"""What every test runs under: a compiler in a hurry, and JAX's checker of keys that are used twice.

Tests of the core run under strict promotion of dtypes and ranks, too.
"""

import contextlib
import gc
import os
from importlib.metadata import version

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
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
# Most of the time is compilation. As users' programs are compiled:
# `XLA_FLAGS= JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest`

import jax  # after its flags
import pytest

_IN_A_HURRY = jax.config.read("jax_disable_most_optimizations")
gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True, scope="module")
def _what_is_old_stays():
    """Keeps imports and JAX's caches out of garbage collection, which its check for leaks asks for often."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def compiled(monkeypatch):
    """A list that grows with every program that is compiled."""
    seen = []
    monkeypatch.setattr("jax._src.interpreters.pxla.logger.log", lambda *args: seen.append(args))
    with jax.log_compiles():
        yield seen


@pytest.fixture(autouse=True)
def _strict(request):
    jax.config.update("jax_disable_most_optimizations", _IN_A_HURRY and "large" not in request.keywords)
    with contextlib.ExitStack() as stack:
        if "jaxopt" not in request.node.name:  # which uses keys twice
            stack.enter_context(jax.debug_key_reuse(True))
        # Optax's Adam itself raises a float to an integer's power
        if not request.path.stem.startswith(("test_train", "test_tasks", "test_benchmarks")):
            stack.enter_context(jax.numpy_dtype_promotion("strict"))
            stack.enter_context(jax.numpy_rank_promotion("raise"))
        # Networks, which a GPU computes in fewer bits
        if request.path.stem.startswith(("test_tasks", "test_low_rank", "test_smooth_weights")):
            stack.enter_context(jax.default_matmul_precision("highest"))
        yield


collect_ignore = ["placed.py", "sharded.py"]  # scripts that tests run with more devices
