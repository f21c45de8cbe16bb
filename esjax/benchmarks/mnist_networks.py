"""MNIST-5k and networks for it, as functions of their weights: an MLP and a CNN, with centred logits.

Logits are less their mean over the batch, as those of `esjax.train.models.Centred`, so that no class is lost;
in a test, less that of the training set. The MLP sees the first principal components of the training images:
weights of pixels that say little would only collect noise.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esjax.train import data

Array = jax.Array
Logits = Callable[[Any, Array], Array]  # (params, images (B, H, W, C)) -> logits (B, K), not centred

_COMPONENTS = 64
_HIDDEN = 64
_CHANNELS = (8, 16)


class Problem(NamedTuple):
    """What is learned: images (M, H, W, C) with labels (M,), by a network from its first weights."""

    images: Array
    labels: Array
    test_images: Array
    test_labels: Array
    logits: Logits
    params: Any


def _mlp(key: Any, read: data.Dataset) -> tuple[Logits, Any]:
    """The components are scaled by one number, to a mean square of 1."""
    flat = read.train_images.reshape(len(read.train_images), -1)
    mean = flat.mean(0)
    _, sizes, axes = np.linalg.svd(flat - mean, full_matrices=False)
    projection = axes[:_COMPONENTS].T / np.sqrt(np.sum(sizes[:_COMPONENTS] ** 2) / (len(flat) * _COMPONENTS))
    first, last = jax.random.split(key)
    params = {"w": _normal(first, _COMPONENTS, _HIDDEN), "b": jnp.zeros(_HIDDEN)}
    params |= {"v": _normal(last, _HIDDEN, 10), "c": jnp.zeros(10)}

    def logits(params: Any, images: Array) -> Array:
        x = (images.reshape(len(images), -1) - mean) @ projection
        return jax.nn.relu(x @ params["w"] + params["b"]) @ params["v"]

    return logits, params


def _cnn(key: Any, read: data.Dataset) -> tuple[Logits, Any]:
    """Convolutions of 7 × 7 with a stride of 4, and of 3 × 3 with a stride of 2.

    They are products of patches: on a CPU, a convolution with a kernel for each sample takes many times as
    long, and OpenES has nothing else.
    """
    mean = read.train_images.mean(0)
    scale = np.sqrt(np.mean(np.square(read.train_images - mean)))
    one, two = _CHANNELS
    keys = jax.random.split(key, 3)
    params = {
        "first": {"w": _normal(keys[0], 7 * 7, one), "b": jnp.zeros(one)},
        "second": {"w": _normal(keys[1], 3 * 3 * one, two), "b": jnp.zeros(two)},
        "v": _normal(keys[2], 4 * 4 * two, 10),
        "c": jnp.zeros(10),
    }

    def logits(params: Any, images: Array) -> Array:
        x = (images - mean) / scale
        for layer, size, stride in ((params["first"], 7, 4), (params["second"], 3, 2)):
            x = jax.nn.relu(_patches(x, size, stride) @ layer["w"] + layer["b"])
        return x.reshape(len(x), -1) @ params["v"]

    return logits, params


def _patches(x: Array, size: int, stride: int) -> Array:
    """Returns the patches (B, ⌈H / stride⌉, ⌈W / stride⌉, size² C) of images (B, H, W, C), padded with 0.

    By slices: on a CPU, JAX's own, which are a convolution, take up to 1.8 times as long.
    """
    height, width = (-(-length // stride) for length in x.shape[1:3])
    edges = [
        max((count - 1) * stride + size - length, 0)
        for count, length in zip((height, width), x.shape[1:3], strict=True)
    ]
    padded = jnp.pad(x, ((0, 0), *((edge // 2, edge - edge // 2) for edge in edges), (0, 0)))
    parts = [
        padded[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
        for i, j in np.ndindex(size, size)
    ]
    return jnp.concatenate(parts, -1)


NETWORKS = {"mlp": _mlp, "cnn": _cnn}


def problem(network: str, key: Any) -> Problem:
    """Returns MNIST-5k with one of the `NETWORKS`."""
    read = data.load("mnist-5k")
    logits, params = NETWORKS[network](key, read)
    return Problem(
        jnp.asarray(read.train_images),
        jnp.asarray(read.train_labels),
        jnp.asarray(read.test_images),
        jnp.asarray(read.test_labels),
        logits,
        params,
    )


def shifted(key: Any, images: Array, most: int) -> Array:
    """Moves each image by up to `most` pixels along each axis, and fills up with black."""
    padded = jnp.pad(images, ((0, 0), (most, most), (most, most), (0, 0)))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * most + 1)

    def cut(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (*corner, 0), images.shape[1:])

    return jax.vmap(cut)(padded, corners)


def _normal(key: Any, *shape: int) -> Array:
    """Returns weights of variance 2 / fan-in (He et al. 2015, eq. 10)."""
    return jax.random.normal(key, shape) * (2 / math.prod(shape[:-1])) ** 0.5


def right(logits: Logits, params: Any, images: Array, labels: Array) -> Array:
    """Returns the share of a batch that is right: all that the contenders are told."""
    found = logits(params, images)
    return jnp.mean((found - found.mean(0) + params["c"]).argmax(-1) == labels)


def tested(problem: Problem, params: Any) -> tuple[Array, Array]:
    """Returns the shares of the test set and of the training set that are right."""
    train, test = problem.logits(params, problem.images), problem.logits(params, problem.test_images)
    shift = params["c"] - train.mean(0)
    return (
        jnp.mean((test + shift).argmax(-1) == problem.test_labels),
        jnp.mean((train + shift).argmax(-1) == problem.labels),
    )
