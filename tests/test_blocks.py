"""Blocks against their definitions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_a_traced_label_out_of_range_is_never_right():
    assert jax.jit(esjax.blocks.accuracy)(jnp.array([0.0, 1.0]), 2) == 0


@pytest.mark.parametrize(
    ("logits", "label", "match"),
    [
        (np.zeros((2, 3), np.float32), 0, r"logits has shape \(2, 3\).*jax\.vmap"),
        (np.zeros(3, np.float32), 3, "label=3 is out of range for 3 logits; use labels 0 to 2"),
        (np.zeros(3, np.float32), -1, "label=-1 is out of range"),
        (np.zeros(3, np.float32), 1.0, "label has dtype float32"),
        (np.zeros(3, np.float32), np.array([0, 1]), r"shape \(2,\); give one integer"),
    ],
)
def test_wrong_arguments_of_accuracy_name_themselves(logits, label, match):
    with pytest.raises(ValueError, match=match):
        esjax.blocks.accuracy(logits, label)
