"""Closed forms of ranking metrics against laws by convolution, orders, samples and known laws."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import list_references as reference
import numpy as np
import pytest
from scipy import signal, stats

import esjax
from esjax import blocks
from esjax.exact import ranks

NOISES = {name: getattr(esjax.noise, name) for name in reference.LAWS}
RELEVANCE = np.array([0, 3, 1, 0, 2, 0, 1, 3])
RELEVANT = RELEVANCE > 1
SCORES = np.random.default_rng(0).normal(size=8).astype(np.float32)
METRICS = {  # the closed form, what is relevant to it, and the reference
    "ndcg": (ranks.ndcg, RELEVANCE, reference.ndcg),
    "ndcg at 3": (
        partial(ranks.ndcg, k=3, gain="linear"),
        RELEVANCE,
        partial(reference.ndcg, k=3, gain="linear"),
    ),
    "hits at 2": (
        lambda *given, **options: 2 * ranks.precision_at_k(*given, k=2, **options),
        RELEVANT,
        partial(reference.hits, k=2),
    ),
    "reciprocal rank": (ranks.reciprocal_rank, RELEVANT, reference.reciprocal_rank),
    "average precision": (ranks.average_precision, RELEVANT, reference.average_precision),
}
WITHOUT_CUTOFF = ["ndcg", "reciprocal rank", "average precision"]
OF_BLOCKS = {
    "ndcg": partial(blocks.ndcg, relevance=RELEVANCE),
    "ndcg at 3": partial(blocks.ndcg, relevance=RELEVANCE, k=3, gain="linear"),
    "hits at 2": lambda s: 2 * blocks.precision_at_k(s, RELEVANT, k=2),
    "reciprocal rank": partial(blocks.reciprocal_rank, relevant=RELEVANT),
    "average precision": partial(blocks.average_precision, relevant=RELEVANT),
}


@partial(jax.jit, static_argnums=(0, 1))
def _both(metric, noise, s, relevance, sigma):
    """The value of a metric, and its gradients in the scores and in σ."""
    return jax.value_and_grad(METRICS[metric][0], (0, 2))(s, relevance, sigma, noise=NOISES[noise])


def _error(found, exact):
    return np.linalg.norm(np.asarray(found, np.float64) - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("metric", METRICS)
def test_values_and_gradients_are_those_of_convolved_counts(metric, noise):
    _, relevance, dense = METRICS[metric]
    for scale in (0.03, 1.0, 5.0):
        s = scale * SCORES

        def f(s):
            return dense(s, relevance, 1.0, noise, step=0.05)

        value, gradient = f(s), reference.differences(f, s, 3e-3)
        for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-9)):
            with jax.enable_x64(dtype == np.float64):
                found, (slopes, _) = _both(metric, noise, jnp.asarray(s, dtype), relevance, dtype(1))
                assert found.dtype == slopes.dtype == dtype
                assert abs(found - value) < tolerance * value, scale
                assert _error(slopes, gradient) < tolerance, scale


@pytest.mark.parametrize("metric", METRICS)
def test_derivatives_in_sigma_are_finite_differences(metric):
    _, relevance, dense = METRICS[metric]
    slope = reference.differences(
        lambda sigma: dense(SCORES, relevance, sigma, step=0.05), np.array(0.8), 1e-3
    )
    with jax.enable_x64(True):
        _, (_, found) = _both(metric, "normal", jnp.asarray(SCORES, float), relevance, np.float64(0.8))
    np.testing.assert_allclose(found, slope, rtol=1e-9)


OF_ORDERS = (
    (blocks.ndcg, ranks.ndcg),
    (partial(blocks.ndcg, k=2), partial(ranks.ndcg, k=2)),
    (partial(blocks.precision_at_k, k=3), partial(ranks.precision_at_k, k=3)),
    (partial(blocks.recall_at_k, k=1), partial(ranks.recall_at_k, k=1)),
    (blocks.reciprocal_rank, ranks.reciprocal_rank),
    (blocks.average_precision, ranks.average_precision),
)


@jax.jit
def _blocks_of_orders(places, relevance):
    return [jax.vmap(lambda s, f=block: f(s, relevance))(places) for block, _ in OF_ORDERS]


@pytest.mark.parametrize("noise", NOISES)
def test_values_are_the_mean_of_blocks_over_all_orders(noise):
    s, relevance = np.array([0.4, -0.2, 1.1, 0.3]), jnp.array([1, 0, 0, 2])
    orders, chances = zip(*reference.order_probs(s, 0.7, noise), strict=True)
    np.testing.assert_allclose(sum(chances), 1, atol=1e-9)
    places = -np.argsort(np.array(orders), 1).astype(np.float64)
    with jax.enable_x64(True):
        options = {"sigma": 0.7, "noise": NOISES[noise]}

        @jax.jit
        def all_of_them(s):
            return [closed(s, relevance, **options) for _, closed in OF_ORDERS], ranks.rank_probs(
                s, **options
            )

        values, found = jax.device_get(all_of_them(jnp.asarray(s)))
        for each, value in zip(_blocks_of_orders(places, relevance), values, strict=True):
            mean = np.asarray(each, np.float64) @ np.array(chances)
            np.testing.assert_allclose(value, mean, atol=2e-8)
        for item, place in itertools.product(range(4), repeat=2):
            chance = sum(p for order, p in zip(orders, chances, strict=True) if order[place] == item)
            np.testing.assert_allclose(found[item, place], chance, atol=2e-8)


@jax.jit
def _sampled_blocks(z):
    return {metric: jax.vmap(block)(z) for metric, block in OF_BLOCKS.items()}


@pytest.mark.parametrize("noise", NOISES)
def test_values_are_means_of_sampled_blocks(noise):
    eps = NOISES[noise].sample(jax.random.key(1), (20_000, 8), jnp.float32)
    for metric, values in _sampled_blocks(SCORES + 0.6 * np.asarray(eps)).items():
        values = np.asarray(values, np.float64)
        mean, _ = _both(metric, noise, jnp.asarray(SCORES), METRICS[metric][1], np.float32(0.6))
        assert abs(values.mean() - mean) < 4 * values.std() / np.sqrt(values.size), metric


def test_gumbel_ranks_are_those_of_plackett_and_luce():
    s = np.array([0.5, -1.0, 0.0, 2.0, 0.2])
    worth, truth = np.exp(s / 0.8), np.zeros((5, 5))
    for order in itertools.permutations(range(5)):
        chance = np.prod([worth[order[i]] / worth[list(order[i:])].sum() for i in range(5)])
        for place, item in enumerate(order):
            truth[item, place] += chance
    with jax.enable_x64(True):
        found = ranks.rank_probs(jnp.asarray(s), 0.8, noise=esjax.noise.gumbel)
    np.testing.assert_allclose(found, truth, atol=1e-9)
    first = ranks.rank_probs(jnp.asarray(s, jnp.float32), 0.8, 2, noise=esjax.noise.gumbel)
    np.testing.assert_allclose(first, truth[:, :2], atol=1e-5)


def test_long_lists_are_those_of_convolved_counts():
    rng = np.random.default_rng(3)
    s, relevance = (2 * rng.normal(size=1000)).astype(np.float32), np.zeros(1000, int)
    relevance[np.argsort(-s)[[3, 12, 40]]] = 3, 1, 2
    direction = np.zeros(1000)
    direction[np.argsort(-s)[:60]] = rng.normal(size=60)

    def dense(t):
        return reference.ndcg(s + t * direction, relevance, 1.0, k=10, step=0.06)

    truth, slope = dense(0.0), reference.differences(dense, np.array(0.0), 3e-3)
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-9)):
        with jax.enable_x64(dtype == np.float64):
            x = jnp.asarray(s, dtype)
            value, gradient = jax.jit(jax.value_and_grad(partial(ranks.ndcg, k=10)))(x, relevance, 1.0)
            np.testing.assert_allclose(value, truth, rtol=tolerance)
            assert abs(gradient @ direction - slope) < tolerance * np.linalg.norm(gradient) * np.sqrt(60)


@pytest.mark.parametrize("metric", ["ndcg at 3", "reciprocal rank", "average precision"])
def test_second_derivatives_are_differences_of_first_ones(metric):
    f, relevance, _ = METRICS[metric]
    with jax.enable_x64(True):
        x = np.append(SCORES.astype(float), 0.9)

        def value(x):
            return f(x[:-1], relevance, x[-1])

        def slopes(x):
            _, (in_scores, in_sigma) = _both(metric, "normal", x[:-1], relevance, x[-1])
            return np.append(in_scores, in_sigma)

        rows = [(slopes(x + e) - slopes(x - e)) / 2e-4 for e in np.eye(9) * 1e-4]
        seconds = jax.hessian(value), jax.jacrev(jax.grad(value)), jax.jacfwd(jax.jacfwd(value))
        for found in jax.jit(lambda x: [second(x) for second in seconds])(x):
            np.testing.assert_allclose(found, np.array(rows), atol=1e-7)


def test_derivatives_of_rank_probs_are_differences():
    with jax.enable_x64(True):
        x = jnp.asarray(SCORES[:5], float)
        f = jax.jit(lambda x: ranks.rank_probs(x, 0.7, 3))
        columns = np.stack([(f(x + e) - f(x - e)) / 2e-5 for e in np.eye(5) * 1e-5], -1)
        for found in jax.jit(lambda x: (jax.jacrev(f)(x), jax.jacfwd(f)(x)))(x):
            np.testing.assert_allclose(found, columns, atol=1e-8)


@pytest.mark.parametrize("noise", ["normal", "gumbel"])
@pytest.mark.parametrize("metric", WITHOUT_CUTOFF)
def test_second_derivatives_of_few_items_are_differences_of_the_reference(metric, noise):
    closed, _, dense = METRICS[metric]
    s, relevance = np.array([1.0, 0.0, -1.0, 0.8]), np.array([1, 0, 1, 0])
    given = relevance if metric == "ndcg" else relevance > 0

    def slopes(x):
        return reference.differences(lambda x: dense(x[:-1], given, x[-1], noise, step=0.05), x, 4e-3)

    x = np.append(s, 1.0)
    rows = np.array([(slopes(x + e) - slopes(x - e)) / 8e-3 for e in np.eye(5) * 4e-3])

    @jax.jit
    def seconds(x):
        """By forward and by reverse mode over reverse mode, of one linearization."""
        gradient = jax.grad(lambda x: closed(x[:-1], relevance, x[-1], noise=NOISES[noise]))
        push = jax.linearize(gradient, x)[1]
        axes = jnp.eye(5, dtype=x.dtype)
        return jax.vmap(push)(axes), jax.vmap(jax.linear_transpose(push, x))(axes)[0]

    for dtype in (np.float32, np.float64):
        with jax.enable_x64(dtype == np.float64):
            for found in seconds(jnp.asarray(x, dtype)):
                np.testing.assert_allclose(found, rows, atol=1e-5)


def _law_of_count(above):
    """P(N = m) (nodes, n + 1) of bits (nodes, n), as `reference` has it, by convolution of halves."""
    if above.shape[1] < 50:
        return reference._law_of_count(above)
    return signal.fftconvolve(*map(_law_of_count, np.array_split(above, 2, 1)), axes=1)


def _of_two_relevant(metric, s, gains, step):
    """A metric with two gains above 0, by the law of how many others are above, m."""
    u = np.arange(s.min() - 9, s.max() + 9, step)
    above, pair = stats.norm.sf(u[:, None] - s), np.flatnonzero(gains)
    others = _law_of_count(np.delete(above, pair, 1))
    m = np.arange(others.shape[1])
    leads, follows = {  # what an item is worth where its rival is below, and above
        "ndcg": (1 / np.log2(2 + m), 1 / np.log2(3 + m)),
        "reciprocal rank": (1 / (1 + m), 0 / (1 + m)),
        "average precision": (1 / (1 + m), 2 / (2 + m)),
    }[metric]
    best = {"ndcg": np.sort(gains)[:-3:-1] @ (1, 1 / np.log2(3)), "average precision": 2}.get(metric, 1)
    value = 0.0
    for item, rival in (pair, pair[::-1]):
        behind = above[:, rival]
        worth = (1 - behind) * (others @ leads) + behind * (others @ follows)
        value += gains[item] * (stats.norm.pdf(u - s[item]) * worth).sum() * step
    return value / best


@pytest.mark.parametrize("metric", WITHOUT_CUTOFF)
def test_long_lists_without_a_cutoff_are_those_of_convolved_counts(metric):
    rng, size = np.random.default_rng(4), 2000
    s, relevance = rng.normal(size=size).astype(np.float32), np.zeros(size, int)
    relevance[np.argsort(-s)[[300, 900]]] = 2, 1
    direction = rng.normal(size=size)
    given = relevance if metric == "ndcg" else relevance > 0
    gains = 2.0**relevance - 1 if metric == "ndcg" else given.astype(float)

    def dense(t):
        return _of_two_relevant(metric, s + t * direction, gains, step=0.25)

    slope = reference.differences(dense, np.array(0.0), 1e-2)
    value, (gradient, _) = _both(metric, "normal", jnp.asarray(s), given, np.float32(1))
    np.testing.assert_allclose(value, dense(0.0), rtol=5e-6)
    assert abs(gradient @ direction - slope) < 5e-6 * np.linalg.norm(gradient)


def _density_of_differences(noise):
    return {
        "normal": stats.norm(scale=np.sqrt(2)).pdf,
        "gumbel": stats.logistic.pdf,
        "logistic": lambda d: (np.exp(-d) * (d - 2 + (d + 2) * np.exp(-d))) / (-np.expm1(-d)) ** 3,
    }[noise]


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("metric", WITHOUT_CUTOFF)
def test_gradients_are_precise_where_all_places_but_two_are_decided(metric, noise):
    lead = 9.0 if noise == "normal" else 16.0
    s = np.array([lead - 400, 0.0, lead, -400.0, 400.0], np.float32)  # the last has a place of its own
    s = np.append(s, np.float32([-800, -1200, -1600]))  # as many as in other tests
    relevance, others = np.arange(8) == 2, RELEVANCE > 0
    if metric == "ndcg":
        relevance, others = relevance.astype(int), RELEVANCE
    worth = {"ndcg": 1 / np.log2(3) - 1 / 2}.get(metric, 1 / 2 - 1 / 3)  # of the second place over the third
    slope = _density_of_differences(noise)(lead) * worth
    truth = slope * np.array([0, -1, 1, 0, 0, 0, 0, 0])
    for dtype, tolerance in ((np.float32, 2e-5), (np.float64, 1e-9)):
        with jax.enable_x64(dtype == np.float64):
            _, (found, _) = _both(metric, noise, jnp.asarray(s, dtype), relevance, dtype(1))
            assert slope < 1e-6 and _error(found, truth) < tolerance
            _, (found, _) = _both(metric, noise, jnp.asarray(SCORES, dtype), others, dtype(1e-6))
            assert abs(found).max() < 1e-9


@pytest.mark.parametrize("metric", METRICS)
def test_gumbel_gradients_are_those_of_convolved_counts_where_they_are_small(metric):
    s = np.array([3.0, -4.0, 5.5, -2.5, 1.0, -6.0, -4.5, 7.0], np.float32)
    _, relevance, dense = METRICS[metric]
    truth = reference.differences(lambda s: dense(s, relevance, 1.0, "gumbel", step=0.04), s, 1e-3)
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-9)):
        with jax.enable_x64(dtype == np.float64):
            _, (found, _) = _both(metric, "gumbel", jnp.asarray(s, dtype), relevance, dtype(1))
        assert _error(found, truth) < tolerance


@pytest.mark.parametrize("closed", [partial(ranks.ndcg, k=3), ranks.average_precision])
def test_vmap_and_scan_are_a_loop(closed):
    rng = np.random.default_rng(5)
    scores = jnp.asarray(rng.normal(size=(3, 8)) * np.array([[0.1], [1], [40]]), jnp.float32)
    relevance = jnp.asarray(rng.integers(0, 3, (3, 8)))
    sigmas, masks = jnp.array([0.5, 1.0, 2.0]), jnp.asarray(rng.random((3, 8)) < 0.8)

    def f(s, relevance, sigma, mask):
        return closed(s, relevance, sigma, mask=mask)

    both = jax.value_and_grad(f, (0, 2))
    lists = scores, relevance, sigmas, masks
    each = [jax.jit(both)(*one) for one in zip(*lists, strict=True)]
    scanned = jax.lax.scan(lambda carry, one: (carry, both(*one)), 0, lists)[1]
    for found in (jax.jit(jax.vmap(both))(*lists), scanned):
        jax.tree.map(
            lambda a, *b: np.testing.assert_allclose(a, np.stack(b), rtol=2e-5, atol=1e-6), found, *each
        )
    curvature = jax.jit(jax.grad(lambda s, *rest: (jax.grad(f)(s, *rest) ** 2).sum()))
    some = scores, relevance[0], sigmas, None
    found = jax.vmap(curvature, (0, None, 0, None))(*some)
    for i in range(3):
        np.testing.assert_allclose(
            found[i], curvature(scores[i], relevance[0], sigmas[i], None), rtol=1e-3, atol=1e-6
        )


def test_masked_items_have_no_place_and_change_nothing():
    mask = np.array([True, True, False, True, False, True, True, True])
    hidden = jnp.asarray(np.where(mask, SCORES, np.float32([0, 0, np.nan, 0, 1e30, 0, 0, 0])))
    functions = (
        ranks.ndcg,
        partial(ranks.ndcg, k=3),
        ranks.reciprocal_rank,
        ranks.average_precision,
        partial(ranks.recall_at_k, k=2),
    )

    @jax.jit
    def all_of_them(s, relevance, mask=None):
        return [jax.value_and_grad(closed)(s, relevance, 0.7, mask=mask) for closed in functions]

    found = jax.device_get(all_of_them(hidden, RELEVANCE, mask))
    probs = np.asarray(ranks.rank_probs(hidden, 0.7, 3, mask=mask))  # known, and NaN where it is masked
    of_fewer = jax.device_get(all_of_them(jnp.asarray(SCORES[mask]), RELEVANCE[mask]))
    for (value, slopes), (kept, of_kept) in zip(found, of_fewer, strict=True):
        np.testing.assert_allclose(value, kept, rtol=1e-5)
        np.testing.assert_allclose(slopes[mask], of_kept, atol=2e-6)
        assert (slopes[~mask] == 0).all()
    np.testing.assert_allclose(probs[mask], ranks.rank_probs(jnp.asarray(SCORES[mask]), 0.7, 3), atol=2e-6)
    assert (probs[~mask] == 0).all()


def test_where_nothing_is_relevant_or_counts_the_value_is_zero():
    functions = (
        ranks.ndcg,
        partial(ranks.ndcg, k=2),
        ranks.reciprocal_rank,
        ranks.average_precision,
        partial(ranks.precision_at_k, k=2),
        partial(ranks.recall_at_k, k=9),
    )

    @jax.jit
    def all_of_them(s, relevance, sigma, mask):
        return [jax.value_and_grad(f, (0, 2))(s, relevance, sigma, mask=mask) for f in functions]

    none = np.zeros(8, bool)
    for relevance, mask in ((0 * RELEVANCE, ~none), (RELEVANCE, none)):
        for value, (slopes, in_sigma) in all_of_them(jnp.asarray(SCORES), relevance, 1.0, mask):
            assert value == 0 and (slopes == 0).all() and in_sigma == 0
    assert ranks.precision_at_k(jnp.asarray(SCORES), RELEVANT, 1.0, k=16) == RELEVANT.sum() / 16
    assert ranks.recall_at_k(jnp.asarray(SCORES), RELEVANT, 1.0, k=8) == 1
    np.testing.assert_allclose(ranks.ndcg(jnp.ones(1), jnp.ones(1), 1.0), 1, rtol=1e-6)


def test_infinite_scores_are_beyond_all_others():
    inf = np.inf
    functions = ranks.ndcg, partial(ranks.ndcg, k=3), ranks.average_precision, ranks.reciprocal_rank
    all_of_them = jax.jit(lambda *given: [jax.value_and_grad(closed, (0, 2))(*given) for closed in functions])
    for ends in ([inf, -inf], [inf, inf], [-inf, -inf]):
        s = SCORES.copy()
        s[[1, 4]] = ends
        finite = np.where(np.isinf(s), np.sign(s) * 60, s)
        found, wanted = (all_of_them(jnp.asarray(x), RELEVANCE, 1.0) for x in (s, finite))
        for (value, (slopes, in_sigma)), (like, (like_slopes, like_in_sigma)) in zip(
            found, wanted, strict=True
        ):
            like_slopes = np.where(np.isinf(s), 0, like_slopes)
            np.testing.assert_allclose(value, like, rtol=1e-5)
            np.testing.assert_allclose(slopes, like_slopes, atol=2e-6)
            np.testing.assert_allclose(in_sigma, like_in_sigma, atol=5e-6)


def test_wide_ranges_keep_what_is_near_together():
    near = np.array([0.0, 0.5, -0.25, 1.0, 0.75], np.float32)
    s = np.concatenate([near + 1024, near, near - 4096])
    relevance = np.tile([1, 0, 2, 0, 1], 3)
    tight = np.concatenate([near + 40, near, near - 40])
    for metric in ("ndcg", "average_precision"):
        dense = getattr(reference, metric)
        given = relevance if metric == "ndcg" else relevance > 0

        def f(x, dense=dense, given=given):
            return dense(x, given, 1.0, step=0.05)

        value, slopes = jax.jit(jax.value_and_grad(getattr(ranks, metric)))(jnp.asarray(s), given, 1.0)
        np.testing.assert_allclose(value, f(tight), rtol=1e-5)
        assert _error(slopes, reference.differences(f, tight, 3e-3)) < 1e-5


def test_what_cannot_be_seen_under_jit_is_nan():
    s = jnp.array([0.0, jnp.nan, 1.0])
    functions = ranks.ndcg, partial(ranks.ndcg, k=2), partial(ranks.recall_at_k, k=3)
    values, probs = jax.jit(
        lambda s, relevance: ([f(s, relevance, 1.0) for f in functions], ranks.rank_probs(s, 1.0))
    )(s, jnp.array([1, 0, 1]))
    assert np.isnan(values).all() and np.isnan(probs).all()


def test_what_is_nan_has_nan_derivatives():
    s, relevance = jnp.array([0.0, jnp.nan, 1.0, 2.0]), jnp.array([1.0, 0, 1, 0])
    mask = np.array([True, True, True, False])
    infinite = s.at[1].set(0), jnp.array([1, jnp.inf, 0, 0])
    functions = ranks.ndcg, partial(ranks.ndcg, k=2), ranks.reciprocal_rank, ranks.average_precision

    @jax.jit
    def all_of_them(s, relevance, sigma):
        return [jax.value_and_grad(f, (0, 2))(s, relevance, sigma, mask=mask) for f in functions]

    of_nan, of_infinite = (jax.device_get(all_of_them(*given, 1.0)) for given in ((s, relevance), infinite))
    for value, (slopes, in_sigma) in (*of_nan, *of_infinite[:2]):  # of both NDCGs
        assert np.isnan(value) and np.isnan(slopes[mask]).all() and slopes[3] == 0 and np.isnan(in_sigma)
    slopes = jax.jit(jax.jacfwd(partial(ranks.rank_probs, sigma=1.0)))(s)
    assert np.isnan(slopes[:, :, 1]).all()


def test_large_relevance_does_not_overflow():
    s, large = jnp.asarray(SCORES[:3]), np.array([3e38, 3e38, 0], np.float32)
    for gain in ("linear", "exponential"):
        found = ranks.ndcg(s, large, 1.0, gain=gain)
        np.testing.assert_allclose(found, ranks.ndcg(s, jnp.array([1, 1, 0]), 1.0), rtol=1e-6)


def test_narrow_floats_come_back_in_their_dtype():
    s = jnp.asarray(SCORES, jnp.bfloat16)
    value, slopes = jax.value_and_grad(partial(ranks.ndcg, k=3))(s, RELEVANCE, 1.0)
    assert value.dtype == slopes.dtype == jnp.bfloat16
    wide = ranks.ndcg(s.astype(jnp.float32), RELEVANCE, 1.0, k=3)
    np.testing.assert_allclose(value.astype(jnp.float32), wide, rtol=1e-2)


def test_memory_does_not_grow_with_nodes_or_lists():
    for shape, k in (((10_000,), 10), ((512, 120), 10), ((10_000,), None)):
        one = partial(ranks.ndcg, sigma=1.0, k=k)
        of_all = jax.vmap(one) if len(shape) > 1 else one
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32)] * 2
        compiled = jax.jit(jax.value_and_grad(lambda s, r, f=of_all: f(s, r).sum())).lower(*arrays).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 1e8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, r: ranks.ndcg(s, r[:2], 1.0), "vectors of one length"),
        (lambda s, r: ranks.ndcg(s[None], r[None], 1.0), "use jax.vmap over lists"),
        (lambda s, r: ranks.ndcg(s, r, 1.0, k=0), "k=0 must be a whole number >= 1"),
        (lambda s, r: ranks.ndcg(s, r, 1.0, gain="log"), "gain='log' must be"),
        (lambda s, r: ranks.ndcg(s, -r, 1.0), "relevance holds -1"),
        (lambda s, r: ranks.ndcg(s, jnp.array([0, jnp.nan, 1]), 1.0), "relevance holds nan"),
        (lambda s, r: ranks.ndcg(s, jnp.array([jnp.inf, 0, 1]), 1.0), "relevance holds inf"),
        (lambda s, r: ranks.ndcg(s, np.array([1e300, 0, 1]), 1.0), "finite in float32"),
        (lambda s, r: ranks.ndcg(s, r, 0.0), "sigma=0.0 must be a finite number > 0"),
        (lambda s, r: ranks.ndcg(s, r, jnp.ones(3)), "sigma has shape"),
        (lambda s, r: ranks.ndcg(s.astype(jnp.int32), r, 1.0), "scores has dtype int32"),
        (lambda s, r: ranks.ndcg(s.at[0].set(jnp.nan), r, 1.0), "scores holds nan"),
        (lambda s, r: ranks.ndcg(s, r, 1.0, mask=jnp.ones(3)), "mask is float32"),
        (lambda s, r: ranks.ndcg(s, r, 1.0, noise=esjax.noise.cauchy), "noise=cauchy has no closed form"),
        (lambda s, r: ranks.reciprocal_rank(s, r, -1.0), "sigma=-1.0 must be a finite number > 0"),
        (lambda s, r: ranks.precision_at_k(s, r, 1.0, k=True), "k=True must be a whole number"),
        (lambda s, r: ranks.rank_probs(s, 1.0, 4), "k=4 is more than the 3 items"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.array([0.1, 0.2, 0.3]), jnp.array([1, 0, 1]))
