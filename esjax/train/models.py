"""Small Flax networks for images: (B, H, W, C) → logits (B, K)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Array = jax.Array


def require_batch(batch_size: int) -> None:
    """Raises `ValueError` for a batch of one, of which `Centred` leaves nothing.

    Batches of two suffice: `esjax train --data digits --network mlp --epochs 10` ends with a test
    accuracy of 6.1 % for batches of 1, 95.0 % for 2, 95.6 % for 3, 96.9 % for 4 and 8, and 96.7 % to 97.8 %
    for 16 to 128.
    """
    if batch_size < 2:
        raise ValueError(
            f"batch_size={batch_size}: the mean over the batch is subtracted from the logits, which leaves "
            "nothing of a single example; use at least 2, better 4 or more"
        )


class Centred(nnx.Module):
    """Takes the batch's mean from the logits of each class, and adds a learned offset instead.

    Without it, whole classes can be lost. As long as logits are small beside σ, the gradient of accuracy is
    linear, and nothing holds back a drift that all examples share, which the frequencies of the classes
    drive and features with a common mean amplify. A class that is behind by more than σ then has no gradient
    left.

    In evaluation mode, `network.eval()`, the mean is that of earlier batches, mostly of the last 50.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self.offset = nnx.Param(jnp.zeros(num_classes))
        self.mean = nnx.BatchStat(jnp.zeros(num_classes))
        self.num_batches = nnx.BatchStat(jnp.zeros(()))
        self.use_running_average = False

    def __call__(self, logits: Array) -> Array:
        """Returns centred logits (B, K).

        Raises:
            ValueError: a batch of one in training, of which nothing would be left.
        """
        if self.use_running_average:
            return logits - self.mean[...] + self.offset[...]
        require_batch(len(logits))
        mean = logits.mean(0)
        self.num_batches[...] += 1
        share = jnp.maximum(1 / self.num_batches[...], 1 / 50)
        self.mean[...] += share * (jax.lax.stop_gradient(mean) - self.mean[...])
        return logits - mean + self.offset[...]


class MLP(nnx.Module):
    """Two hidden layers on the flattened image.

    Args:
        image_shape: (H, W, C).
        num_classes: K, the number of logits.
        rngs: where the initial weights come from.
        hidden: units of each hidden layer.
    """

    def __init__(
        self, image_shape: tuple[int, ...], num_classes: int, *, rngs: nnx.Rngs, hidden: int = 256
    ) -> None:
        self.hidden1 = nnx.Linear(math.prod(image_shape), hidden, rngs=rngs)
        self.hidden2 = nnx.Linear(hidden, hidden, rngs=rngs)
        self.logits = nnx.Linear(hidden, num_classes, use_bias=False, rngs=rngs)
        self.centred = Centred(num_classes)

    def features(self, images: Array) -> Array:
        """Returns what the last layer sees, (B, H), of images (B, H, W, C)."""
        x = images.reshape(images.shape[0], -1)
        return nnx.relu(self.hidden2(nnx.relu(self.hidden1(x))))

    def __call__(self, images: Array) -> Array:
        """Returns logits (B, K) of images (B, H, W, C)."""
        return self.centred(self.logits(self.features(images)))


class CNN(nnx.Module):
    """Two convolutions, each halving the image, and two dense layers.

    Args:
        image_shape: (H, W, C).
        num_classes: K, the number of logits.
        rngs: where the initial weights come from.
        channels: of the first convolution; the second has twice as many.
    """

    def __init__(
        self, image_shape: tuple[int, ...], num_classes: int, *, rngs: nnx.Rngs, channels: int = 16
    ) -> None:
        height, width, colours = image_shape
        self.conv1 = nnx.Conv(colours, channels, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(channels, 2 * channels, (3, 3), rngs=rngs)
        flat = math.ceil(math.ceil(height / 2) / 2) * math.ceil(math.ceil(width / 2) / 2) * 2 * channels
        self.hidden = nnx.Linear(flat, 128, rngs=rngs)
        self.logits = nnx.Linear(128, num_classes, use_bias=False, rngs=rngs)
        self.centred = Centred(num_classes)

    def features(self, images: Array) -> Array:
        """Returns what the last layer sees, (B, H), of images (B, H, W, C)."""
        x = _halve(nnx.relu(self.conv1(images)))
        x = _halve(nnx.relu(self.conv2(x)))
        return nnx.relu(self.hidden(x.reshape(x.shape[0], -1)))

    def __call__(self, images: Array) -> Array:
        """Returns logits (B, K) of images (B, H, W, C)."""
        return self.centred(self.logits(self.features(images)))


def _halve(x: Array) -> Array:
    """Takes the largest of each 2 × 2 square of x (B, H, W, C) ≥ 0; odd edges are padded with 0.

    By reshaping: on CPUs the gradient of `nnx.max_pool` takes more than twice the time of a whole step.
    """
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    return x.reshape(batch, (height + 1) // 2, 2, (width + 1) // 2, 2, channels).max((2, 4))


Network = MLP | CNN

NETWORKS: dict[str, type[MLP] | type[CNN]] = {"mlp": MLP, "cnn": CNN}
"""The networks by the names that the command line knows."""


def logits_of(network: Any, images: Any) -> Array:
    """Returns the network's logits (B, K), in float32 or wider."""
    logits = network(images)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
