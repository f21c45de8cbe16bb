"""Closed forms of pair metrics against the known law of each pair, sampled blocks, SciPy and scikit-learn."""

from functools import partial

import jax
import jax.numpy as jnp
import list_references as reference
import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

import esjax
from esjax import blocks
from esjax.exact import pairs

NOISES = {name: getattr(esjax.noise, name) for name in reference.LAWS}
RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=30).astype(np.float32)
LABELS = np.arange(30) % 3 == 0
TARGETS = RNG.integers(0, 6, 30)
TIMES = RNG.integers(0, 9, 30).astype(np.float32)
EVENTS = RNG.integers(0, 2, 30).astype(bool)
OURS = {
    "auc": partial(pairs.auc, labels=LABELS),
    "concordance": partial(pairs.concordance, times=TIMES, events=EVENTS),
    "kendall_tau": partial(pairs.kendall_tau, targets=TARGETS),
    "spearman_rho": partial(pairs.spearman_rho, targets=TARGETS),
}
OF_BLOCKS = {
    "auc": partial(blocks.auc, labels=LABELS),
    "concordance": partial(blocks.concordance, times=TIMES, events=EVENTS),
    "kendall_tau": partial(blocks.kendall_tau, targets=TARGETS),
    "spearman_rho": partial(blocks.spearman_rho, targets=TARGETS),
}


def _auc(p):
    return p[np.ix_(LABELS, ~LABELS)].mean()


def _concordance(p):
    sooner = (TIMES[:, None] < TIMES) | ((TIMES[:, None] == TIMES) & ~EVENTS)
    comparable = EVENTS[:, None] & sooner
    return (comparable * p.T).sum() / comparable.sum()


def _kendall_tau(p):
    signs = np.sign(TARGETS[:, None] - TARGETS)
    size = TARGETS.size
    return ((2 * p - 1) * signs).sum() / np.sqrt(size * (size - 1) * abs(signs).sum())


def _spearman_rho(p):
    ranks, size = stats.rankdata(TARGETS) - (TARGETS.size + 1) / 2, TARGETS.size
    return ranks @ p.sum(1) / np.sqrt(ranks @ ranks * size * (size**2 - 1) / 12)


OF_PROBS = {
    "auc": _auc,
    "concordance": _concordance,
    "kendall_tau": _kendall_tau,
    "spearman_rho": _spearman_rho,
}


def _error(found, exact):
    return np.linalg.norm(np.asarray(found, np.float64) - exact) / np.linalg.norm(exact)


@partial(jax.jit, static_argnums=(0, 1))
def _both(metric, noise, s, sigma):
    """The value of a metric, and its gradients in the scores and in σ."""
    return jax.value_and_grad(lambda s, sigma: OURS[metric](s, sigma=sigma, noise=NOISES[noise]), (0, 1))(
        s, sigma
    )


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("metric", OURS)
def test_values_and_gradients_are_those_of_the_law_of_each_pair(metric, noise):
    for scale in (0.1, 1.0, 12.0):

        def f(s, sigma=1.0):
            return OF_PROBS[metric](reference.pair_probs(s, sigma, noise))

        s = scale * SCORES
        value, gradient = f(s), reference.differences(f, s, 2e-3)
        slope = reference.differences(lambda sigma, s=s, f=f: f(s, sigma), np.array(1.0), 1e-3)
        norm = np.linalg.norm(gradient) * np.linalg.norm(s)
        for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-9)):
            with jax.enable_x64(dtype == np.float64):
                found, (slopes, in_sigma) = _both(metric, noise, jnp.asarray(s, dtype), dtype(1))
                assert found.dtype == slopes.dtype == dtype
                assert abs(found - value) < tolerance
                assert _error(slopes, gradient) < tolerance, scale
                assert abs(in_sigma - slope) < tolerance * norm


@pytest.mark.parametrize("noise", NOISES)
def test_gradients_stay_precise_where_the_pairs_are_decided(noise):
    lead = 11.0 if noise == "normal" else 15.0
    s = np.array([lead, lead + 0.5, 0.0, 0.25, -1.0], np.float32)
    labels = np.array([1, 1, 0, 0, 0])
    gap = s[:2, None].astype(np.float64) - s[2:]
    law = {
        "normal": stats.norm(scale=np.sqrt(2)).pdf,
        "gumbel": stats.logistic.pdf,
        "logistic": lambda d: (np.exp(-d) * (d - 2 + (d + 2) * np.exp(-d))) / (-np.expm1(-d)) ** 3,
    }[noise]
    density = law(gap) / 6
    truth = np.concatenate([density.sum(1), -density.sum(0)])
    slopes = jax.jit(jax.grad(partial(pairs.auc, labels=labels, sigma=1.0, noise=NOISES[noise])))(s)
    assert np.linalg.norm(truth) < 1e-5
    assert _error(slopes, truth) < 2e-5


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("closed", [pairs.kendall_tau, pairs.spearman_rho])
def test_correlations_of_two_items_stay_precise_where_they_are_decided(closed, noise):
    lead = {"normal": 11.0, "gumbel": 24.0, "logistic": 26.0}[noise]
    law = {
        "normal": stats.norm(scale=np.sqrt(2)).pdf,
        "gumbel": stats.logistic.pdf,
        "logistic": lambda d: (np.exp(-d) * (d - 2 + (d + 2) * np.exp(-d))) / (-np.expm1(-d)) ** 3,
    }[noise]
    f = jax.jit(jax.grad(partial(closed, sigma=1.0, noise=NOISES[noise])))
    slopes = f(np.float32([lead, 0]), np.array([5, 2]))
    assert 0 < law(lead) < 1e-9
    assert _error(slopes, 2 * law(lead) * np.array([1, -1])) < 2e-5


def test_what_is_nan_has_nan_derivatives():
    mask = np.arange(30) > 3

    @jax.jit
    def all_of_them(s, sigma):
        return [
            jax.value_and_grad(lambda s, sigma, f=f: f(s, sigma=sigma, mask=mask), (0, 1))(s, sigma)
            for f in OURS.values()
        ]

    s = np.where(np.arange(30) == 9, np.nan, SCORES)
    for value, (slopes, in_sigma) in jax.device_get(all_of_them(s, 1.0)):
        assert np.isnan(value) and np.isnan(slopes[mask]).all() and np.isnan(in_sigma)
        assert (slopes[~mask] == 0).all()


@jax.jit
def _sampled_blocks(z):
    return {metric: jax.vmap(block)(z) for metric, block in OF_BLOCKS.items()}


@pytest.mark.parametrize("noise", NOISES)
def test_values_are_means_of_sampled_blocks(noise):
    eps = NOISES[noise].sample(jax.random.key(1), (5000, 30), jnp.float32)
    for metric, values in _sampled_blocks(SCORES + np.float32(0.6) * np.asarray(eps)).items():
        values = np.asarray(values, np.float64)
        mean, _ = _both(metric, noise, jnp.asarray(SCORES), np.float32(0.6))
        assert abs(values.mean() - mean) < 4 * values.std() / np.sqrt(values.size), metric


def test_two_items_are_the_known_closed_form():
    closed = {
        "normal": lambda s, sigma: jax.scipy.stats.norm.cdf((s[0] - s[1]) / (sigma * jnp.sqrt(2.0))),
        "gumbel": lambda s, sigma: jax.nn.sigmoid((s[0] - s[1]) / sigma),
    }
    for noise, truth in closed.items():
        options = {"noise": NOISES[noise]}
        ours = (
            lambda s, sigma, o=options: pairs.auc(s, jnp.array([1, 0]), sigma, **o),
            lambda s, sigma, o=options: (1 + pairs.kendall_tau(s, jnp.array([5, 2]), sigma, **o)) / 2,
            lambda s, sigma, o=options: (1 + pairs.spearman_rho(s, jnp.array([5, 2]), sigma, **o)) / 2,
            lambda s, sigma, o=options: pairs.concordance(s, s, jnp.array([1, 1]), sigma, **o),
        )

        @jax.jit
        def derivatives(x, functions=(*ours, truth)):
            """Of each: value, gradient, and Hessians by both modes, of one linearization."""
            found = []
            for f in functions:
                both = jax.value_and_grad(lambda x, f=f: f(x[:-1], x[-1]))
                slopes, push, value = jax.linearize(lambda x, both=both: both(x)[::-1], x, has_aux=True)
                hessians = jax.vmap(push)(jnp.eye(3)), jax.vmap(jax.linear_transpose(push, x))(jnp.eye(3))[0]
                found.append((value, slopes, *hessians))
            return found

        with jax.enable_x64(True):
            *found, exact = derivatives(jnp.array([0.3, -0.4, 0.7]))
        for each in found:
            for a, b in zip(each, exact, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("metric", OURS)
def test_second_derivatives_are_differences_of_first_ones(metric):
    with jax.enable_x64(True):
        x = np.append(SCORES.astype(float), 0.9)

        def value(x):
            return OURS[metric](x[:-1], sigma=x[-1])

        def slopes(x):
            return np.append(*_both(metric, "normal", x[:-1], x[-1])[1])

        rows = np.array([(slopes(x + e) - slopes(x - e)) / 2e-4 for e in np.eye(31) * 1e-4])
        seconds = jax.hessian(value), jax.jacrev(jax.grad(value)), jax.jacfwd(jax.jacfwd(value))
        for found in jax.jit(lambda x: [second(x) for second in seconds])(x):
            np.testing.assert_allclose(found, rows, atol=1e-8)


def test_little_noise_gives_the_metrics_of_scikit_learn_and_scipy():
    s = jnp.asarray(SCORES)
    np.testing.assert_allclose(pairs.auc(s, LABELS, 1e-6), roc_auc_score(LABELS, SCORES), rtol=1e-6)
    tau, rho = stats.kendalltau(SCORES, TARGETS)[0], stats.spearmanr(SCORES, TARGETS)[0]
    np.testing.assert_allclose(pairs.kendall_tau(s, TARGETS, 1e-6), tau, rtol=1e-5)
    np.testing.assert_allclose(pairs.spearman_rho(s, TARGETS, 1e-6), rho, rtol=1e-5)


@pytest.mark.parametrize("metric", OURS)
def test_items_far_apart_change_nothing_but_their_own_pairs(metric):
    far = np.repeat([0, 1, -1], 10)
    wide = SCORES + 4096 * far
    value, (slopes, _) = _both(metric, "normal", jnp.asarray(wide, jnp.float32), np.float32(1))

    def dense(s):
        return OF_PROBS[metric](reference.pair_probs(s, 1.0))

    given = np.asarray(wide, np.float32) - 4096.0 * far + 30 * far
    np.testing.assert_allclose(value, dense(given), atol=1e-6)
    assert _error(slopes, reference.differences(dense, given, 2e-3)) < 1e-5


def test_many_items_and_few_positives_are_those_of_sorted_sums():
    rng = np.random.default_rng(2)
    s, times = rng.normal(size=40_000).astype(np.float32), rng.random(40_000).astype(np.float32)
    chosen = np.arange(40_000) % 10_000 == 7
    above = stats.norm.cdf((s[chosen, None].astype(np.float64) - s) / np.sqrt(2))
    x, labels = jnp.asarray(s), jnp.asarray(chosen)
    truth = above[:, ~chosen].mean()
    found, slopes = jax.jit(jax.value_and_grad(pairs.auc))(x, labels, 1.0)
    np.testing.assert_allclose(found, truth, rtol=1e-5)
    density = stats.norm.pdf((s[chosen, None].astype(np.float64) - s[~chosen]) / np.sqrt(2)) / np.sqrt(2)
    assert _error(slopes[chosen], density.mean(1) / chosen.sum()) < 1e-5
    assert _error(slopes[~chosen], -density.mean(0) / (~chosen).sum()) < 1e-5
    later = times[chosen, None] < times
    c, slopes = jax.jit(jax.value_and_grad(pairs.concordance))(x, jnp.asarray(times), labels, 1.0)
    np.testing.assert_allclose(c, (later * (1 - above)).sum() / later.sum(), rtol=1e-5)
    density = stats.norm.pdf((s[chosen, None].astype(np.float64) - s) / np.sqrt(2)) / np.sqrt(2)
    gradient = (later * density).sum(0) / later.sum()
    gradient[chosen] -= (later * density).sum(1) / later.sum()
    assert _error(slopes, gradient) < 1e-5


@pytest.mark.parametrize("metric", OURS)
def test_vmap_and_scan_are_a_loop_and_masks_leave_out(metric):
    rng = np.random.default_rng(5)
    scores = np.float32(rng.normal(size=(3, 30)) * np.array([[0.1], [1], [40]]))
    sigmas, masks = np.float32([0.5, 1, 2]), rng.random((3, 30)) < 0.7
    options = OURS[metric].keywords
    mapped = {name: np.stack([np.roll(a, i) for i in range(3)]) for name, a in options.items()}

    def f(s, sigma, mask, given):
        return getattr(pairs, metric)(s, sigma=sigma, mask=mask, **given)

    both = jax.value_and_grad(f, (0, 1))
    lists = scores, sigmas, masks, mapped
    each = jax.device_get([jax.jit(both)(*jax.tree.map(lambda a, i=i: a[i], lists)) for i in range(3)])
    scanned = jax.lax.scan(lambda carry, one: (carry, both(*one)), 0, lists)[1]
    for found in (jax.jit(jax.vmap(both))(*lists), scanned):
        jax.tree.map(
            lambda a, *b: np.testing.assert_allclose(a, np.stack(b), rtol=2e-5, atol=1e-6), found, *each
        )
    kept = masks[1]
    fewer = {name: a[1][kept] for name, a in mapped.items()}
    value, (slopes, _) = jax.jit(both)(scores[1][kept], 1.0, None, fewer)
    np.testing.assert_allclose(each[1][0], value, atol=1e-6)
    np.testing.assert_allclose(each[1][1][0][kept], slopes, atol=1e-6)
    assert (each[1][1][0][~kept] == 0).all()


def test_where_no_pair_counts_the_value_is_chance():
    s, none = jnp.asarray(SCORES[:4]), np.zeros(4, bool)
    times = jnp.array([1.0, 2.0, 3.0, 4.0])
    calls = (
        lambda s, mask: pairs.auc(s, jnp.ones(4), 1.0, mask=mask),
        lambda s, mask: pairs.concordance(s, times, jnp.zeros(4), 1.0, mask=mask),
        lambda s, mask: pairs.kendall_tau(s, jnp.ones(4), 1.0, mask=mask),
        lambda s, mask: pairs.spearman_rho(s, jnp.ones(4), 1.0, mask=mask),
    )
    all_of_them = jax.jit(lambda s, mask: [jax.value_and_grad(call)(s, mask) for call in calls])
    for mask in (~none, none, np.arange(4) == 2):
        for (value, slopes), chance in zip(all_of_them(s, mask), (0.5, 0.5, 0, 0), strict=True):
            assert value == chance and (slopes == 0).all()


def test_infinite_scores_missing_targets_and_nan():
    s, finite, x = SCORES.copy(), SCORES.copy(), jnp.asarray(SCORES)
    s[[0, 5]], finite[[0, 5]] = (np.inf, -np.inf), (60, -60)
    missing, kept = TARGETS.astype(np.float32), np.arange(30) > 2
    missing[~kept] = np.nan

    with_nan = np.where(np.arange(30) == 0, np.nan, SCORES)
    narrow = jax.jit(lambda s: {metric: f(s, sigma=1.0) for metric, f in OURS.items()})(
        x.astype(jnp.bfloat16)
    )
    for metric, f in OURS.items():
        infinite, large, unknown, wide = (
            jax.device_get(_both(metric, "normal", each, np.float32(1)))
            for each in (s, finite, with_nan, SCORES)
        )
        np.testing.assert_allclose(infinite[0], large[0], atol=1e-6)
        np.testing.assert_allclose(f(jnp.asarray(s), sigma=1.0), large[0], atol=1e-6)
        slopes = infinite[1][0]
        assert (slopes[[0, 5]] == 0).all() and np.isfinite(slopes).all()
        assert np.isnan(unknown[0]), metric
        value = narrow[metric]
        assert value.dtype == jnp.bfloat16 and abs(value.astype(np.float32) - wide[0]) < 1e-2

    @jax.jit
    def correlations(s):
        functions = pairs.kendall_tau, pairs.spearman_rho
        return [(f(s, missing, 1.0), f(s[kept], TARGETS[kept], 1.0)) for f in functions]

    for of_all, of_kept in correlations(x):
        np.testing.assert_allclose(of_all, of_kept, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, y: pairs.auc(s, y[:2], 1.0), "vectors of one length"),
        (lambda s, y: pairs.auc(s, y + 1, 1.0), "labels holds 2"),
        (lambda s, y: pairs.auc(s, y, 0.0), "sigma=0.0 must be a finite number > 0"),
        (lambda s, y: pairs.auc(s.astype(jnp.int32), y, 1.0), "scores has dtype int32"),
        (lambda s, y: pairs.auc(s.at[0].set(jnp.nan), y, 1.0), "scores holds nan"),
        (lambda s, y: pairs.auc(s, y, 1.0, mask=y), "mask is int32"),
        (lambda s, y: pairs.auc(s, y, 1.0, noise=esjax.noise.laplace), "noise=laplace has no closed form"),
        (lambda s, y: pairs.concordance(s, s, y + 1, 1.0), "events holds 2"),
        (lambda s, y: pairs.concordance(s, s[:1], y, 1.0), "vectors of one length"),
        (lambda s, y: pairs.kendall_tau(s, y, jnp.ones(2)), "sigma has shape"),
        (lambda s, y: pairs.spearman_rho(s, y.astype(jnp.complex64), 1.0), "targets has dtype complex64"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.array([0.1, 0.2, 0.3]), jnp.array([1, 0, 1]))
