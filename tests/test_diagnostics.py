"""Reports on gradients against what repeated gradients do, and against counts by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esjax
from esjax import diagnostics
from esjax.benchmarks import problems

NUM_REPEATS = 1000
X = jnp.array([0.3, -0.8, 0.1, 1.2, -0.4])


def _sorted(x):
    return jnp.sort(x) @ jnp.arange(1.0, 6.0)


def _several(x):
    return jnp.where(x > 0, 1.0, 0.0), (x**2).sum()


def _accuracy(x):
    return esjax.blocks.accuracy(x, 1)


PROBLEMS = {
    "rank correlation": (problems.rank_correlation(10).fun, problems.rank_correlation(10).x),
    "rounding": (problems.rounding(10).fun, problems.rounding(10).x),
    "threshold count": (problems.threshold_count(10).fun, problems.threshold_count(10).x),
    "sort": (_sorted, X),
    "accuracy": (_accuracy, X),
    "several values": (_several, X),
}
CASES = [
    *((name, "iid", "leave_one_out") for name in PROBLEMS),
    *((name, "auto", "leave_one_out") for name in ("rounding", "sort", "several values")),
    ("rank correlation", "antithetic", "leave_one_out"),
    ("threshold count", "orthogonal", "none"),
    ("several values", "antithetic", "none"),
]


def _smooth(fun, num_samples=64, sampler="iid", baseline="leave_one_out", **options):
    return esjax.smooth(
        fun,
        sigma=0.6,
        num_samples=num_samples,
        sampler=getattr(esjax.samplers, sampler),
        baseline=getattr(esjax.baselines, baseline),
        **options,
    )


def _repeats(smoothed, x, num_repeats=NUM_REPEATS):
    """Values (repeats, m), gradients (repeats, m D), and the reports, from independent keys."""

    def one(key):
        def reported(x):
            value, report = smoothed.with_info(key, x)
            return value, (value, report)

        gradient, (value, report) = jax.jacrev(reported, has_aux=True)(x)
        values = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(value)])
        return values, jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(gradient)]), report

    keys = jax.random.split(jax.random.PRNGKey(8), num_repeats)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), jax.jit(jax.vmap(one))(keys))


@pytest.mark.parametrize(("name", "sampler", "baseline"), CASES)
def test_predicted_errors_are_those_of_repeated_gradients(name, sampler, baseline):
    fun, x = PROBLEMS[name]
    values, gradients, reports = _repeats(_smooth(fun, 64, sampler, baseline), x)
    for draws, predicted in ((values, reports.value_error), (gradients, reports.gradient_error)):
        squares = ((draws - draws.mean(0)) ** 2).sum(1) * len(draws) / (len(draws) - 1)
        gaps = predicted**2 - squares
        assert abs(gaps.mean()) < min(4 * gaps.std() / len(gaps) ** 0.5, 0.2 * squares.mean())
    np.testing.assert_allclose(reports.gradient_norm, np.linalg.norm(gradients, axis=1), rtol=1e-3)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_samples_it_asks_for_reach_the_wanted_signal_to_noise(name):
    fun, x = PROBLEMS[name]
    report = jax.jit(partial(diagnostics.diagnose, _smooth(fun, 4096)))(jax.random.key(1), x)
    needed = int(report.num_samples_for(2.0))
    _, gradients, reports = _repeats(_smooth(fun, needed), x)
    reached = np.linalg.norm(gradients.mean(0)) / np.sqrt(gradients.var(0, ddof=1).sum())
    assert abs(reached / 2.0 - 1) < 0.2
    signal = np.mean(reports.gradient_norm**2 - reports.gradient_error**2) ** 0.5  # unbiased before the root
    np.testing.assert_allclose(signal, np.linalg.norm(gradients.mean(0)), rtol=0.05)


def test_the_cosine_is_that_of_gradients_of_half_the_samples():
    fun, x = PROBLEMS["sort"]
    _, halves, _ = _repeats(_smooth(fun, 32), x, 4000)
    unit = halves / np.linalg.norm(halves, axis=1, keepdims=True)
    between = (unit[::2] * unit[1::2]).sum(1)
    report = diagnostics.diagnose(_smooth(fun, 4096), jax.random.key(1), x)
    error = report.gradient_error * (4096 / 64) ** 0.5  # of 64 samples, made of halves of 32
    predicted = report._replace(gradient_error=error, gradient_norm=np.hypot(report.signal, error)).cosine
    assert abs(float(predicted) - between.mean()) < 0.05


def test_counts_by_hand():
    """A step at 0.5 with x = 0: the samples above it are those whose value changed."""

    def sampler(num_samples, dim, noise):
        del num_samples, dim, noise
        return esjax.samplers.Groups(1, lambda key, dtype: jnp.sign(jax.random.normal(key, (1, 1), dtype)))

    smoothed = esjax.smooth(
        lambda x: jnp.where(x > 0.5, 1.0, 0.0), sigma=1.0, num_samples=50, sampler=sampler
    )
    value, report = smoothed.with_info(jax.random.key(0), 0.0)
    above = 50 * float(value)  # f_n = 1 for ε = 1, 0 for ε = −1
    assert 0 < above < 50 and report.num_samples == 50 and report.num_discarded == 0
    np.testing.assert_allclose(report.share_changed, value, rtol=1e-6)
    np.testing.assert_allclose(report.bias, value, rtol=1e-6)
    np.testing.assert_allclose(report.value_error, (value * (1 - value) / 49) ** 0.5, rtol=1e-5)
    weights = np.array([1 - (above - 1) / 49] * int(above) + [-above / 49] * (50 - int(above)))
    np.testing.assert_allclose(
        report.effective_samples, abs(weights).sum() ** 2 / (weights**2).sum(), rtol=1e-4
    )


def test_discarded_samples_are_counted_and_left_out():
    def fun(x):
        return jnp.where(x[0] > 1, jnp.nan, x[1])

    smoothed, key = _smooth(fun, 200, discard=jnp.isnan), jax.random.key(0)
    with_report = jax.jit(jax.value_and_grad(smoothed.with_info, 1, has_aux=True))
    (value, report), gradient = with_report(key, jnp.zeros(2))
    draws = jax.jit(jax.vmap(lambda n: jax.random.normal(jax.random.fold_in(key, n), (1, 2))[0]))
    eps = np.asarray(draws(jnp.arange(200)))
    kept = 0.6 * eps[:, 0] <= 1
    assert int(report.num_discarded) == 200 - kept.sum() and 0 < report.num_discarded < 50
    np.testing.assert_allclose(value, 0.6 * eps[kept, 1].mean(), rtol=1e-4)
    assert all(np.isfinite(leaf) for leaf in report)
    np.testing.assert_allclose(report.gradient_norm, jnp.linalg.norm(gradient), rtol=1e-4)


def test_the_error_of_a_value_is_that_of_the_samples_kept():
    def fun(x):
        return jnp.where(x[0] > 0, jnp.nan, x[1] + 5)

    smoothed = _smooth(fun, 100, discard=jnp.isnan)
    keys = jax.random.split(jax.random.PRNGKey(0), NUM_REPEATS)
    values, reports = jax.jit(jax.vmap(lambda key: smoothed.with_info(key, jnp.zeros(2))))(keys)
    assert abs(float(jnp.sqrt((reports.value_error**2).mean()) / values.std()) - 1) < 0.1


@pytest.mark.parametrize("discard", [None, jnp.isnan])
def test_reports_and_hessians_work_in_float64(discard):
    with jax.enable_x64(True):
        x, key = jnp.asarray(X, jnp.float64), jax.random.PRNGKey(0)
        smoothed = _smooth(_several, discard=discard)
        assert jax.jit(partial(diagnostics.diagnose, smoothed))(key, x).gradient_norm.dtype == jnp.float64
        hessians = jax.tree.leaves(jax.jit(jax.hessian(lambda x: smoothed(key, x)))(x))
        assert all(np.isfinite(hessian).all() for hessian in hessians)


@pytest.mark.parametrize("sampler", ["antithetic", "orthogonal"])
def test_errors_of_many_values_by_gram_matrices_are_those_of_the_sums(sampler, monkeypatch):
    def many(x):
        return jnp.where(x[:, None] > x[None, :], 1.0, 0.0)

    def diagnosed():
        return jax.jit(partial(diagnostics.diagnose, _smooth(many, sampler=sampler)))(jax.random.key(0), X)

    report = diagnosed()
    direct = esjax.smoothing._perturbing._squared_sum
    padded = lambda weights, scores: direct(  # noqa: E731  # so long a group that its array is the smaller
        jnp.pad(weights, [(0, 0), (0, 200), (0, 0)]), jnp.pad(scores, [(0, 0), (0, 200), (0, 0)])
    )
    monkeypatch.setattr(esjax.smoothing._perturbing, "_squared_sum", padded)
    again = diagnosed()
    np.testing.assert_allclose(report.gradient_error, again.gradient_error, rtol=1e-4)


def test_value_and_gradient_are_those_of_a_call_without_report():
    smoothed, key = _smooth(_sorted), jax.random.PRNGKey(0)
    with_report = jax.jit(jax.value_and_grad(smoothed.with_info, 1, has_aux=True))
    (value, report), gradient = with_report(key, X)
    plain_value, plain_gradient = jax.jit(jax.value_and_grad(smoothed, 1))(key, X)
    np.testing.assert_allclose(value, plain_value, rtol=1e-5)
    np.testing.assert_allclose(gradient, plain_gradient, rtol=1e-4, atol=1e-6)
    for found, eager in zip(report, diagnostics.diagnose(smoothed, key, X), strict=True):
        np.testing.assert_allclose(found, eager, rtol=1e-4)


@pytest.mark.parametrize(("baseline", "more"), [("leave_one_out", 1), ("at_input", 1)])
def test_a_report_takes_one_more_evaluation_at_most(baseline, more):
    seen = []

    def fun(x):
        def python(x):
            seen.append(x)
            return np.float32((x > 0).sum())

        return jax.pure_callback(python, jax.ShapeDtypeStruct((), jnp.float32), x, vmap_method="sequential")

    jax.jit(jax.value_and_grad(_smooth(fun, 8, baseline=baseline).with_info, 1, has_aux=True))(
        jax.random.key(0), X
    )
    assert len(seen) == 8 + more


def test_combined_is_the_report_of_one_long_gradient():
    smoothed, keys = _smooth(_sorted, 256), jax.random.split(jax.random.PRNGKey(0), 6)
    xs = jax.random.normal(jax.random.key(1), (6, 5))
    reports = jax.jit(jax.vmap(partial(diagnostics.diagnose, smoothed)))(keys, xs)
    total = diagnostics.combined(reports)
    gradients = jax.jit(jax.vmap(jax.grad(smoothed, 1)))(keys, xs)
    np.testing.assert_allclose(total.gradient_norm, jnp.linalg.norm(gradients.ravel()), rtol=1e-4)
    np.testing.assert_allclose(total.gradient_error**2, (reports.gradient_error**2).sum(), rtol=1e-5)
    assert total.num_samples == 6 * 256 and 0 < total.cosine < 1
    np.testing.assert_allclose(total.share_changed, reports.share_changed.mean(), rtol=1e-5)
    np.testing.assert_allclose(total.effective_samples, reports.effective_samples.sum(), rtol=1e-5)
    for name in ("bias", "value_error"):
        np.testing.assert_allclose(getattr(total, name), jnp.linalg.norm(getattr(reports, name)), rtol=1e-5)


def test_a_report_prints_as_a_table_and_plots():
    smoothed = _smooth(_sorted)
    report = diagnostics.diagnose(smoothed, jax.random.key(0), X)
    lines = str(report).splitlines()
    assert len(lines) == 8 and lines[0].split() == ["samples", "64,", "0", "discarded"]
    keys = jax.random.split(jax.random.key(0), 5)
    reports = jax.jit(jax.vmap(lambda key: smoothed.with_info(key, X)[1]))(keys)
    assert "diagnostics.combined" in str(reports)
    assert len(diagnostics.plot(reports, steps=range(0, 50, 10)).axes) == 4
    assert diagnostics.evaluations_per_second(smoothed, jax.random.key(1), X) > 0
    traced = []
    jax.jit(lambda key: traced.append(str(smoothed.with_info(key, X)[1])))(jax.random.key(2))
    assert "return it from jit" in traced[0]


def test_a_flat_block_has_no_signal_and_says_so():
    report = diagnostics.diagnose(_smooth(lambda x: jnp.float32(2)), jax.random.key(0), X)
    assert report.share_changed == 0 and report.gradient_norm == 0 and report.bias == 0
    assert report.signal_to_noise == 0 and report.cosine == 0 and report.num_samples_for(1.0) == jnp.inf
    assert "inf" in str(report)


def test_one_group_has_no_error_to_report():
    report = diagnostics.diagnose(_smooth(_sorted, 1, baseline="none"), jax.random.key(0), X)
    assert np.isfinite(report.gradient_norm) and np.isnan(report.gradient_error)
    assert np.isnan(report.signal_to_noise) and np.isnan(report.num_samples_for(1.0))


def test_rounding_is_no_change():
    """A sum of 1,000 numbers rounds otherwise for one point than for many at once."""
    weights = jnp.asarray(np.random.default_rng(0).normal(size=1000), jnp.float32)
    smoothed = esjax.smooth(lambda x: jnp.sum(jnp.round(x) * weights) / 3 + 1, sigma=0.01, num_samples=64)
    _, report = jax.jit(smoothed.with_info)(jax.random.key(0), jnp.full(1000, 2.0))
    assert report.share_changed == 0
