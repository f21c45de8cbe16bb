"""The codec task: JPEG as it is, the budget, both gradients, and the whole on a few images."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import esjax
from esjax.tasks import codec, models
from esjax.train import data


@pytest.fixture(scope="module")
def images():
    return data.load("mnist-5k").train_images[:200, ..., 0]


def test_jpeg_returns_the_decoded_file_and_its_length(images):
    decoded, size = codec.jpeg(images[0], 95)
    file = io.BytesIO()
    Image.fromarray((images[0] * 255).round().astype(np.uint8)).save(file, "JPEG", quality=95, optimize=True)
    assert size == len(file.getvalue()) and np.abs(decoded - images[0]).mean() < 0.01
    worse, fewer = codec.jpeg(images[0], 5)
    assert fewer < 0.7 * size and np.abs(worse - images[0]).mean() > 0.02


def test_the_common_factor_is_the_largest_that_keeps_the_budget(images):
    factor = codec.common_factor(images, 8)
    assert codec.encode(images * factor, 8)[1] <= codec.BUDGET < codec.encode(images * factor * 1.1, 8)[1]


def test_a_weight_is_that_of_one_square():
    ones, logits = jnp.ones((28, 28)), jnp.zeros(16).at[6].set(jnp.log(3.0))  # row 1, column 2
    found = codec.weighted(ones, logits)
    np.testing.assert_allclose(found[8:16, 16:24], 1.5, rtol=1e-6)  # twice 3 / (1 + 3)
    assert float(found.sum()) == pytest.approx(28**2 + 0.5 * 64)


def _loss_and_gradient(images, name):
    labels = jnp.arange(200) % 10
    params = {
        "encoder": models.init(jax.random.key(0), 784, 16, hidden=0) | {"offset": jnp.full(16, -1.0)},
        "classifier": models.init(jax.random.key(1), 784, 10, hidden=0),
    }
    params["classifier"]["linear"] = jax.random.normal(jax.random.key(2), (784, 10)) / 28
    loss = codec._LOSSES[name].__wrapped__(8)
    return params, jax.value_and_grad(loss)(params, jax.random.key(3), (images, labels, jnp.float32(0.4)))


@pytest.mark.parametrize("ours", ["through JPEG", "through JPEG, squares credited"])
def test_bytes_are_in_our_gradient_and_not_in_the_straight_through_one(images, ours, monkeypatch):
    names = ours, "straight-through"
    monkeypatch.setattr(codec, "_BYTE", 0.0)
    (_, (_, free)), (_, (_, straight)) = (_loss_and_gradient(images, name) for name in names)
    monkeypatch.setattr(codec, "_BYTE", 10.0)
    (_, (_, dear)), (_, (_, same)) = (_loss_and_gradient(images, name) for name in names)
    np.testing.assert_array_equal(straight["encoder"]["offset"], same["encoder"]["offset"])
    cost = dear["encoder"]["offset"] - free["encoder"]["offset"]
    assert cost.sum() > 10  # larger weights, more bytes
    np.testing.assert_allclose(dear["classifier"]["linear"], free["classifier"]["linear"], atol=1e-6)


def test_nothing_but_what_is_declared_reads_a_weight(images):
    block = codec._block(8)
    found = esjax.credit.check(
        lambda logits: block(codec.weighted(images[0], logits)),
        jnp.zeros(16),
        esjax.credit.declared(codec._reads()),
        jax.random.key(0),
        num_tries=32,
    )
    assert found == []


def test_the_straight_through_gradient_is_that_of_an_identity_at_the_decoded_image(images):
    params, (_, found) = _loss_and_gradient(images, "straight-through")
    chosen = codec._batch(jax.random.split(jax.random.key(3))[0], 200, codec._BATCH_SIZE)
    weigh = jax.vmap(lambda image: 0.4 * codec.weighted_by(params["encoder"], image))
    pictures = np.asarray(weigh(images[chosen]))
    decoded = np.stack([codec.jpeg(picture, 8)[0] for picture in pictures])
    labels = np.arange(200)[chosen] % 10
    logits = np.asarray(models.scores(params["classifier"], decoded.reshape(64, -1) / 0.4), np.float64)
    errors = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(10)[labels]
    in_pixels = (errors @ np.asarray(params["classifier"]["linear"]).T / 0.4).reshape(64, 28, 28) * pictures
    by_square = (
        np.pad(in_pixels, ((0, 0), (0, 4), (0, 4))).reshape(64, 4, 8, 4, 8).sum((2, 4)).reshape(64, 16)
    )
    in_logits = by_square.mean(0) * (1 - 1 / (1 + np.e))  # w = 2 sigmoid: (log w)' = 1 − sigmoid, at −1
    np.testing.assert_allclose(found["encoder"]["offset"], in_logits, rtol=1e-3, atol=1e-5)


def test_the_task_compares_four_methods(monkeypatch):
    full = data.load("mnist-5k")
    few = full._replace(
        train_images=full.train_images[:200],
        train_labels=full.train_labels[:200],
        test_images=full.test_images[:100],
        test_labels=full.test_labels[:100],
    )
    monkeypatch.setattr(codec.data, "load", lambda name: few)
    monkeypatch.setattr(codec, "_NUM_STEPS", 2)
    monkeypatch.setattr(codec, "_CLASSIFIER_STEPS", 100)
    monkeypatch.setattr(codec, "_QUALITIES", (8,))
    found = codec.compare(0)
    assert list(found) == ["no network", *codec._LOSSES] and min(found.values()) > 0.3
