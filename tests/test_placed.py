"""`jax.shard_map` with its defaults, and arrays on meshes of explicit axes: the numbers of one device."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).parent / "placed.py"


@pytest.fixture(scope="module")
def results():
    done = subprocess.run([sys.executable, _SCRIPT], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def _far(results):
    return {name: found for name, found in results.items() if isinstance(found, str) or found > 1e-5}


def test_inside_shard_map_each_device_has_its_value_and_what_all_have_the_sum_of_gradients(results):
    """As JAX has it for differentiable functions, of which "plain" is one."""
    assert len(results["shard_map"]) == 38 and not _far(results["shard_map"])


@pytest.mark.parametrize("how", ["explicit", "set_mesh"])
def test_arrays_on_explicit_axes_give_the_numbers_of_one_device_and_stay_where_they_are(how, results):
    found = results[how]
    assert len(found) == 17 and not any(isinstance(each, str) for each in found.values()), found
    assert not _far({name: difference for name, (difference, _, _) in found.items()})
    assert all(spec.startswith("P('d'") for _, spec, _ in found.values()), found
    exact = [name for name in found if name.split("_")[0] in ("accuracy", "argmax", "top", "threshold")]
    assert len(exact) == 5 and not any(found[name][2] for name in exact), found  # no collective
