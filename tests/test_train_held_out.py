"""Examples held out of training: which, and the weights that are kept for what they do on them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy import stats

from esjax.train import config, data, held_out, loop, models, objectives, run, step, summary


def _dots(count, seed=0):
    """Images that tell two classes apart, all of them different; a network needs some steps to do so."""
    labels = np.arange(count, dtype=np.int32) % 2
    images = np.random.default_rng(seed).uniform(0, 0.3, (count, 2, 2, 1)).astype(np.float32)
    images[np.arange(count), 0, labels, 0] += 0.2
    return images, labels


def _data(count=60):
    return data.Dataset("dots", *_dots(count), *_dots(20, seed=1), 2)


# --- which examples ----------------------------------------------------------------------------------


def _ids(images):
    return {image.tobytes() for image in images}


def test_what_is_held_out_and_what_is_left_are_the_training_set():
    whole = data.with_label_noise(_data(), 0.5, seed=3)
    label_of = dict(zip((image.tobytes() for image in whole.train_images), whole.train_labels, strict=True))
    found = data.hold_out(whole, 0.2, seed=0)
    held, left = _ids(found.held_images), _ids(found.train_images)
    assert (len(found.held_labels), len(found.train_labels), len(found.read_labels)) == (12, 48, 48)
    assert held | left == set(label_of) and not held & left
    for images, labels in ((found.held_images, found.held_labels), (found.train_images, found.train_labels)):
        assert [label_of[image.tobytes()] for image in images] == labels.tolist()
    assert found.test_images is whole.test_images


def test_the_draw_is_of_the_seed_and_even():
    times = np.zeros(60)
    for seed in range(200):
        whole = _data()._replace(train_labels=np.arange(60, dtype=np.int32))
        held = data.hold_out(whole, 0.25, seed=seed).held_labels
        assert held.tolist() == data.hold_out(whole, 0.25, seed=seed).held_labels.tolist()
        times[held] += 1
    expected, error = 200 * 0.25, (200 * 0.25 * 0.75) ** 0.5
    assert np.abs(times - expected).max() < 4 * error and times.std() < 1.5 * error


def test_what_is_held_out_is_said_and_recorded(tmp_path):
    whole = _data()
    assert "held out" not in summary.summary(whole)
    found = data.hold_out(whole, 0.2, seed=0)
    assert "held out 12 of 60 training images" in summary.summary(found)
    assert data.hold_out(whole, 0, seed=0) is whole


# --- which weights -----------------------------------------------------------------------------------


def _by_hand(scores):
    """Returns the newest epoch, from 1 on, with the largest score."""
    return max(range(len(scores)), key=lambda at: (scores[at], at)) + 1


@pytest.mark.parametrize("num_epochs", [1, 7, 40, 100])
def test_the_newest_epoch_of_the_best_score_is_kept(num_epochs):
    generator = np.random.default_rng(num_epochs)
    for _ in range(3):
        scores = generator.integers(0, 3, num_epochs) / 4  # with ties, and exact in float32
        kept = held_out.begin(held_out.Weights(jnp.int32(0), jnp.int32(0)))
        for epoch, score in enumerate(scores, 1):
            weights = held_out.Weights(jnp.int32(epoch), jnp.int32(-epoch))
            kept = held_out.with_mean(kept, weights, epoch, num_epochs)
            kept = held_out.with_score(kept, epoch, score)
        wanted = _by_hand(scores)
        assert (int(kept.epoch), *map(int, kept.weights)) == (wanted, wanted, -wanted)


@pytest.mark.parametrize(("num_epochs", "window"), [(19, 1), (79, 3)])
def test_the_mean_weights_are_those_of_a_twentieth_of_the_epochs(num_epochs, window):
    drawn = np.random.default_rng(0).normal(size=8)
    kept, mean = held_out.begin(held_out.Weights({"w": jnp.float32(9)}, {})), 0.0
    for epoch, weight in enumerate(drawn, 1):
        kept = held_out.with_mean(kept, held_out.Weights({"w": jnp.float32(weight)}, {}), epoch, num_epochs)
        size = min(epoch, window)  # the plain mean of the first ones, and then one in `window` of the newest
        mean = mean * (size - 1) / size + weight / size
        assert float(kept.mean.params["w"]) == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_the_score_is_the_chance_that_noise_leaves_a_standardised_example_right(num_classes):
    """By quadrature over the label's noise; of two classes there is nothing but right and wrong."""
    generator = np.random.default_rng(num_classes)
    logits, labels = 50 * generator.normal(size=(24, num_classes)), generator.integers(0, num_classes, 24)
    found = held_out.score(jnp.asarray(logits, jnp.float32), labels)
    if num_classes == 2:
        assert found == np.mean(logits.argmax(-1) == labels)
        return
    u, sigma = np.linspace(-9, 9, 2001), 3 / 24**0.5 * num_classes / (num_classes - 1) ** 0.5
    z = (logits - logits.mean(-1, keepdims=True)) / logits.std(-1, keepdims=True)
    leads = (np.take_along_axis(z, labels[:, None], 1) - z) / sigma
    beaten = stats.norm.cdf(u + leads[..., None])
    np.put_along_axis(beaten, labels[:, None, None], 1.0, 1)
    assert found == pytest.approx(np.trapezoid(stats.norm.pdf(u) * beaten.prod(1), u).mean(), abs=1e-5)


def test_a_score_is_precise_for_narrow_logits_and_finite_for_any():
    """Where standardised logits are not finite, what is right counts."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(50, 4)) + 30, jnp.bfloat16)
    labels = np.arange(50) % 4
    wide = np.asarray(logits, np.float32) - 30
    assert held_out.score(logits, labels) == pytest.approx(float(held_out.score(wide, labels)), abs=1e-6)
    masked = np.where(np.arange(4) == 3, -np.inf, wide)
    assert held_out.score(masked, labels) == np.mean(masked.argmax(-1) == labels)
    assert held_out.score(np.array([[3e38, -3e38, 0.0]], np.float32), np.array([0])) == 1


def test_a_score_that_is_nan_keeps_nothing_and_forgets_nothing():
    kept = held_out.begin(held_out.Weights(jnp.int32(0), jnp.int32(0)))
    for epoch, score in enumerate((0.2, 0.9, float("nan"), 0.1), 1):
        kept = held_out.with_mean(kept, held_out.Weights(jnp.int32(epoch), jnp.int32(0)), epoch, 4)
        kept = held_out.with_score(kept, epoch, jnp.float32(score))
    assert (int(kept.epoch), int(kept.weights.params)) == (2, 2)


def test_of_three_classes_weights_are_kept_by_the_score_and_not_by_decisions():
    """Of which several epochs get the same share right."""
    images, labels = _dots(60)
    whole = data.Dataset("dots", images, labels, *_dots(20, seed=1), 3)
    found = data.hold_out(whole, 0.3, seed=0)
    found = found._replace(held_labels=np.random.default_rng(0).integers(0, 3, 18))
    options = {"network": "mlp", "epochs": 10, "batch_size": 14, "num_samples": 8, "learning_rate": 1e-3}
    states, epochs = _trained(options, found)
    scores = [epoch.held_out_score for epoch in epochs]
    best = _by_hand(scores)
    assert loop.kept(epochs).epoch == best != _by_hand([epoch.held_out_accuracy for epoch in epochs])
    logits = run.prepare(config.TrainConfig(**options), found).trainer.logits(
        states[best - 1].offered, found.held_images
    )
    assert scores[best - 1] == pytest.approx(float(held_out.score(logits, found.held_labels)), abs=1e-6)


def test_two_classes_are_trained_on_raw_logits():
    """Standardised ones would have no gradient."""
    options = {"network": "mlp", "epochs": 8, "batch_size": 12, "num_samples": 8}
    _, epochs = _trained(options, data.hold_out(_data(), 0.1, seed=0))
    assert run.prepare(config.TrainConfig(**options), _data()).config.logits == "raw"
    assert epochs[-1].test_accuracy > 0.9


def _trained(options, found):
    """Returns the states and records of all epochs."""
    prepared = run.prepare(config.TrainConfig(**options), found)
    return zip(*run.stream(prepared), strict=True)


def test_a_run_ends_with_the_weights_that_did_best_on_what_is_held_out():
    """Labels of the held-out examples are turned round, so that whoever learns does worse."""
    found = data.hold_out(_data(), 0.3, seed=0)
    found = found._replace(held_labels=1 - found.held_labels)
    options = {"network": "mlp", "epochs": 10, "batch_size": 14, "num_samples": 8, "learning_rate": 3e-4}
    states, epochs = _trained(options, found)
    trainer = run.prepare(config.TrainConfig(**options), found).trainer
    logits = [np.asarray(trainer.logits(state.offered, found.held_images)) for state in states]
    scores = [np.mean(each.argmax(-1) == found.held_labels) for each in logits]
    assert [epoch.held_out_accuracy for epoch in epochs] == scores
    np.testing.assert_allclose([epoch.held_out_score for epoch in epochs], scores, rtol=1e-6)
    best = _by_hand(scores)
    assert best < 10 and loop.kept(epochs).epoch == best
    jax.tree.map(np.testing.assert_array_equal, states[-1].chosen.weights, states[best - 1].offered.weights)
    assert states[-1].chosen.opt_state is states[-1].opt_state


def test_the_picture_of_confusion_is_of_the_weights_kept(tmp_path):
    found = data.hold_out(_data(), 0.3, seed=0)
    found = found._replace(held_labels=1 - found.held_labels)  # whoever learns does worse
    prepared = run.prepare(
        config.TrainConfig(network="mlp", epochs=12, batch_size=14, learning_rate=3e-4), found
    )
    run.begin(prepared, tmp_path / "run")
    result = run.finish(prepared, tmp_path / "run")
    kept = loop.kept(result.epochs)
    assert kept.test_accuracy < result.epochs[-1].test_accuracy
    assert result.confusion.trace() / result.confusion.sum() == pytest.approx(kept.test_accuracy)


def test_what_is_held_out_has_no_part_in_training():
    found = data.hold_out(_data(), 0.3, seed=0)
    without = found._replace(held_images=None, held_labels=None)
    options = {"network": "mlp", "epochs": 2, "batch_size": 14, "num_samples": 8}
    (*_, state), _ = _trained(options, found)
    (*_, other), (*_, epoch) = _trained(options, without)
    jax.tree.map(np.testing.assert_array_equal, state.params, other.params)
    assert other.kept is None and other.chosen is other is other.offered
    assert (epoch.kept, epoch.held_out_accuracy) == (2, None)


def test_a_network_of_ones_own_keeps_weights_too():
    found = data.hold_out(_data(), 0.3, seed=0)
    network = models.MLP((2, 2, 1), 2, rngs=nnx.Rngs(0), hidden=4)
    trainer, state = step.make_trainer(network, objectives.cross_entropy, optax.sgd(0.1))
    stream = partial(loop.epochs, trainer, data=found, num_epochs=3, batch_size=14, seed=0)
    *_, (whole, _) = stream(state)
    ((first, _), *_) = stream(state)
    *_, (resumed, _) = stream(first)
    jax.tree.map(np.testing.assert_array_equal, whole.kept, resumed.kept)
