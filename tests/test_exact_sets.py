"""Metrics of counts in `exact` against enumeration, convolution, simulation, and wrong arguments."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

import esjax
from esjax import blocks, exact
from esjax.exact import _count_laws, from_probs

NORMAL, GUMBEL, LOGISTIC = esjax.noise.normal, esjax.noise.gumbel, esjax.noise.logistic
DTYPES = [(np.float32, 1e-5), (np.float64, 1e-9)]


def _error(found, exact):
    return np.linalg.norm(np.asarray(found, np.float64) - exact) / np.linalg.norm(exact)


# --- enumeration -------------------------------------------------------------------------------------


def _expectation(probs, values):
    """Σ over outcomes, in order, of their chance × values (outcomes, metrics); probs (B, K)."""
    for row in probs:
        values = row @ values.reshape(len(row), -1)
    return values


def _all_outcomes(num_choices, num_decisions):
    return np.array(list(itertools.product(range(num_choices), repeat=num_decisions)))


def _of_outcomes(function, outcomes, y, counted=True):
    """Values of `function` (outcomes, ...), which is asked once for those with the same confusion matrix."""
    counts = [((y == a) & (outcomes == b) & counted).sum(1) for a in range(3) for b in range(3)]
    keys = np.stack(counts, 1).reshape(len(outcomes), -1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return np.array([function(each) for each in outcomes[first]], np.float64)[inverse.ravel()]


def _true_derivatives(expected, x):
    """Values (metrics,), gradients (metrics, n) by complex steps, and Hessians by differences of these."""
    axes, h = np.eye(x.size).reshape(-1, *x.shape), 1e-3

    def gradients(x):
        return np.stack([expected(x + 1e-30j * axis).imag / 1e-30 for axis in axes], -1)

    steps = [[gradients(x + i * h * axis) - gradients(x - i * h * axis) for i in (1, 2)] for axis in axes]
    return expected(x), gradients(x), np.stack([(8 * near - far) / (12 * h) for near, far in steps], -1)


def _derivatives(function, x):
    """Returns value, gradient, and in float64 Hessians, of both modes by one linearization."""
    both = jax.value_and_grad(function)
    if x.dtype == jnp.float32:
        return both(x)
    gradient, push, value = jax.linearize(lambda x: both(x)[::-1], x, has_aux=True)
    axes = jnp.eye(x.size, dtype=x.dtype).reshape(-1, *x.shape)
    return value, gradient, jax.vmap(push)(axes), jax.vmap(jax.linear_transpose(push, x))(axes)[0]


def _agrees(ours, expected, x):
    """Compares values, gradients and Hessians of several metrics, in both precisions."""
    values, gradients, hessians = _true_derivatives(expected, x)
    for dtype, tolerance in DTYPES:
        with jax.enable_x64(dtype == np.float64):
            found = jax.jit(lambda x: [_derivatives(f, x) for f in ours])(jnp.asarray(x, dtype))
        for of_metric, *truth in zip(found, values, gradients, hessians, hessians, strict=True):
            for one, true in zip(of_metric, truth, strict=False):
                assert one.dtype == dtype
                error = np.linalg.norm(np.asarray(one, np.float64).reshape(true.shape) - true)
                assert error < tolerance * max(np.linalg.norm(true), 0.01)  # some Hessians are 0


P = np.array([0.9, 0.3, 1.0, 0.05, 0.6, 0.0, 0.5, 0.99], np.float32).astype(np.float64)
Y = np.array([1, 0, 1, 0, 0, 1, 1, 0])
MASK = np.array([True, True, False, True, True, True, True, True])


def _of_counts(tp, fp, fn, tn):
    return tp / (1 + fp) - 0.1 * fn * tn


def _binary_metrics(**options):
    names = ("f1", "jaccard", "precision", "recall", "balanced_accuracy", "dice", "matthews", "cohen_kappa")
    found = [partial(getattr(from_probs, name), **options) for name in names]
    found += [partial(from_probs.fbeta, beta=beta, **options) for beta in (0.5, 2, 1.3)]
    return [*found, partial(from_probs.of_confusion, _of_counts, **options)]


@jax.jit
def _binary_blocks(predicted, y):
    names = ("f1", "jaccard", "dice", "matthews", "cohen_kappa")
    return {name: getattr(blocks, name)(predicted, y) for name in names}


def _binary_references(predicted, y):
    options = {"zero_division": 0, "labels": [1], "average": "macro"}
    tn, fp, fn, tp = metrics.confusion_matrix(y, predicted, labels=[0, 1]).ravel()
    of_blocks = _binary_blocks(predicted, y)
    return [
        of_blocks["f1"],
        of_blocks["jaccard"],
        metrics.precision_score(y, predicted, **options),
        metrics.recall_score(y, predicted, **options),
        metrics.balanced_accuracy_score(y, predicted),
        of_blocks["dice"],
        of_blocks["matthews"],
        of_blocks["cohen_kappa"],
        *(metrics.fbeta_score(y, predicted, beta=beta, **options) for beta in (0.5, 2, 1.3)),
        _of_counts(*map(float, (tp, fp, fn, tn))),
    ]


def test_binary_metrics_are_enumerations():
    y = Y[MASK]
    with jax.enable_x64(True):
        values = _of_outcomes(lambda each: _binary_references(each, y), _all_outcomes(2, y.size), y)

    def expected(p):
        return _expectation(np.stack([1 - p, p], -1)[MASK], values)

    _agrees([lambda p, f=f: f(probs=p) for f in _binary_metrics(labels=Y, mask=MASK)], expected, P)


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_metrics_of_several_labels_are_enumerations(average):
    y, outcomes = Y.reshape(4, 2), _all_outcomes(2, 8).reshape(-1, 4, 2)
    options = {"average": average, "zero_division": 0}
    functions = (metrics.precision_score, metrics.recall_score, partial(metrics.fbeta_score, beta=2))
    with jax.enable_x64(True):

        @jax.jit
        @jax.vmap
        def of_blocks(predicted):
            return jnp.stack([f(predicted, y, average=average) for f in (blocks.f1, blocks.jaccard)])

        values = _of_outcomes(lambda each: [f(y, each, **options) for f in functions], outcomes, y)
        values = np.hstack([of_blocks(outcomes), values])

    def expected(p):
        return _expectation(np.stack([1 - p, p], -1).reshape(8, 2), values)

    names = ("f1", "jaccard", "precision", "recall")
    ours = [partial(getattr(from_probs, name), labels=y, average=average) for name in names]
    ours += [partial(from_probs.fbeta, labels=y, beta=2.0, average=average)]
    _agrees(ours, expected, P.reshape(4, 2))


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_metrics_of_classes_are_enumerations(average):
    p = np.random.default_rng(0).dirichlet(np.ones(3) / 2, 5).astype(np.float32).astype(np.float64)
    y, outcomes, mask = np.array([0, 1, 0, 1, 0]), _all_outcomes(3, 5), np.array([True] * 4 + [False])
    options = {"average": average, "zero_division": 0, "labels": [0, 1, 2]}
    functions = [partial(f, **options) for f in (metrics.precision_score, metrics.recall_score)]
    functions.append(partial(metrics.fbeta_score, beta=0.5, **options))
    functions.append(partial(metrics.recall_score, labels=[0, 1], average="macro"))  # of those that occur
    with jax.enable_x64(True):

        @jax.jit
        @jax.vmap
        def of_blocks(predicted):
            arguments = {"num_classes": 3, "average": average, "mask": mask}
            return jnp.stack([f(predicted, y, **arguments) for f in (blocks.f1, blocks.jaccard)])

        values = _of_outcomes(lambda each: [f(y[mask], each[mask]) for f in functions], outcomes, y, mask)
        values = np.hstack([of_blocks(outcomes), values])

    names = ("f1", "jaccard", "precision", "recall")
    ours = [partial(getattr(from_probs, name), labels=y, average=average, mask=mask) for name in names]
    ours += [partial(from_probs.fbeta, labels=y, beta=0.5, average=average, mask=mask)]
    ours += [partial(from_probs.balanced_accuracy, labels=y, mask=mask)]

    def expected(z):
        return _expectation(np.exp(z) / np.exp(z).sum(-1, keepdims=True), values)

    # through softmax: of classes, chances that do not sum to 1 mean nothing
    _agrees([lambda z, f=f: f(jax.nn.softmax(z, -1)) for f in ours], expected, np.log(p))


# --- laws of counts ----------------------------------------------------------------------------------


def _without_negligible(first, law):
    kept = np.flatnonzero(law > 1e-40)
    return first + kept[0], law[kept[0] : kept[-1] + 1]


def _direct_law(p):
    """P(S = s) in float64 by convolution of halves, without what is below 1e-40."""
    laws = np.ones((-(-len(p) // 64), 1))
    for bits in np.pad(p, (0, -len(p) % 64)).reshape(-1, 64).T[..., None]:  # one of each 64
        laws = np.pad(laws * (1 - bits), [(0, 0), (0, 1)]) + np.pad(laws * bits, [(0, 0), (1, 0)])
    parts = [_without_negligible(0, law) for law in laws]
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=False)
        rest = parts[len(parts) // 2 * 2 :]
        parts = []
        for (first, left), (second, right) in pairs:
            parts.append(_without_negligible(first + second, np.convolve(left, right)))
        parts += rest
    first, law = parts[0]
    return np.pad(law, (first, len(p) + 1 - first - law.size))


def _chances(kind, size):
    rng = np.random.default_rng(0)
    if kind == "rare":  # 0.01 % positives
        p = 1e-4 * rng.random(size)
        p[: size // 10_000] = 0.7
    elif kind == "decided":
        p = (rng.random(size) < 0.3).astype(float)
        p[:3] = 0.5
    else:
        p = {"any": rng.random(size), "equal": np.full(size, 0.3), "likely": 1 - 1e-3 * rng.random(size)}[
            kind
        ]
    return p.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("size", [1, 7, 1000, 100_000])
def test_laws_of_counts_are_direct_convolutions(size):
    kinds = ["any", "equal"] if size < 10 else ["any", "equal", "rare", "decided", "likely"]
    truths = {kind: _direct_law(_chances(kind, size)) for kind in kinds}
    count_probs = jax.jit(from_probs.count_probs)
    for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 2e-12)):  # the convolutions err by 1.3e-12
        with jax.enable_x64(dtype == np.float64):
            for kind, truth in truths.items():
                found = np.asarray(count_probs(jnp.asarray(_chances(kind, size), dtype)))
                assert found.dtype == dtype and found.shape == (size + 1,)
                assert abs(found - truth).max() < tolerance * truth.max(), kind


def _trimmed(p):
    law = _direct_law(p)
    (places,) = np.nonzero(law > 1e-17)
    return places.astype(float), law[places]


def _dense(hits, alarms, positives, negatives):
    """E[metric] of each of `DENSE`, by the laws of TP and FP."""
    (a, chance_a), (b, chance_b) = hits, alarms
    with np.errstate(invalid="ignore", divide="ignore"):
        values = [metric(a[:, None], b, positives, negatives) for metric in DENSE.values()]
    return np.array([chance_a @ np.nan_to_num(each) @ chance_b for each in values])


def _dense_with_slopes(p, y, places):
    """E[metric], and their slopes at some places, by which they are linear in each chance."""
    sizes = y.sum(), (1 - y).sum()
    laws = [_trimmed(p[y == which]) for which in (1, 0)]
    slopes = []
    for place in places:
        ends = []
        for end in (0, 1):
            of_place = np.append(np.delete(p, place)[np.delete(y, place) == y[place]], end)
            changed = _trimmed(of_place)
            ends.append(_dense(*((changed, laws[1]) if y[place] else (laws[0], changed)), *sizes))
        slopes.append(ends[1] - ends[0])
    return _dense(*laws, *sizes), np.array(slopes).T


DENSE = {
    "f1": lambda tp, fp, pos, neg: 2 * tp / (tp + fp + pos),
    "jaccard": lambda tp, fp, pos, neg: tp / (fp + pos),
    "precision": lambda tp, fp, pos, neg: tp / (tp + fp),
    "matthews": lambda tp, fp, pos, neg: (
        (tp * neg - fp * pos) / np.sqrt((tp + fp) * (pos + neg - tp - fp) * pos * neg)
    ),
    "cohen_kappa": lambda tp, fp, pos, neg: (
        2 * (tp * neg - fp * pos) / ((tp + fp) * neg + (pos + neg - tp - fp) * pos)
    ),
}


@jax.jit
def _dense_ones(p, y):
    return [jax.value_and_grad(getattr(from_probs, name))(p, y) for name in DENSE]


@pytest.mark.parametrize("kind", ["rare", "any"])
def test_metrics_of_many_examples_are_sums_over_direct_laws(kind):
    size = 100_000
    rng = np.random.default_rng(1)
    y = np.zeros(size, np.int32)
    p = (
        _chances("rare", size)
        if kind == "rare"
        else rng.beta(1, 3, size).astype(np.float32).astype(np.float64)
    )
    y[: 15 if kind == "rare" else 30_000] = 1
    p[: 3 if kind == "rare" else 20_000] = np.float32(0.9)
    places = np.array([0, 9, size - 1])
    truths = list(zip(*_dense_with_slopes(p, y, places), strict=True))
    for dtype, tolerance in DTYPES:
        with jax.enable_x64(dtype == np.float64):
            found = _dense_ones(jnp.asarray(p, dtype), y)
            for name, (value, gradient), (truth, slopes) in zip(DENSE, found, truths, strict=True):
                assert abs(value - truth) < tolerance * abs(truth), name
                assert _error(gradient[places], slopes) < tolerance, name


# --- from scores -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "of_classes"),
    [(NORMAL, True), (GUMBEL, True), (LOGISTIC, False), (GUMBEL, False), (NORMAL, False)],
)
def test_metrics_of_scores_are_means_of_simulated_decisions(noise, of_classes):
    shape, draws, sigma = ((7, 3) if of_classes else (7,)), 20_000, 0.8
    scores = jax.random.normal(jax.random.key(1), shape)
    y = np.array([0, 1, 0, 1, 1, 0, 0])
    eps = noise.sample(jax.random.key(2), (draws, *shape), jnp.float32)
    perturbed = np.asarray(scores) + np.float32(sigma) * np.asarray(eps)
    if of_classes:
        predicted, options, exact_options = perturbed.argmax(-1), {"num_classes": 3}, {"noise": noise}
        names = ("f1", "jaccard")
    else:
        predicted, options = (perturbed > 0.3).astype(int), {}
        exact_options, names = (
            {"noise": noise, "threshold": 0.3},
            ("f1", "jaccard", "matthews", "cohen_kappa"),
        )
    given = [getattr(blocks, name) for name in names], [getattr(exact, name) for name in names]

    @jax.jit
    def both(predicted, scores):
        simulated = [jax.vmap(lambda d, f=f: f(d, y, **options))(predicted) for f in given[0]]
        return simulated, [f(scores, y, sigma, **exact_options) for f in given[1]]

    for values, found in zip(*both(predicted, scores), strict=True):
        values = np.asarray(values)
        assert abs(found - values.mean()) < 4 * values.std() / draws**0.5


def test_gradients_and_hessians_in_scores_and_sigma_are_finite_differences():
    y, h, noises = jnp.array([0, 1, 0, 1, 2]), 1e-5, (NORMAL, GUMBEL)
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (5, 3), jnp.float64)
        bits = (y == 1).astype(jnp.int32)

        def value(both):
            of_classes = [exact.f1(both["x"], y, both["sigma"], noise=noise) for noise in noises]
            binary = exact.matthews(both["x"][:, 0], bits, both["sigma"], threshold=0.2, noise=LOGISTIC)
            return of_classes[0] + 2 * of_classes[1] + 3 * binary

        point = {"x": x, "sigma": jnp.asarray(0.8)}
        direction = {"x": jnp.cos(jnp.arange(15.0)).reshape(5, 3), "sigma": jnp.asarray(0.5)}

        def along(t):
            return value(jax.tree.map(lambda a, b: a + t * b, point, direction))

        def derivatives(t):
            """The value, the slope, and curvatures by each pair of modes."""
            slope, push = jax.linearize(jax.grad(along), t)
            (backward,) = jax.linear_transpose(push, t)(1.0)
            return along(t), slope, (push(1.0), backward, jax.jacfwd(jax.jacfwd(along))(t))

        lower, (_, slope, curvatures), upper = map(jax.jit(derivatives), (-h, 0.0, h))
        np.testing.assert_allclose(slope, (upper[0] - lower[0]) / (2 * h), rtol=1e-8)
        for found in curvatures:
            np.testing.assert_allclose(found, (upper[1] - lower[1]) / (2 * h), rtol=1e-7)


def test_vmap_scan_and_chunks_are_a_loop(monkeypatch):
    scores = jax.random.normal(jax.random.key(0), (3, 40, 4))
    labels = jax.random.randint(jax.random.key(1), (3, 40), 0, 4)
    masks = jax.random.bernoulli(jax.random.key(2), 0.8, (3, 40))
    sigmas = jnp.array([0.5, 1.0, 2.0])

    def value(scores, labels, sigma, mask):
        bits = (labels > 1).astype(jnp.int32)
        of_classes = exact.f1(scores, labels, sigma, mask=mask)
        of_bits = exact.cohen_kappa(scores[:, 0], bits, sigma, mask=mask)
        return of_classes + of_bits + exact.of_confusion(_of_counts, scores[:, 1], bits, sigma, mask=mask)

    both = jax.value_and_grad(value, (0, 2))
    arguments = (scores, labels, sigmas, masks)
    one = jax.jit(both)
    loop = jax.tree.map(
        lambda *leaves: np.stack(leaves), *(one(*each) for each in zip(*arguments, strict=True))
    )
    several = {
        "vmap": lambda: jax.jit(jax.vmap(both))(*arguments),
        "scan": lambda: jax.jit(lambda a: jax.lax.scan(lambda _, each: (None, both(*each)), None, a)[1])(
            arguments
        ),
    }
    for apply in several.values():
        jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), apply(), loop)
    jax.clear_caches()
    monkeypatch.setattr(esjax.exact._batches, "BLOCK_FLOATS", 1)
    monkeypatch.setattr(_count_laws, "_BLOCK_FLOATS", 300)
    monkeypatch.setattr(esjax.exact._counting, "_GRID_FLOATS", 100)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), several["scan"](), loop)
    jax.clear_caches()


def test_memory_is_bounded_for_many_examples():
    shapes = jax.ShapeDtypeStruct((100_000,), jnp.float32), jax.ShapeDtypeStruct((100_000,), jnp.int32)
    for f in (exact.f1, exact.matthews, partial(exact.of_confusion, _of_counts)):
        compiled = jax.jit(jax.value_and_grad(lambda x, y, f=f: f(x, y, 1.0))).lower(*shapes).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 1e8


# --- conventions -------------------------------------------------------------------------------------


def test_what_is_empty_or_masked_is_0_and_what_a_mask_hides_changes_nothing():
    p, no, yes = np.float32([0.2, 0.7, 0.4]), np.zeros(3, np.int32), np.ones(3, np.int32)
    names = sorted(set(from_probs.__all__) - {"count_probs", "fbeta", "of_confusion"})
    nothing = np.zeros(3, bool)

    @jax.jit
    def all_of_them(p, y, mask):
        return {name: getattr(from_probs, name)(p, y, mask=mask) for name in names}

    masked, none_positive = all_of_them(p, yes, nothing), all_of_them(p, no, ~nothing)
    none_predicted, empty = all_of_them(0 * p, yes, ~nothing), all_of_them(p[:0], no[:0], None)
    for name in names:
        assert masked[name] == 0
        if name != "balanced_accuracy":
            assert none_positive[name] == none_predicted[name] == 0
        assert empty[name] == 0
    all_positive = all_of_them(p, yes, ~nothing)
    all_predicted = all_of_them(0 * p + 1, np.int32([0, 1, 1]), ~nothing)
    for name in ("matthews", "cohen_kappa"):
        assert all_positive[name] == 0
        np.testing.assert_allclose(all_predicted[name], 0, atol=4 * np.finfo(np.float32).eps)
    np.testing.assert_allclose(from_probs.count_probs(p, mask=nothing), [1, 0, 0, 0], atol=1e-6)
    np.testing.assert_array_equal(from_probs.count_probs(p[:0]), [1])

    x, y = np.float32([[0.3, -1.0, 0.2]] * 4), np.int32([0, 1, 2, 7])
    x[3, 0] = np.nan
    functions = exact.f1, exact.jaccard, exact.balanced_accuracy

    @jax.jit
    def with_gradients(x, y, mask=None):
        return [jax.value_and_grad(f)(x, y, 0.7, mask=mask) for f in functions]

    found, kept = with_gradients(x, y, np.arange(4) < 3), with_gradients(x[:3], y[:3])
    for (value, gradient), (truth, of_kept) in zip(found, kept, strict=True):
        np.testing.assert_allclose(value, truth, rtol=1e-5)
        np.testing.assert_allclose(gradient, np.vstack([of_kept, np.zeros((1, 3))]), rtol=1e-4, atol=1e-7)


def test_classes_at_minus_infinity_are_never_chosen():
    x, y = jnp.array([[0.3, -jnp.inf, 0.2], [1.0, 0.0, -jnp.inf]]), jnp.array([0, 1])
    value, gradient = jax.value_and_grad(lambda x: exact.f1(x, y, 1.0))(x)
    assert np.isfinite(value) and (np.asarray(gradient)[np.isinf(x)] == 0).all()


def test_a_metric_that_is_nan_where_there_is_no_chance_of_it_spreads_none():
    p, y = jnp.array([1.0, 0.4, 0.3, 0.6]), jnp.array([1, 1, 0, 0])

    def precision(tp, fp, fn, tn):
        return scale * tp / (tp + fp)

    scale = 1.0
    own = jax.jit(jax.value_and_grad(lambda p: from_probs.of_confusion(precision, p, y)))
    value, gradient = own(p)
    truth, slopes = jax.jit(jax.value_and_grad(lambda p: from_probs.precision(p, y)))(p)
    np.testing.assert_allclose(value, truth, rtol=1e-5)
    np.testing.assert_allclose(gradient[1:], slopes[1:], rtol=1e-5)  # of the first, 0/0 is unknown
    assert np.isnan(own(p.at[0].set(0.9))[0])

    def scaled(scale):
        return from_probs.of_confusion(lambda tp, fp, fn, tn: scale * tp / (tp + fp), p, y)

    np.testing.assert_allclose(jax.jit(jax.grad(scaled))(3.0), truth, rtol=1e-5)


def test_counts_of_perturbed_scores_are_those_of_their_chances():
    x, mask = jnp.array([0.5, -0.2, 1.0]), jnp.array([True, False, True])
    chances = esjax.exact.threshold_probs(x, 2.0, threshold=0.1, noise=LOGISTIC)
    found = exact.count_probs(x, 2.0, threshold=0.1, noise=LOGISTIC, mask=mask)
    np.testing.assert_allclose(found, from_probs.count_probs(chances, mask=mask), rtol=1e-6)
    np.testing.assert_allclose(found[:3], np.convolve(*([1 - c, c] for c in chances[mask])), rtol=1e-5)


def test_values_come_in_the_dtype_of_what_they_are_of():
    x, y = jnp.array([0.5, -0.2, 1.0]), jnp.array([True, False, True])
    for f in (exact.f1, exact.matthews, exact.dice):
        narrow = f(x.astype(jnp.bfloat16), y, 1.0)
        assert narrow.dtype == jnp.bfloat16
        np.testing.assert_allclose(narrow.astype(jnp.float32), f(x, y, 1.0), rtol=1e-2)


def test_traced_labels_out_of_range_are_nan_for_classes_and_0_for_bits():
    x, y = jnp.zeros((3, 2)), jnp.array([0, 1, 2])
    for average in ("macro", "micro"):
        assert np.isnan(jax.jit(lambda y, a=average: exact.f1(x, y, 1.0, average=a))(y))
    found = jax.jit(lambda y: exact.f1(x[:, 0], y, 1.0))(y)
    np.testing.assert_allclose(found, exact.f1(x[:, 0], jnp.array([0, 1, 0]), 1.0))
    for f in (from_probs.f1, from_probs.matthews, from_probs.count_probs):
        labels = () if f is from_probs.count_probs else (jnp.array([0, 1, 1]),)
        assert np.isnan(jax.jit(f)(jnp.array([0.5, jnp.nan, 0.5]), *labels)).all()


def test_what_is_nan_has_nan_derivatives():
    x, y, options = jnp.array([0.5, jnp.nan, -1.0, 0.3]), jnp.array([0, 1, 1, 0]), {"noise": LOGISTIC}
    mask = np.array([True, True, True, False])
    names = ("f1", "jaccard", "precision", "recall", "balanced_accuracy", "dice", "matthews", "cohen_kappa")
    metrics = [getattr(exact, name) for name in names] + [partial(exact.of_confusion, _of_counts)]

    @jax.jit
    def both(x, mask):
        return [jax.value_and_grad(f)(x, y, 1.0, mask=mask, **options) for f in metrics]

    for f, (value, slopes) in zip(metrics, jax.device_get(both(x, mask)), strict=True):
        assert np.isnan(value) and np.isnan(slopes[mask]).all() and slopes[3] == 0, f
    for value, slopes in both(x.at[1].set(0), mask | True):
        assert np.isfinite(value) and np.isfinite(slopes).all()
    of_classes = exact.f1, exact.balanced_accuracy
    all_slopes = jax.jit(lambda x, y: [jax.grad(f)(x, y, 1.0, mask=mask) for f in of_classes])
    for slopes in jax.device_get(all_slopes(jnp.zeros((4, 2)), y.at[0].set(2))):
        assert np.isnan(slopes[mask]).all()


X, BITS, CLASSES = np.zeros((3, 2), np.float32), np.zeros((3, 2), np.int32), np.array([0, 1, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_probs.f1(X + 1.1, CLASSES), r"probs holds 1.1"),
        (lambda: from_probs.f1(X - 0.1, BITS), r"probs holds -0.1"),
        (lambda: from_probs.count_probs(X[:, 0] + np.nan), "probs holds nan"),
        (lambda: from_probs.f1(BITS, BITS), "probs has dtype int32"),
        (lambda: from_probs.f1(X, CLASSES, average="weighted"), "average='weighted'"),
        (lambda: from_probs.f1(X, CLASSES[:2]), r"labels has shape \(2,\)"),
        (lambda: from_probs.f1(X, CLASSES + 1), "labels=2 is out of range for 2 classes"),
        (lambda: from_probs.f1(X, CLASSES.astype(float)), "labels has dtype float"),
        (lambda: from_probs.f1(X, BITS + 2), "labels=2 is out of range"),
        (lambda: from_probs.f1(X[None], BITS[None]), "use jax.vmap over batches"),
        (lambda: from_probs.f1(X, CLASSES, mask=BITS == 0), "mask is bool"),
        (
            lambda: from_probs.fbeta(X, CLASSES, 0),
            "beta=0 must be a finite number > 0; for β = 0 use precision",
        ),
        (lambda: from_probs.dice(X, CLASSES), "give both the same shape"),
        (lambda: from_probs.balanced_accuracy(X, BITS), "use jax.vmap over labels"),
        (lambda: from_probs.matthews(X, BITS), "use jax.vmap over labels"),
        (lambda: from_probs.count_probs(X), "use jax.vmap over others"),
        (
            lambda: from_probs.of_confusion(lambda *counts: jnp.stack(counts), X[:, 0], CLASSES),
            "metric returns",
        ),
        (lambda: exact.matthews(X, CLASSES, 1.0), "sample it with esjax.smooth_decisions"),
        (lambda: exact.cohen_kappa(X, CLASSES, 1.0), "sample it with esjax.smooth_decisions"),
        (lambda: exact.of_confusion(_of_counts, X, CLASSES, 1.0), "sample it with esjax.smooth_decisions"),
        (lambda: exact.f1(X, CLASSES, 1.0, threshold=0.5), "threshold=0.5 is for binary scores"),
        (lambda: exact.f1(X, CLASSES, 0.0), "sigma=0.0 must be"),
        (lambda: exact.f1(X, CLASSES, 1.0, noise=LOGISTIC), "logistic has no closed form"),
        (lambda: exact.f1(X, BITS, 1.0, noise=esjax.noise.laplace), "laplace has no closed form"),
        (lambda: exact.f1(X + np.nan, CLASSES, 1.0), "scores holds NaN"),
        (lambda: exact.f1(X + np.nan, BITS, 1.0), "scores holds NaN"),
        (lambda: exact.f1(X - np.inf, CLASSES, 1.0), "scores of an example are all"),
        (lambda: exact.f1(X, BITS, 1.0, threshold=np.nan), "in the units of scores"),
        (lambda: exact.of_confusion(3, X[:, 0], CLASSES, 1.0), "metric=3 is not a function"),
        (lambda: from_probs.of_confusion(lambda tp, fp: tp / fp, X[:, 0], CLASSES), "metric takes the four"),
        (lambda: exact.f1(BITS, CLASSES, 1.0), "scores has dtype int32"),
        (lambda: exact.f1("scores", CLASSES, 1.0), "scores='scores' is not an array"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
