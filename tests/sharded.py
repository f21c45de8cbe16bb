"""Run by test_sharding.py, with more devices than the tests have: prints gradients, by number of devices.

python sharded.py NUM_LOCAL_DEVICES [PORT PROCESS]
"""

import gc
import json
import os
import sys

gc.disable()  # it looks through all that JAX keeps, again and again
num_local, *process = map(int, sys.argv[1:])
given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = f"{given} --xla_force_host_platform_device_count={num_local}"
os.environ["JAX_PLATFORMS"] = "cpu"  # of which there are several devices

import jax  # noqa: E402  # after its flags
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402

import esjax  # noqa: E402

if process:
    jax.distributed.initialize(f"localhost:{process[0]}", num_processes=2, process_id=process[1])

KEY, DIM = jax.random.key(0), 50
X, WEIGHTS = jnp.linspace(-1, 1, DIM), jnp.linspace(1, 2, DIM)


def one(x, weights):
    return jnp.sum(jnp.round(2 * x) * weights) + 100


def many(x, weights):
    return jnp.sort(x)[:3] * weights[0]


def line(x, weights):
    return jnp.sum(jnp.sin(2 * x) * weights)


def first_three(x, weights):
    return x[:3] * weights[0]


def sharding(num_devices):
    mesh = jax.make_mesh((num_devices,), ("samples",), devices=jax.devices()[:num_devices])
    return NamedSharding(mesh, PartitionSpec("samples"))


def gradients(fun, num_devices, **options):
    options = {"sampler": esjax.samplers.antithetic, "num_samples": 256} | options
    placed = None if num_devices is None else sharding(num_devices)
    smoothed = esjax.smooth(fun, sigma=0.5, sharding=placed, **options)

    def loss(x, weights, sigma):
        return jnp.sum(smoothed(KEY, x, weights, sigma=sigma) ** 2) / 100

    found = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(X, WEIGHTS, 0.5)
    return [np.ravel(leaf).tolist() for leaf in jax.tree.leaves(found)]


CASES = {
    "one value": (one, {}),
    "several values": (many, {}),
    "without credit": (one, {"credit": esjax.credit.none}),
    "iid in chunks, with a rest": (one, {"sampler": esjax.samplers.iid, "chunk_size": 24}),
    "no baseline": (one, {"baseline": esjax.baselines.none}),
    "at input": (one, {"baseline": esjax.baselines.at_input}),
    "ranks": (one, {"baseline": esjax.baselines.centered_rank, "num_samples": 64}),
    "discard": (one, {"discard": lambda values: values > 120}),
    "stand-in": (one, {"control": line, "sampler": esjax.samplers.iid}),
    "stand-in, several values": (many, {"control": first_three}),
    "orthogonal": (one, {"sampler": esjax.samplers.orthogonal, "num_samples": 800}),
}


def hessian_and_report(num_devices):
    placed = None if num_devices is None else sharding(num_devices)
    smoothed = esjax.smooth(
        one, sigma=0.5, num_samples=64, sampler=esjax.samplers.antithetic, sharding=placed
    )
    hessian = jax.jit(jax.hessian(smoothed, argnums=1))(KEY, X[:4], WEIGHTS[:4])
    keys = jax.random.split(KEY, 3)
    reports = jax.jit(jax.vmap(smoothed.with_info, (0, None, None)))(keys, X, WEIGHTS)
    return [np.ravel(leaf).tolist() for leaf in jax.tree.leaves((hessian, reports))]


def host_block(num_devices):
    """Returns gradients of a Python block that every device calls back to, and the number of its calls."""
    block = esjax.host.wrap(lambda x: np.float32(np.rint(2 * x).sum()), jnp.float32(0))
    found = gradients(lambda x, weights: block(x) * weights[0], num_devices)
    return [*found, [block.log.evaluations]]


def program(num_devices, credit):
    """Returns the compiled program of value and gradient, D = 10,000, whose 10,000 terms credit tells."""
    smoothed = esjax.smooth(
        lambda x: jnp.sum(x > 0, dtype=jnp.float32),
        sigma=0.5,
        num_samples=4096,
        credit=credit,
        sharding=sharding(num_devices),
    )
    step = jax.jit(jax.value_and_grad(smoothed, argnums=1))
    return step.lower(KEY, jnp.zeros(10_000)).compile().as_text()


results = {}
for name, (fun, options) in CASES.items():
    if process:
        numbers = [8] if name in ("one value", "several values") else []
    else:
        numbers = [None, 1, 2, 4, 8] if name in ("one value", "several values") else [None, 8]
    results[name] = {str(number): gradients(fun, number, **options) for number in numbers}
results["host block"] = {str(number): host_block(number) for number in ([8] if process else [None, 8])}
if not process:
    results["hessian and report"] = {str(number): hessian_and_report(number) for number in (None, 8)}
credits = {"none": esjax.credit.none, "auto": esjax.credit.auto}
hlo = {name: "" if process else program(8, credit) for name, credit in credits.items()}
print(json.dumps({"results": results, "hlo": hlo}))
