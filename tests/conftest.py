"""What every test of the core runs under: strict promotion of dtypes and ranks."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _strict(request):
    if request.path.name.startswith(("test_train", "test_tasks", "test_benchmarks")):
        yield  # Optax's Adam itself raises a float to an integer's power
    else:
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            yield


collect_ignore = ["sharded.py"]  # a script that test_sharding.py runs
