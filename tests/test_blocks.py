"""Blocks against their definitions in NumPy."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import jiwer
import numpy as np
import pytest
import rax
from lifelines.utils import concordance_index
from scipy import stats
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


def test_of_logits_that_float32_ties_the_larger_is_larger():
    logits = np.array([1.0, 1.0 + 1e-12])
    for block in (esjax.blocks.accuracy, partial(esjax.blocks.top_k_accuracy, k=1)):
        assert block(logits, 1) == 1 and block(logits, 1).dtype == jnp.float32
        assert block(np.array([np.inf, np.nan, 1.0]), 1) == block(np.array([1, np.nan], np.float32), 1) == 1


def test_labels_that_int32_would_wrap_are_out_of_range():
    missing = np.array([0.0, -(2.0**63)]).astype(np.int64)  # as NaN becomes
    for classes in (missing, np.array([0, 2**32]), np.array([0, 2**63], np.uint64)):
        with pytest.raises(ValueError, match=f"label={classes[1]} is out of range"):
            esjax.blocks.accuracy(jnp.zeros(2), classes[1])
        with pytest.raises(ValueError, match=f"predicted={classes[1]} is out of range"):
            esjax.blocks.f1(classes, np.array([0, 1]), num_classes=3)
        mask = np.array([True, False])
        assert esjax.blocks.f1(classes, np.array([0, 1]), num_classes=2, mask=mask) == 0.5
    with jax.enable_x64(True):
        labels = jnp.array([2**32, 2**32 + 1, -(2**32)])
        assert (jax.jit(jax.vmap(esjax.blocks.accuracy))(jnp.zeros((3, 2)), labels) == 0).all()
        assert jax.jit(esjax.blocks.f1)(labels, jnp.array([0, 1, 0])) == 0
        assert jax.jit(partial(esjax.blocks.jaccard, num_classes=2))(labels, jnp.array([0, 1, 0])) == 0


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

OVERLAPS = {
    "f1": (esjax.blocks.f1, metrics.f1_score),
    "fbeta of 2": (partial(esjax.blocks.fbeta, beta=2), partial(metrics.fbeta_score, beta=2)),
    "fbeta of a third": (partial(esjax.blocks.fbeta, beta=1 / 3), partial(metrics.fbeta_score, beta=1 / 3)),
    "jaccard": (esjax.blocks.jaccard, metrics.jaccard_score),
    "precision": (esjax.blocks.precision, metrics.precision_score),
    "recall": (esjax.blocks.recall, metrics.recall_score),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # scikit-learn's, of degenerate input
@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize(("block", "theirs"), OVERLAPS.values(), ids=OVERLAPS)
def test_overlaps_of_classes_are_scikit_learns(block, theirs, average):
    for predicted, labels in CLASS_CASES:
        found = block(predicted, labels, num_classes=5, average=average)
        wanted = theirs(labels, predicted, labels=range(5), average=average, zero_division=0)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize(("block", "theirs"), OVERLAPS.values(), ids=OVERLAPS)
def test_overlaps_of_binary_decisions_are_scikit_learns(block, theirs):
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


def test_fbeta_goes_from_precision_over_f1_to_recall():
    for predicted, labels in CLASS_CASES:
        for beta, block in (
            (1e-200, esjax.blocks.precision),
            (1, esjax.blocks.f1),
            (np.float32(1e30), esjax.blocks.recall),
        ):
            found = esjax.blocks.fbeta(predicted, labels, beta, num_classes=5)
            np.testing.assert_allclose(found, block(predicted, labels, num_classes=5), rtol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_balanced_accuracy_is_scikit_learns():
    for predicted, labels in CLASS_CASES:
        found = esjax.blocks.balanced_accuracy(predicted, labels, num_classes=5)
        np.testing.assert_allclose(found, metrics.balanced_accuracy_score(labels, predicted), rtol=1e-6)


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


def test_traced_classes_out_of_range_count_as_no_class_and_make_no_correlation():
    predicted, labels = np.array([0, 1, 2, 1]), np.array([0, 2, 1, 2])
    for block in (esjax.blocks.f1, esjax.blocks.jaccard, esjax.blocks.dice):
        assert jax.jit(block)(predicted, labels) == 0  # of class 1, none is right
    for block in (esjax.blocks.precision, esjax.blocks.recall, partial(esjax.blocks.fbeta, beta=2)):
        assert jax.jit(block)(predicted, labels) == 0
    assert jax.jit(esjax.blocks.balanced_accuracy)(predicted, np.array([0, 2, 1, 1])) == 0.75
    all_three = jax.jit(partial(esjax.blocks.f1, num_classes=3))(predicted, labels)
    np.testing.assert_allclose(all_three, metrics.f1_score(labels, predicted, average="macro"), rtol=1e-6)
    mask = np.array([True, True, False, True])
    for block, theirs in (
        (esjax.blocks.matthews, metrics.matthews_corrcoef),
        (esjax.blocks.cohen_kappa, metrics.cohen_kappa_score),
    ):
        block, labels = jax.jit(block), np.array([0, 1, 1, 0])
        assert np.isnan(block(predicted, labels)) and np.isnan(block(labels, predicted))
        hidden = block(predicted, labels, mask=mask)
        np.testing.assert_allclose(hidden, theirs(labels[mask], predicted[mask]), rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["f1", "jaccard", "precision", "recall", "balanced_accuracy", "matthews", "cohen_kappa"]
)
def test_the_remedy_for_more_classes_is_how_many_there_are(name):
    block = getattr(esjax.blocks, name)
    for labels, needed in (([0, 1, 1], 3), ([0, 1, 4], 5)):
        with pytest.raises(
            ValueError, match=rf"=2 is out of range.* use 0 to 1, or pass num_classes={needed}$"
        ):
            block(np.array([0, 1, 2]), np.array(labels))
    with pytest.raises(ValueError, match=r"=-1 is out of range for 2 classes; use 0 to 1$"):
        block(np.array([0, 1, -1]), np.array([0, 1, 1]))
    with pytest.raises(ValueError, match=r"=2 is out of range for 2 classes; use 0 to 1$"):
        esjax.blocks.dice(np.array([0, 1, 2]), np.array([0, 1, 1]))


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


@cache
def _compiled(metric, **options):
    return jax.jit(partial(metric, **options))


def _padded(scores, relevance, which=None):
    """A list of 14 items, and which of them count: one program serves all lengths."""
    which = np.ones(scores.size, bool) if which is None else which
    more = (0, 14 - scores.size)
    return [np.pad(array, more, constant_values=1) for array in (scores, relevance)], np.pad(which, more)


def _of_list(seed, block, scores, relevance, which=None, **options):
    """Returns the block of every sixth list as it is, and of the others padded."""
    if seed % 6 == 0:
        return block(scores, relevance, mask=which, **options)
    arrays, which = _padded(scores, relevance, which)
    return _compiled(block, **options)(*arrays, mask=which)


def _of_rax(metric, scores, gains, which=None, topn=None):
    arrays, which = _padded(scores, gains.astype(np.float32), which)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return _compiled(metric, topn=topn)(*arrays, where=which)


@pytest.mark.parametrize("k", [None, 1, 3, 50])
def test_ndcg_is_raxs_and_scikit_learns(k):
    for seed in range(12):
        scores, relevance = _random_list(seed)
        found = _of_list(seed, esjax.blocks.ndcg, scores, relevance, k=k)
        wanted = _of_rax(rax.ndcg_metric, scores, relevance, topn=k)
        np.testing.assert_allclose(found, wanted, rtol=2e-6)
        found = _of_list(seed, esjax.blocks.ndcg, scores, relevance, k=k, gain="linear")
        np.testing.assert_allclose(found, metrics.ndcg_score([relevance], [scores], k=k), rtol=2e-6)


def test_of_equal_scores_the_first_comes_first():
    scores, relevance = np.array([1.0, 1.0, 0.0], np.float32), np.array([0, 1, 0])
    np.testing.assert_allclose(esjax.blocks.ndcg(scores, relevance), 1 / np.log2(3), rtol=1e-6)
    assert esjax.blocks.reciprocal_rank(scores, relevance) == 0.5
    assert esjax.blocks.precision_at_k(scores, relevance, k=1) == 0
    assert esjax.blocks.recall_at_k(scores, relevance, k=2) == 1


@pytest.mark.parametrize("k", [1, 2, 5])
def test_precision_and_recall_at_k_are_raxs(k):
    for seed in range(12):
        scores, relevance = _random_list(seed)
        mask = np.random.default_rng(seed).random(scores.size) < 0.8
        which = mask | (np.arange(scores.size) < k)  # rax divides by fewer, where fewer than k count
        for block, theirs in (
            (esjax.blocks.precision_at_k, rax.precision_metric),
            (esjax.blocks.recall_at_k, rax.recall_metric),
        ):
            wanted = _of_rax(theirs, scores, relevance > 0, which, k)
            if scores.size >= k:
                found = _of_list(seed, block, scores, relevance, which, k=k)
                np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_precision_of_fewer_than_k_items_is_over_k():
    scores, relevance = np.array([1.0, 3.0, 2.0], np.float32), np.array([1, 1, 0])
    mask = np.array([False, True, True])
    for k, wanted in ((2, 0.5), (4, 0.25), (2**40, 2.0**-40)):
        assert esjax.blocks.precision_at_k(scores, relevance, k=k, mask=mask) == wanted
        assert esjax.blocks.recall_at_k(scores, relevance, k=k, mask=mask) == 1


def test_reciprocal_rank_is_raxs():
    for seed in range(12):
        scores, relevance = _random_list(seed)
        found = _of_list(seed, esjax.blocks.reciprocal_rank, scores, relevance)
        wanted = _of_rax(rax.mrr_metric, scores, relevance > 0)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("num_values", [1000, 4])  # without ties, and with many
def test_average_precision_is_scikit_learns(num_values):
    for seed in range(12):
        scores, relevance = _random_list(seed, num_values)
        found = _of_list(seed, esjax.blocks.average_precision, scores, relevance)
        wanted = metrics.average_precision_score(relevance > 0, scores)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("num_values", [1000, 4])
def test_concordance_is_lifelines(num_values):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scores, times = rng.integers(0, num_values, (2, 25))
        events = rng.random(25) < 0.5
        found = esjax.blocks.concordance(scores.astype(np.float32), times.astype(np.float32), events)
        np.testing.assert_allclose(found, concordance_index(times, scores, events), rtol=1e-6)
    assert esjax.blocks.concordance(scores, times, np.zeros(25, bool)) == 0.5


@pytest.mark.parametrize("num_values", [1000, 4])
def test_auc_is_scikit_learns(num_values):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scores = rng.integers(0, num_values, 25).astype(np.float32)
        labels, mask = rng.random((2, 25)) < 0.6
        found = esjax.blocks.auc(scores, labels, mask=mask)
        np.testing.assert_allclose(found, metrics.roc_auc_score(labels[mask], scores[mask]), rtol=1e-6)
    for one_class in (np.zeros(25, int), np.ones(25, bool)):
        assert esjax.blocks.auc(scores, one_class) == 0.5


@pytest.mark.parametrize("num_values", [1000, 4])
@pytest.mark.parametrize(
    ("block", "theirs"),
    [(esjax.blocks.kendall_tau, stats.kendalltau), (esjax.blocks.spearman_rho, stats.spearmanr)],
    ids=["kendall", "spearman"],
)
def test_rank_correlations_are_scipys(block, theirs, num_values):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scores, targets = rng.integers(0, num_values, (2, 25)) * np.array([[1], [seed % 3]])
        scores, targets = (scores + targets).astype(np.float32), rng.permutation(5)[targets % 5]
        mask = rng.random(25) < 0.8
        wanted = theirs(scores[mask], targets[mask]).statistic if seed % 3 else 0
        np.testing.assert_allclose(block(scores, targets, mask=mask), wanted, atol=1e-6)


def test_what_is_constant_has_no_rank_correlation():
    for block in (esjax.blocks.kendall_tau, esjax.blocks.spearman_rho):
        rising, constant = np.arange(4), np.full(4, 0.1)
        assert block(rising, constant) == block(constant, rising) == block(constant, constant) == 0
        assert block(rising[:1], rising[:1]) == 0
        assert block(rising, rising) == pytest.approx(1) and block(rising, -rising) == pytest.approx(-1)


def test_pairs_of_many_items_are_counted_without_loss():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=200_000).round(3).astype(np.float32)
    targets = (scores + rng.normal(size=scores.size)).round(1).astype(np.float32)
    found = jax.jit(esjax.blocks.auc)(scores, targets > 0)
    np.testing.assert_allclose(found, metrics.roc_auc_score(targets > 0, scores), rtol=1e-5)
    found = jax.jit(esjax.blocks.spearman_rho)(scores, targets)
    np.testing.assert_allclose(found, stats.spearmanr(scores, targets).statistic, rtol=1e-5)
    assert esjax.blocks.kendall_tau(np.arange(6000), np.arange(6000)) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_scores_may_be_narrow(dtype):
    scores, relevance = jnp.array([2.0, 1.0, 3.0], dtype), jnp.array([0, 1, 0])
    assert esjax.blocks.reciprocal_rank(scores, relevance) == pytest.approx(1 / 3)
    assert esjax.blocks.average_precision(scores, relevance) == pytest.approx(1 / 3)
    assert esjax.blocks.ndcg(scores, relevance.astype(dtype)) == pytest.approx(0.5)
    assert esjax.blocks.concordance(scores, scores, jnp.ones(3, dtype)) == 1
    assert esjax.blocks.precision_at_k(scores, relevance, k=3) == pytest.approx(1 / 3)
    assert esjax.blocks.auc(scores, relevance.astype(dtype)) == 0
    assert esjax.blocks.kendall_tau(scores, scores) == pytest.approx(1)
    assert esjax.blocks.spearman_rho(scores, scores) == pytest.approx(1)


def test_a_score_of_minus_infinity_is_the_lowest():
    scores, relevant = np.array([1.0, -np.inf, 0.0], np.float32), np.array([0, 1, 0])
    assert esjax.blocks.average_precision(scores, relevant) == pytest.approx(1 / 3)
    mask = np.array([True, True, False])
    assert esjax.blocks.average_precision(scores, relevant, mask=mask) == 0.5
    assert esjax.blocks.precision_at_k(scores, relevant, k=1, mask=mask) == 0
    assert esjax.blocks.recall_at_k(scores, relevant, k=2, mask=mask) == 1


def test_infinite_scores_are_in_their_order_and_tied_with_their_like():
    scores, labels = np.array([np.inf, -np.inf, 1.0, np.inf, -np.inf], np.float32), np.array([0, 0, 1, 1, 1])
    assert esjax.blocks.auc(scores, labels) == pytest.approx((1 + 1.5 + 0.5) / 6)
    targets, ranks = np.arange(5), np.array([2, 0, 1, 2, 0])
    for block in (esjax.blocks.kendall_tau, esjax.blocks.spearman_rho):
        assert block(scores, targets) == block(ranks, targets)
        hidden = np.array([True, True, True, False, True])  # what is masked counts as +∞, which is there, too
        assert block(scores, targets, mask=hidden) == block(ranks[hidden], targets[hidden])


@pytest.mark.parametrize(
    "scores",
    [
        np.array([0, 255, 254, 1, 254], np.uint8),
        np.array([2**31 - 1, -(2**30) - 1, -(2**30), -(2**31), 2**24], np.int32),
        np.array([0, 2**32 - 1, 2**32 - 2, 1, 1], np.uint32),
        np.array([-(2**63), 2**32 + 1, 1, 2**32, 1], np.int64),
        np.array([0, 2**64 - 1, 2**64 - 2, 2**53, 2**53 + 1], np.uint64),
        np.array([1.0, 1.0 + 1e-12, -np.inf, 1e300, 1e300]),
        np.array([False, True, True, False, True]),
    ],
    ids=lambda scores: str(scores.dtype),
)
def test_scores_and_times_of_any_numbers_are_in_their_order(scores):
    numbers = scores.tolist()  # of Python, exact
    ranks = np.array([sorted(set(numbers)).index(number) for number in numbers], np.float32)
    relevance, events = np.array([0, 1, 0, 2, 1]), np.array([True, True, False, True, True])
    of_lists = esjax.blocks.ndcg, esjax.blocks.reciprocal_rank, esjax.blocks.average_precision
    correlations = esjax.blocks.kendall_tau, esjax.blocks.spearman_rho
    masks = None, np.array([True, False, True, True, True])

    @jax.jit
    def traced(scores):
        values = [block(scores, relevance) for block in of_lists]
        return values, [[block(scores, scores[::-1], mask=mask) for block in correlations] for mask in masks]

    values, of_masks = traced(scores) if scores.itemsize <= 4 else (of_lists, [correlations] * 2)
    for block, found in zip(of_lists, values, strict=True):
        wanted = block(ranks, relevance)
        assert block(scores, relevance) == wanted
        if scores.itemsize <= 4:
            np.testing.assert_allclose(found, wanted, rtol=1e-6)
    for block in (partial(esjax.blocks.precision_at_k, k=2), partial(esjax.blocks.recall_at_k, k=2)):
        assert block(scores, relevance) == block(ranks, relevance)
    for mask, values in zip(masks, of_masks, strict=True):
        assert esjax.blocks.auc(scores, events, mask=mask) == esjax.blocks.auc(ranks, events, mask=mask)
        for block, found in zip(correlations, values, strict=True):
            wanted = block(ranks, ranks[::-1].copy(), mask=mask)
            assert block(scores, scores[::-1], mask=mask) == wanted
            if scores.itemsize <= 4:
                assert found == pytest.approx(float(wanted))
        wanted = esjax.blocks.concordance(ranks, ranks[::-1].copy(), events, mask=mask)
        assert esjax.blocks.concordance(scores, scores[::-1], events, mask=mask) == wanted


def test_seconds_and_nanoseconds_of_an_epoch_are_not_tied():
    scores, events = np.array([0.1, 0.2, 0.3], np.float32), np.ones(3, bool)
    seconds = np.array([1_700_000_000, 1_700_000_001, 1_700_000_002], np.int32)
    for times in (seconds, seconds.astype(float), seconds * np.int64(1_000_000_000)):
        assert esjax.blocks.concordance(scores, times, events) == 1
        assert esjax.blocks.concordance(times, scores, events) == 1
    scores, relevance = np.array([2**24, 2**24 + 1]), np.array([0, 1])
    for block in (esjax.blocks.ndcg, esjax.blocks.reciprocal_rank, esjax.blocks.average_precision):
        assert block(scores, relevance) == 1


def test_nan_is_the_lowest_score_and_no_time_whatever_the_dtype():
    wide, relevance = np.array([np.nan, 2.0, 3.0, 1.0]), np.array([1, 0, 0, 1])
    for scores in (wide, wide.astype(np.float32)):
        assert esjax.blocks.reciprocal_rank(scores, relevance) == pytest.approx(1 / 3)
        found = esjax.blocks.concordance(np.array([3.0, 2.0, 3.0, 1.0]), scores, np.ones(4, bool))
        assert found == concordance_index(wide[1:], [2, 3, 1], np.ones(3))
        assert esjax.blocks.precision_at_k(scores, relevance, k=3) == pytest.approx(1 / 3)
        assert esjax.blocks.recall_at_k(scores, relevance, k=3) == 0.5


def test_nan_is_in_no_order():
    wide, labels = np.array([np.nan, 2.0, 3.0, 1.0, np.nan]), np.array([1, 0, 1, 1, 0])
    targets = np.array([4.0, 1.0, 3.0, 2.0, 0.0])
    for scores in (wide, wide.astype(np.float32)):
        assert esjax.blocks.auc(scores, labels) == pytest.approx(1 / 6)  # of 6 pairs, only 3 > 2 is in order
        assert esjax.blocks.kendall_tau(scores, targets) == pytest.approx(1 / np.sqrt(3 * 10))
        assert esjax.blocks.spearman_rho(scores, targets) == pytest.approx(1 / np.sqrt(2 * 10))
        for block, theirs in (
            (esjax.blocks.kendall_tau, stats.kendalltau),
            (esjax.blocks.spearman_rho, stats.spearmanr),
        ):
            wanted = theirs(targets, wide, nan_policy="omit").statistic
            assert block(targets, scores) == pytest.approx(wanted)


def test_relevance_and_events_of_any_numbers_are_what_they_are():
    scores = np.array([3.0, 2.0, 1.0], np.float32)
    for block in (esjax.blocks.reciprocal_rank, esjax.blocks.average_precision):
        assert block(scores, np.array([0, 2**32, 0])) == 0.5
        assert block(scores, np.array([0.0, 1e-60, 0.0])) == 0.5
    for grades in (np.array([1, 0, 2]), np.array([128, 1, 130]), np.array([998, 0, 1000])):
        gains = np.array([2 ** int(grade) - 1 for grade in grades], np.float64)
        discounts = 1 / np.log2([2, 3, 4])
        wanted = gains @ discounts / (np.sort(gains)[::-1] @ discounts)
        np.testing.assert_allclose(esjax.blocks.ndcg(scores, grades), wanted, rtol=1e-6)
    assert esjax.blocks.ndcg(scores, np.array([0, 2**32, 0]), gain="linear") == pytest.approx(1 / np.log2(3))
    with pytest.raises(ValueError, match="events holds 4294967296"):
        esjax.blocks.concordance(scores, scores, np.array([0, 1, 2**32]))
    events = np.array([1, 2, 0])
    found = jax.jit(esjax.blocks.concordance)(np.array([1.0, 3.0, 2.0]), np.array([1.0, 2.0, 3.0]), events)
    assert found == concordance_index([1, 2, 3], [1, 3, 2], events == 1)
    assert jax.jit(esjax.blocks.auc)(scores, events) == 1  # a label of 2 counts as 0
    with pytest.raises(ValueError, match="labels holds 2; give booleans, or 0 and 1"):
        esjax.blocks.auc(scores, events)


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
        rate = jax.jit(esjax.blocks.word_error_rate)(a, b, **lengths)
        np.testing.assert_allclose(rate, _levenshtein(a[:n], b[:m]) / max(m, 1), rtol=1e-6)


def test_word_error_rate_is_jiwers():
    vocabulary = ["a", "rose", "is", "red"]
    rng = np.random.default_rng(1)
    for _ in range(10):
        a, b = rng.integers(0, 4, 6), rng.integers(0, 4, 5)
        texts = [" ".join(vocabulary[token] for token in tokens) for tokens in (b, a)]
        np.testing.assert_allclose(esjax.blocks.word_error_rate(a, b), jiwer.wer(*texts), rtol=1e-6)


def test_tokens_are_equal_only_if_all_their_bits_are():
    a, b = np.array([2**32 + 5, 7, -1, 2**40]), np.array([5, 7, -1, 2**41, 2**40])
    assert int(esjax.blocks.edit_distance(a, b)) == _levenshtein(a, b) == 2
    assert esjax.blocks.edit_distance(np.array([2**64 - 1], np.uint64), np.array([-1])) == 1
    assert esjax.blocks.word_error_rate(a, a.astype(np.uint64), predicted_length=2, reference_length=2) == 0
    with pytest.raises(
        ValueError, match=r"reference holds 1099511627776, beyond int32, .* number the tokens"
    ):
        jax.jit(lambda tokens: esjax.blocks.edit_distance(tokens, a[2:]))(jnp.array([1, 2]))
    of_traced = jax.jit(esjax.blocks.edit_distance)
    assert of_traced(np.array([2**32 - 1, 7], np.uint32), np.array([-1, 7], np.int32)) == 1
    with jax.enable_x64(True):
        assert int(of_traced(a, b)) == 2
        assert of_traced(np.array([2**64 - 1, 3], np.uint64), np.array([-1, 3], np.int32)) == 1


def test_a_length_that_is_out_of_range_has_no_distance():
    tokens = np.array([1, 2, 3])
    with pytest.raises(ValueError, match=r"predicted_length=4294967297 must be in \[0, 3\]"):
        esjax.blocks.edit_distance(tokens, tokens, predicted_length=np.int64(2**32 + 1))
    of_length = jax.jit(
        lambda n, m: esjax.blocks.edit_distance(tokens, tokens, predicted_length=n, reference_length=m)
    )
    found = [of_length(*lengths) for lengths in ((-1, 3), (4, 3), (3, 4), (3, 3))]
    np.testing.assert_array_equal(found, [np.nan, np.nan, np.nan, 0])


# --- all -----------------------------------------------------------------------------------------------

OF_LISTS = {
    "ndcg": (partial(esjax.blocks.ndcg, k=3), 2),
    "reciprocal_rank": (esjax.blocks.reciprocal_rank, 2),
    "average_precision": (esjax.blocks.average_precision, 2),
    "concordance": (lambda a, b, c, mask: esjax.blocks.concordance(a, b, c > 0, mask=mask), 3),
    "f1": (partial(esjax.blocks.f1, num_classes=3), 2),
    "precision_at_k": (partial(esjax.blocks.precision_at_k, k=3), 2),
    "recall_at_k": (partial(esjax.blocks.recall_at_k, k=3), 2),
    "auc": (lambda a, b, mask: esjax.blocks.auc(a, b > 0, mask=mask), 2),
    "kendall_tau": (esjax.blocks.kendall_tau, 2),
    "spearman_rho": (esjax.blocks.spearman_rho, 2),
    "fbeta": (partial(esjax.blocks.fbeta, beta=2, num_classes=3), 2),
    "precision": (partial(esjax.blocks.precision, num_classes=3), 2),
    "recall": (partial(esjax.blocks.recall, num_classes=3), 2),
    "balanced_accuracy": (partial(esjax.blocks.balanced_accuracy, num_classes=3), 2),
    "binary f1": (lambda a, b, mask: esjax.blocks.f1(a == 1, b == 1, mask=mask), 2),
    "jaccard": (partial(esjax.blocks.jaccard, num_classes=3), 2),
    "matthews": (partial(esjax.blocks.matthews, num_classes=3), 2),
    "cohen_kappa": (partial(esjax.blocks.cohen_kappa, num_classes=3), 2),
    "dice": (lambda a, b, mask: esjax.blocks.dice(a == 1, b == 1, mask=mask), 2),
}


@pytest.mark.parametrize("name", OF_LISTS)
def test_what_a_mask_hides_changes_nothing(name):
    """Against what counts alone, 7 of 12; and of any number, in front of other items that are hidden."""
    block, num_arguments = OF_LISTS[name]
    compiled = jax.jit(block)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        arrays, others = rng.integers(0, 3, (2, num_arguments, 12))
        mask = rng.permutation(12) < (7 if seed < 5 else rng.integers(1, 12))
        hidden = compiled(*arrays, mask=mask)
        if seed < 5:
            kept = block(*(jnp.asarray(array[mask]) for array in arrays), mask=np.ones(7, bool))
            np.testing.assert_allclose(hidden, kept, rtol=1e-6, atol=1e-7)
        order = np.argsort(~mask, kind="stable")
        in_front = compiled(*np.where(mask, arrays, others)[:, order], mask=mask[order])
        np.testing.assert_allclose(hidden, in_front, rtol=1e-6, atol=1e-7)
    assert compiled(*arrays, mask=np.zeros(12, bool)) == (0.5 if name in ("concordance", "auc") else 0)


@pytest.mark.parametrize("name", OF_LISTS)
def test_a_batch_is_what_each_of_it_is(name):
    block, num_arguments = OF_LISTS[name]
    rng = np.random.default_rng(0)
    arrays = [*rng.integers(0, 3, (num_arguments, 4, 7)), rng.random((4, 7)) < 0.7]
    together = jax.jit(jax.vmap(lambda *given: block(*given[:-1], mask=given[-1])))(*map(jnp.asarray, arrays))
    alone = [block(*given[:-1], mask=given[-1]) for given in zip(*arrays, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-7)
