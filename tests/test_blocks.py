"""Blocks against their definitions in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

import esjax


def test_accuracy_is_whether_the_first_largest_logit_is_the_labels():
    logits = np.random.default_rng(0).integers(-2, 3, (200, 5)).astype(np.float32)  # with many ties
    labels = np.random.default_rng(1).integers(0, 5, 200)
    values = jax.vmap(esjax.blocks.accuracy)(jnp.asarray(logits), jnp.asarray(labels))
    expected = [float(list(row).index(max(row)) == label) for row, label in zip(logits, labels, strict=True)]
    assert values.dtype == jnp.float32
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_accuracy_has_the_dtype_of_the_logits(dtype):
    assert esjax.blocks.accuracy(jnp.array([0.0, 1.0], dtype), 1).dtype == dtype


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int16, jnp.int32])
def test_labels_may_be_any_integers(dtype):
    for block in (esjax.blocks.accuracy, partial(esjax.blocks.top_k_accuracy, k=1)):
        assert block(jnp.array([0.0, 1.0]), jnp.array(1, dtype)) == 1


def test_a_traced_label_out_of_range_is_never_right():
    assert jax.jit(esjax.blocks.accuracy)(jnp.array([0.0, 1.0]), 2) == 0


def test_top_k_accuracy_is_whether_fewer_than_k_come_before_the_label():
    logits = np.random.default_rng(0).integers(-2, 3, (200, 5)).astype(np.float32)  # with many ties
    labels = np.random.default_rng(1).integers(0, 5, 200)
    for k in (1, 2, 5):
        block = partial(esjax.blocks.top_k_accuracy, k=k)
        values = jax.vmap(block)(jnp.asarray(logits), jnp.asarray(labels))
        places = [
            list(np.argsort(-row, kind="stable")).index(label)
            for row, label in zip(logits, labels, strict=True)
        ]
        np.testing.assert_array_equal(values, np.array(places) < k)


@pytest.mark.parametrize("num_present", [2, 4, 6])
def test_f1_is_scikit_learns(num_present):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        predicted, labels = rng.integers(0, num_present, 12), rng.integers(0, 4, 12)
        ours = esjax.blocks.f1(jnp.asarray(predicted), jnp.asarray(labels), num_classes=6)
        theirs = metrics.f1_score(labels, predicted, labels=range(6), average="macro", zero_division=0)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


ZEROS = np.zeros(3, np.float32)
CLASSES = np.array([0, 1, 2])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: esjax.blocks.accuracy(np.zeros((2, 3)), 0), r"logits has shape \(2, 3\).*jax\.vmap"),
        (lambda: esjax.blocks.accuracy(CLASSES, 0), "logits has dtype int"),
        (lambda: esjax.blocks.accuracy(ZEROS, 3), "label=3 is out of range for 3 classes; use 0 to 2"),
        (lambda: esjax.blocks.accuracy(ZEROS, -1), "label=-1 is out of range"),
        (lambda: esjax.blocks.accuracy(ZEROS, 1.0), "label has dtype float32"),
        (lambda: esjax.blocks.accuracy(ZEROS, np.array([0, 1])), r"shape \(2,\); give one integer"),
        (lambda: esjax.blocks.top_k_accuracy(ZEROS, 3, k=1), "label=3 is out of range"),
        (lambda: esjax.blocks.top_k_accuracy(ZEROS, 0, k=4), "k=4 is more than the 3 logits; use k <= 3"),
        (lambda: esjax.blocks.top_k_accuracy(ZEROS, 0, k=0), "k=0 must be a whole number >= 1"),
        (
            lambda: esjax.blocks.f1(CLASSES, CLASSES, num_classes=2),
            "predicted=2 is out of range for 2 classes",
        ),
        (lambda: esjax.blocks.f1(CLASSES, CLASSES - 1, num_classes=3), "labels=-1 is out of range"),
        (lambda: esjax.blocks.f1(CLASSES, CLASSES[:2], num_classes=3), r"labels \(2,\); give both as \(B,\)"),
        (lambda: esjax.blocks.f1(ZEROS, CLASSES, num_classes=3), "predicted has dtype float32"),
        (lambda: esjax.blocks.f1(CLASSES, CLASSES, num_classes=0), "num_classes=0 must be"),
    ],
)
def test_wrong_arguments_name_themselves(call, match):
    with pytest.raises(ValueError, match=match):
        call()
