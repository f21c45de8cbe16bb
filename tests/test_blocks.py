"""Blocks against their definitions in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import jiwer
import numpy as np
import pytest
import rax
from lifelines.utils import concordance_index
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


# --- a batch, from decisions ---------------------------------------------------------------------------


def _random_classes(seed, num_classes, num_present):
    """Labels and predictions that often agree; some classes may be absent from either."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_present, 20)
    predicted = np.where(rng.random(20) < 0.5, labels, rng.integers(0, num_classes, 20))
    return predicted, labels


DEGENERATE = [
    (np.zeros(4, int), np.zeros(4, int)),  # one class only, all right
    (np.zeros(4, int), np.ones(4, int)),  # all wrong
    (np.array([0, 1, 0, 1]), np.zeros(4, int)),
    (np.array([2]), np.array([2])),
]
CLASS_CASES = [_random_classes(seed, 5, 1 + seed % 5) for seed in range(10)] + DEGENERATE


@pytest.mark.filterwarnings("ignore::UserWarning")  # scikit-learn's, of degenerate input
@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize(("ours", "theirs"), [("f1", metrics.f1_score), ("jaccard", metrics.jaccard_score)])
def test_f1_and_jaccard_of_classes_are_scikit_learns(ours, theirs, average):
    for predicted, labels in CLASS_CASES:
        found = getattr(esjax.blocks, ours)(predicted, labels, num_classes=5, average=average)
        wanted = theirs(labels, predicted, labels=range(5), average=average, zero_division=0)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize(("ours", "theirs"), [("f1", metrics.f1_score), ("jaccard", metrics.jaccard_score)])
def test_f1_and_jaccard_of_binary_decisions_are_scikit_learns(ours, theirs):
    block = getattr(esjax.blocks, ours)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        predicted, labels = (rng.random((2, 12, 3)) < rng.choice([0, 0.3, 1], 3)).astype(int)
        np.testing.assert_allclose(
            block(predicted[:, 0], labels[:, 0]),
            theirs(labels[:, 0], predicted[:, 0], zero_division=0),
            rtol=1e-6,
        )
        for average in ("macro", "micro"):
            wanted = theirs(labels, predicted, average=average, zero_division=0)
            np.testing.assert_allclose(block(predicted, labels, average=average), wanted, rtol=1e-6)
            found = block(predicted.astype(bool), labels.astype(bool), average=average)
            np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_matthews_and_kappa_are_scikit_learns():
    for predicted, labels in CLASS_CASES:
        found = esjax.blocks.matthews(predicted, labels, num_classes=5)
        np.testing.assert_allclose(found, metrics.matthews_corrcoef(labels, predicted), atol=1e-6)
        found = esjax.blocks.cohen_kappa(predicted, labels, num_classes=5)
        wanted = np.nan_to_num(metrics.cohen_kappa_score(labels, predicted, labels=range(5)))
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_few_positives_among_a_million_do_not_cancel():
    labels = np.zeros(1_000_000, np.int32)
    labels[:3] = 1
    predicted = np.roll(labels, 1)
    wanted = metrics.matthews_corrcoef(labels, predicted)
    np.testing.assert_allclose(esjax.blocks.matthews(predicted, labels), wanted, rtol=1e-5)
    wanted = metrics.cohen_kappa_score(labels, predicted)
    np.testing.assert_allclose(esjax.blocks.cohen_kappa(predicted, labels), wanted, rtol=1e-5)


def test_labels_that_a_mask_hides_may_be_anything():
    mask = np.array([True, False, True])
    for block in (esjax.blocks.f1, esjax.blocks.matthews):
        assert block(np.array([1, 0, 0]), np.array([1, -1, 0]), num_classes=2, mask=mask) == pytest.approx(1)
    assert esjax.blocks.dice(np.array([1, 0, 0]), np.array([1, 255, 0]), mask=mask) == 1


def test_of_zeros_of_both_signs_the_first_is_the_largest():
    assert esjax.blocks.top_k_accuracy(np.array([-0.0, 0.0], np.float32), 0, k=1) == 1


def test_dice_is_the_f1_of_pixels():
    rng = np.random.default_rng(0)
    predicted, labels, mask = rng.random((3, 6, 7)) < 0.4
    wanted = metrics.f1_score(labels[mask], predicted[mask])
    np.testing.assert_allclose(esjax.blocks.dice(predicted, labels, mask=mask), wanted, rtol=1e-6)
    assert esjax.blocks.dice(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 0


# --- a list, from scores -------------------------------------------------------------------------------


def _random_list(seed, num_values=1000):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 15))
    scores = rng.choice(num_values, n, replace=num_values < n).astype(np.float32)
    return scores, rng.integers(0, 4, n) * (rng.random(n) < 0.6)


@pytest.mark.parametrize("k", [None, 1, 3, 50])
def test_ndcg_is_raxs_and_scikit_learns(k):
    for seed in range(12):
        scores, relevance = _random_list(seed)
        found = esjax.blocks.ndcg(scores, relevance, k=k)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            wanted = rax.ndcg_metric(jnp.asarray(scores), jnp.asarray(relevance, jnp.float32), topn=k)
        np.testing.assert_allclose(found, wanted, rtol=2e-6)
        found = esjax.blocks.ndcg(scores, relevance, k=k, gain="linear")
        np.testing.assert_allclose(found, metrics.ndcg_score([relevance], [scores], k=k), rtol=2e-6)


def test_of_equal_scores_the_first_comes_first():
    scores, relevance = np.array([1.0, 1.0, 0.0], np.float32), np.array([0, 1, 0])
    np.testing.assert_allclose(esjax.blocks.ndcg(scores, relevance), 1 / np.log2(3), rtol=1e-6)
    assert esjax.blocks.reciprocal_rank(scores, relevance) == 0.5


def test_reciprocal_rank_is_raxs():
    for seed in range(12):
        scores, relevance = _random_list(seed)
        found = esjax.blocks.reciprocal_rank(scores, relevance)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            wanted = rax.mrr_metric(jnp.asarray(scores), jnp.asarray(relevance > 0, jnp.float32))
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("num_values", [1000, 4])  # without ties, and with many
def test_average_precision_is_scikit_learns(num_values):
    for seed in range(12):
        scores, relevance = _random_list(seed, num_values)
        wanted = metrics.average_precision_score(relevance > 0, scores)
        np.testing.assert_allclose(esjax.blocks.average_precision(scores, relevance), wanted, rtol=1e-6)


@pytest.mark.parametrize("num_values", [1000, 4])
def test_concordance_is_lifelines(num_values):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scores, times = rng.integers(0, num_values, (2, 25))
        events = rng.random(25) < 0.5
        found = esjax.blocks.concordance(scores.astype(np.float32), times.astype(np.float32), events)
        np.testing.assert_allclose(found, concordance_index(times, scores, events), rtol=1e-6)
    assert esjax.blocks.concordance(scores, times, np.zeros(25, bool)) == 0.5


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_scores_may_be_narrow(dtype):
    scores, relevance = jnp.array([2.0, 1.0, 3.0], dtype), jnp.array([0, 1, 0])
    assert esjax.blocks.reciprocal_rank(scores, relevance) == pytest.approx(1 / 3)
    assert esjax.blocks.average_precision(scores, relevance) == pytest.approx(1 / 3)
    assert esjax.blocks.ndcg(scores, relevance.astype(dtype)) == pytest.approx(0.5)
    assert esjax.blocks.concordance(scores, scores, jnp.ones(3, dtype)) == 1


def test_a_score_of_minus_infinity_is_the_lowest():
    scores, relevant = np.array([1.0, -np.inf, 0.0], np.float32), np.array([0, 1, 0])
    assert esjax.blocks.average_precision(scores, relevant) == pytest.approx(1 / 3)
    mask = np.array([True, True, False])
    assert esjax.blocks.average_precision(scores, relevant, mask=mask) == 0.5


# --- sequences -----------------------------------------------------------------------------------------


def _levenshtein(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        before, row = row, [i + 1]
        for j, y in enumerate(b):
            row.append(min(row[-1] + 1, before[j + 1] + 1, before[j] + (x != y)))
    return row[-1]


def test_edit_distances_of_padded_sequences_are_levenshteins():
    rng = np.random.default_rng(0)
    for _ in range(30):
        a, b = rng.integers(0, 4, 9), rng.integers(0, 4, 7)
        n, m = int(rng.integers(0, 10)), int(rng.integers(0, 8))
        lengths = {"predicted_length": n, "reference_length": m}
        found = jax.jit(esjax.blocks.edit_distance)(a, b, **lengths)
        assert int(found) == _levenshtein(a[:n], b[:m])
        rate = esjax.blocks.word_error_rate(a, b, **lengths)
        np.testing.assert_allclose(rate, _levenshtein(a[:n], b[:m]) / max(m, 1), rtol=1e-6)


def test_word_error_rate_is_jiwers():
    vocabulary = ["a", "rose", "is", "red"]
    rng = np.random.default_rng(1)
    for _ in range(10):
        a, b = rng.integers(0, 4, 6), rng.integers(0, 4, 5)
        texts = [" ".join(vocabulary[token] for token in tokens) for tokens in (b, a)]
        np.testing.assert_allclose(esjax.blocks.word_error_rate(a, b), jiwer.wer(*texts), rtol=1e-6)


# --- all -----------------------------------------------------------------------------------------------

OF_LISTS = {
    "ndcg": (partial(esjax.blocks.ndcg, k=3), 2),
    "reciprocal_rank": (esjax.blocks.reciprocal_rank, 2),
    "average_precision": (esjax.blocks.average_precision, 2),
    "concordance": (lambda a, b, c, mask: esjax.blocks.concordance(a, b, c > 0, mask=mask), 3),
    "f1": (partial(esjax.blocks.f1, num_classes=3), 2),
    "binary f1": (lambda a, b, mask: esjax.blocks.f1(a == 1, b == 1, mask=mask), 2),
    "jaccard": (partial(esjax.blocks.jaccard, num_classes=3), 2),
    "matthews": (partial(esjax.blocks.matthews, num_classes=3), 2),
    "cohen_kappa": (partial(esjax.blocks.cohen_kappa, num_classes=3), 2),
    "dice": (lambda a, b, mask: esjax.blocks.dice(a == 1, b == 1, mask=mask), 2),
}


@pytest.mark.parametrize("name", OF_LISTS)
def test_what_a_mask_hides_changes_nothing(name):
    block, num_arguments = OF_LISTS[name]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        arrays = rng.integers(0, 3, (num_arguments, 12))
        mask = rng.random(12) < 0.6
        mask[0] = True
        kept = block(*(jnp.asarray(array[mask]) for array in arrays), mask=np.ones(mask.sum(), bool))
        hidden = jax.jit(block)(*map(jnp.asarray, arrays), mask=mask)
        np.testing.assert_allclose(hidden, kept, rtol=1e-6)
    nothing = block(*map(jnp.asarray, arrays), mask=np.zeros(12, bool))
    assert nothing == (0.5 if name == "concordance" else 0)
