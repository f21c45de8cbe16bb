"""Samples on many devices: the gradients of one, and no more than O(D) numbers between them."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import esjax

_SCRIPT = Path(__file__).parent / "sharded.py"


def _start(*arguments):
    return subprocess.Popen(
        [sys.executable, _SCRIPT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _output(process):
    out, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(out.splitlines()[-1])


def _assert_same(by_devices):
    by_devices = dict(by_devices)
    alone = by_devices.pop("None")
    for num_devices, leaves in by_devices.items():
        for found, wanted in zip(leaves, alone, strict=True):
            scale = np.max(np.abs(wanted))
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * scale, err_msg=num_devices)


@pytest.fixture(scope="module")
def eight():
    return _output(_start(8))


def test_gradients_on_1_2_4_and_8_devices_are_those_of_one(eight):
    assert len(eight["results"]) == 13 and len(eight["results"]["one value"]) == 5
    for by_devices in eight["results"].values():
        _assert_same(by_devices)


def test_devices_call_back_once_for_each_sample(eight):
    assert all(leaves[-1] == [256] for leaves in eight["results"]["host block"].values())


@pytest.mark.parametrize(("credit", "of_dim"), [("none", 1), ("auto", 3)])
def test_one_reduction_of_dim_numbers_crosses_devices_and_with_credit_the_terms_offsets_and_sums(
    eight, credit, of_dim
):
    transfer = r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(-start)?\("
    sizes = [
        int(np.prod([int(number) for number in shape.split(",") if number]))
        for types, *_ in re.findall(transfer, eight["hlo"][credit])
        for shape in re.findall(r"\w+\[([\d,]*)\]", types)
    ]
    assert max(sizes) == 10_000 and sizes.count(10_000) == of_dim
    assert sum(sizes) < of_dim * 10_000 + 10  # the rest are single numbers


def test_two_processes_give_the_gradients_of_one_device(eight):
    alone = {name: by_devices["None"] for name, by_devices in eight["results"].items()}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    first, second = (_start(4, port, number) for number in range(2))
    try:
        for process in (first, second):
            results = _output(process)["results"]
            for name in ("one value", "several values"):
                _assert_same({"None": alone[name]} | results[name])
            *gradients, evaluations = results["host block"]["8"]
            _assert_same({"None": alone["host block"][:-1], "8": gradients})
            assert evaluations == [128]  # its own half
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("num_samples", "group_size", "message"),
    [
        (10, 1, r"num_samples=10 cannot be shared equally by the 4 devices .*use num_samples=12$"),
        (64, 32, r"in groups of 32, cannot be shared.*use num_samples=128, or a sampler of smaller groups"),
    ],
)
def test_samples_that_cannot_be_shared_name_the_number_that_can(num_samples, group_size, message):
    from esjax._core import placement

    shards = placement.Shards(None, ("samples",), 4)
    with pytest.raises(ValueError, match=message):
        placement.check_fits(shards, num_samples, group_size)
    placement.check_fits(shards, 4 * group_size * 3, group_size)


def test_arrays_may_be_placed_on_automatic_axes_and_are_refused_on_explicit_ones():
    def gradient(axis_type):
        mesh = jax.make_mesh((1,), ("samples",), axis_types=(axis_type,))
        placed = NamedSharding(mesh, PartitionSpec("samples"))
        smoothed = esjax.smooth(jnp.sum, sigma=1.0, num_samples=4, sharding=placed)
        return jax.grad(smoothed, argnums=1)(jax.random.key(0), jax.device_put(jnp.ones(3), placed))

    alone = esjax.smooth(jnp.sum, sigma=1.0, num_samples=4)
    expected = jax.grad(alone, argnums=1)(jax.random.key(0), jnp.ones(3))
    np.testing.assert_allclose(gradient(AxisType.Auto), expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"x is placed on a mesh of explicit axes; .*AxisType\.Auto"):
        gradient(AxisType.Explicit)
