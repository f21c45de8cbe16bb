"""Noisy labels: flips against arithmetic, standardised logits against numpy, and the task from end to end."""

import struct
from functools import partial
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esjax
from esjax.tasks import TASKS, noisy
from esjax.train import cli, loop, objectives, step
from esjax.train.data import Dataset

NAMES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
TRAIN, TEST = 240, 50


def _write(folder, num_classes=10):
    """Four IDX files of images of 4 × 4 random pixels."""
    random = np.random.default_rng(0)
    for name, count in zip(NAMES, (TRAIN, TRAIN, TEST, TEST), strict=True):
        array = np.arange(count) % num_classes
        if "images" in name:
            array = random.integers(256, size=(count, 4, 4))
        header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        (folder / f"{name}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Such a folder, and training that is short."""
    monkeypatch.setattr(noisy, "_EPOCHS", 2)
    monkeypatch.setattr(noisy, "_BATCH_SIZE", 40)
    monkeypatch.setattr(noisy, "_RATES", (1e-3,))
    return _write(tmp_path)


def _transitions(old, new):
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (old, new), 1)
    return counts


def test_flips_are_exactly_that_share_of_each_class_and_go_where_the_map_says():
    old = np.random.default_rng(1).integers(10, size=5000).astype(np.int32)
    images = np.zeros((5000, 1, 1, 1), np.float32)
    clean = Dataset("zeros", images, old, images, old.copy(), 10)
    flipped = noisy.flipped_labels(0.4)
    found = flipped(clean, 0)
    share = np.zeros((10, 10))
    pairs = {2: 6, 3: 4, 4: 3, 7: 5, 9: 7}  # pullover, dress, coat, sneaker, boot
    sizes = np.bincount(old)
    for label in range(10):
        share[label, pairs.get(label, label)] += round(0.4 * sizes[label])
        share[label, label] += sizes[label] - round(0.4 * sizes[label])
    np.testing.assert_array_equal(_transitions(old, found.train_labels), share)
    assert found.test_labels is clean.test_labels and found.train_images is images
    np.testing.assert_array_equal(old, clean.test_labels)  # the clean labels were not written to
    assert (flipped(clean, 0).train_labels == found.train_labels).all()
    assert (flipped(clean, 1).train_labels != found.train_labels).any()


def test_random_labels_replace_their_share_and_leave_those_of_the_test_set(folder):
    clean = noisy.load(folder)
    found = noisy.random_labels(0.4)(clean, 0)
    changed = np.count_nonzero(found.train_labels != clean.train_labels)
    mean, error = 0.4 * TRAIN * 0.9, (0.4 * TRAIN * 0.9 * 0.1) ** 0.5  # one in ten is the old one
    assert abs(changed - mean) < 4 * error
    assert found.test_labels is clean.test_labels


EXACT = objectives.in_closed_form(partial(esjax.exact.accuracy, sigma=3.0))
LOGITS = 3 * np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
LABELS = np.arange(64) % 10


def _gradient(objective, logits):
    return np.asarray(jax.grad(lambda logits: objective(None, logits, LABELS)[0])(logits))


def test_standardised_logits_are_those_of_numpy_and_their_scale_does_not_matter():
    by_hand = (LOGITS - LOGITS.mean(1, keepdims=True)) / LOGITS.std(1, keepdims=True)
    expected, _ = EXACT(None, by_hand, LABELS)
    for logits in (LOGITS, 50 * LOGITS + 7):
        found, _ = objectives.standardised(EXACT)(None, logits, LABELS)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    gradient = _gradient(objectives.standardised(EXACT), LOGITS)
    along, norms = (gradient * by_hand).sum(1), np.linalg.norm(gradient, axis=1)
    np.testing.assert_array_less(abs(along), 1e-3 * norms * 10**0.5)


@pytest.mark.parametrize(("dtype", "offset"), [("float32", 2.0**14), ("bfloat16", 16.0)])
def test_an_offset_that_all_logits_share_costs_standardised_ones_no_precision(dtype, offset):
    """Where logits with the offset are exact in their dtype."""
    logits = (LOGITS * 8).round() / 8
    shifted = jnp.asarray(logits + offset, dtype)
    assert (np.asarray(shifted, np.float64) == logits + offset).all()
    found, expected = (_gradient(objectives.standardised(EXACT), each) for each in (shifted, logits))
    assert found.dtype == dtype
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=1e-2, atol=1e-5)


def test_confidently_wrong_examples_keep_a_gradient_only_where_logits_are_standardised():
    wrong = 100 * np.eye(10, dtype=np.float32)[(LABELS + 3) % 10]
    assert abs(_gradient(EXACT, wrong)).max() < 1e-30
    assert 100 * abs(_gradient(objectives.standardised(EXACT), wrong)).max(1).min() > 1e-4


def test_the_rate_is_that_of_the_held_out_labels_and_not_of_the_test_set(monkeypatch):
    fits = {1e-3: noisy.Fit(0.6, [0.7, 0.8, 0.75]), 3e-3: noisy.Fit(0.5, [0.9, 0.9, 0.9])}
    monkeypatch.setattr(noisy, "fit", lambda objective, data, rate, seed: fits[rate])
    found = noisy.compare(None, 0)
    assert len(found) == 8
    assert found["accuracy, last epoch"] == 0.75 and found["cross-entropy, best epoch"] == 0.8


def test_a_fit_trains_on_all_but_a_twelfth_and_judges_the_rate_by_that(folder, monkeypatch):
    seen, counts = [], []
    epochs, confusion = loop.epochs, step.confusion

    def counted(*arguments):
        seen.append(arguments[2:])
        counts.append(confusion(*arguments))
        return counts[-1]

    monkeypatch.setattr(loop, "epochs", lambda *a, **k: seen.append(a[2]) or epochs(*a, **k))
    monkeypatch.setattr(step, "confusion", counted)
    data = noisy.load(folder)
    found = noisy.fit(objectives.cross_entropy, data, 1e-2, 0)
    first, second, held = (each.trace() / each.sum() for each in counts)
    assert (found.test, found.held_out) == ([first, second], held) and held not in (first, second)
    (train, *tested, (held_images, held_labels)) = seen
    assert (len(train.train_labels), len(held_labels)) == (220, 20)
    images, labels = (
        np.concatenate(pair) for pair in zip(train[1:3], (held_images, held_labels), strict=True)
    )
    order = np.lexsort(images.reshape(TRAIN, -1).T), np.lexsort(data.train_images.reshape(TRAIN, -1).T)
    np.testing.assert_array_equal(images[order[0]], data.train_images[order[1]])
    np.testing.assert_array_equal(labels[order[0]], data.train_labels[order[1]])
    assert all(pair[1] is data.test_labels for pair in tested)


def test_the_task_ends_with_table_verdict_and_picture(folder, capsys, monkeypatch):
    two = {name: noisy._OBJECTIVES[name] for name in ("cross-entropy", "accuracy")}
    monkeypatch.setattr(noisy, "_OBJECTIVES", two)
    out = folder / "out"
    args = ["task", "noisy-flips", "--data", str(folder), "--seeds", "2", "--out", str(out)]
    assert cli.main(args) == 0
    printed = capsys.readouterr().out
    assert "Fashion-MNIST, 40 %" in printed and "beat cross-entropy, best epoch" in printed
    assert (out / "table.md").read_text().count("\n| ") == 4
    assert (out / "comparison.png").read_bytes()[:4] == b"\x89PNG"


def test_the_command_line_knows_every_task():
    assert set(get_args(get_type_hints(cli.do_task)["name"])) == set(TASKS)


def test_missing_and_other_data_are_said_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(noisy, "FOLDER", tmp_path / "nowhere")
    assert cli.main(["task", "noisy-40"]) == 2
    message = capsys.readouterr().err
    assert "nowhere: no such folder; run apt install dataset-fashion-mnist, or pass --data" in message
    assert message.count("\n") == 1
    assert cli.main(["task", "noisy-40", "--data", str(tmp_path)]) == 2
    assert "has no file train-images" in capsys.readouterr().err
    assert cli.main(["task", "noisy-40", "--data", str(_write(tmp_path, num_classes=3))]) == 2
    assert "3 classes; give Fashion-MNIST" in capsys.readouterr().err
