"""Run by test_smooth_weights.py, with eight devices: gradients by number of devices, and eight's program."""

import json

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

import esjax


def _accuracy(params, x, labels):
    return jnp.mean((jnp.tanh(x @ params["w"]) @ params["v"] + params["b"]).argmax(-1) == labels)


def main():
    params = {"w": jnp.ones((40, 50)) / 40, "v": jnp.linspace(-1, 1, 150).reshape(50, 3), "b": jnp.zeros(3)}
    args = jax.random.key(0), params, jax.random.normal(jax.random.key(1), (8, 40)), jnp.arange(8) % 3

    def compiled(num_devices):
        sharding = None
        if num_devices:
            mesh = jax.make_mesh((num_devices,), ("samples",), devices=jax.devices()[:num_devices])
            sharding = NamedSharding(mesh, PartitionSpec("samples"))
        smoothed = esjax.smooth_weights(_accuracy, sigma=0.1, num_samples=64, chunk_size=4, sharding=sharding)
        return jax.jit(jax.value_and_grad(smoothed, 1)).lower(*args).compile()

    programs = {number: compiled(number) for number in (0, 2, 8)}
    found = {
        number: [jnp.ravel(leaf).tolist() for leaf in jax.tree.leaves(program(*args))]
        for number, program in programs.items()
    }
    print(json.dumps({"found": found, "hlo": programs[8].as_text()}))


if __name__ == "__main__":
    main()
