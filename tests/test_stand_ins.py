"""Control variates without a known mean: unbiased with any stand-in, and less variance with a good one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.scipy.stats import norm

import esjax
from esjax import baselines, controls, credit, samplers

SIGMA = 0.5
X = jnp.array([0.1, -0.3, 0.4])
WEIGHTS = jnp.array([1.0, 2.0, -1.0])
POINT = (X, jnp.float32(SIGMA), WEIGHTS)


def _steps(x, weights):
    """Three values, of which each reads one coordinate, and one that reads all of them."""
    return {"own": jnp.where(x > 0, weights, 0), "all": jnp.where(x > 0.2, 1.0, 0.0).sum() ** 2}


def _sigmoids(x, weights):
    soft = partial(jax.nn.sigmoid)
    return {"own": weights * soft(x / 0.15), "all": soft((x - 0.2) / 0.15).sum() ** 2}


def _poor(x, weights):
    """Smooth, and nothing like the block."""
    return {"own": jnp.sin(7 * x) + weights, "all": jnp.cos(5 * x).prod()}


def _exact(x, sigma, weights):
    """Returns the four smoothed values: of (Σ b_i)², Σ p_i + Σ_{i≠j} p_i p_j for independent bits b_i."""
    p = norm.cdf((x - 0.2) / sigma)
    return jnp.append(weights * norm.cdf(x / sigma), p.sum() + p.sum() ** 2 - (p**2).sum())


def _smooth(control, num_samples=16, fun=_steps, **options):
    return esjax.smooth(fun, sigma=SIGMA, num_samples=num_samples, control=control, **options)


def _values(smoothed, x, sigma, weights, key):
    value = smoothed(key, x, weights, sigma=sigma)
    return jnp.append(value["own"], value["all"])


def _draws(function, num_draws):
    keys = jax.random.split(jax.random.key(0), num_draws)
    return np.asarray(jax.jit(lambda keys: jax.lax.map(function, keys, batch_size=500))(keys), np.float64)


def _assert_mean(draws, wanted):
    error = draws.std(0, ddof=1) / len(draws) ** 0.5
    assert np.all(np.abs(draws.mean(0) - wanted) < 4.5 * error + 1e-7)


# --- unbiased -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "of", "control"),
    [
        (samplers.antithetic, credit.auto, _sigmoids),
        (samplers.iid, credit.none, _poor),
    ],
    ids=["antithetic", "poor"],
)
def test_gradients_of_several_values_are_unbiased(sampler, of, control):
    """By two passes, in x and σ."""
    smoothed = esjax.smooth(_steps, sigma=SIGMA, num_samples=16, control=control, sampler=sampler, credit=of)

    def jacobian(key):
        in_x, in_sigma = jax.jacrev(partial(_values, smoothed), (0, 1))(*POINT, key)
        return jnp.append(in_x, in_sigma[:, None], 1)

    in_x, in_sigma = jax.jit(jax.jacrev(_exact, (0, 1)))(*POINT)
    _assert_mean(_draws(jacobian, 8_000), np.append(in_x, in_sigma[:, None], 1))


@pytest.mark.parametrize("of", [credit.auto, credit.none])
def test_one_value_is_unbiased_with_few_samples(of):
    """By one pass. With four samples in each half, a scale fitted on its own would be far off the mean."""

    def block(x, weights):
        return (weights * jnp.exp(jnp.round(2 * x))).sum()

    def stand_in(x, weights):
        return (weights * jnp.exp(2 * x)).sum()

    def exact(x, sigma):
        steps = jnp.arange(-12.0, 12.0)
        below = norm.cdf((steps[:, None] / 2 + 0.25 - x[None]) / sigma)
        return WEIGHTS @ ((below[1:] - below[:-1]) * jnp.exp(steps[1:])[:, None]).sum(0)

    smoothed = _smooth(stand_in, 8, block, sampler=samplers.iid, credit=of)

    def gradients(key):
        in_x, in_sigma = jax.grad(lambda x, s: smoothed(key, x, WEIGHTS, sigma=s), (0, 1))(X, SIGMA)
        return jnp.append(in_x, in_sigma)

    _assert_mean(_draws(gradients, 50_000), np.append(*jax.jit(jax.grad(exact, (0, 1)))(X, SIGMA)))


def test_a_stand_in_with_infinite_x_and_sigma_for_each_coordinate():
    """A coordinate at −∞ has no gradient, and brings no NaN."""
    x, sigma = jnp.array([0.1, -jnp.inf, 0.4]), jnp.array([0.5, 0.5, 0.7])
    smoothed = esjax.smooth(
        lambda x: jnp.where(x > 0, 1.0, 0.0).sum(),
        sigma=1.0,
        num_samples=16,
        control=lambda x: jax.nn.sigmoid(x / 0.2).sum(),
    )

    def gradients(key):
        return jnp.stack(jax.grad(lambda x, s: smoothed(key, x, sigma=s), (0, 1))(x, sigma))

    draws = _draws(gradients, 5_000)
    slope = scipy.stats.norm.pdf(x / sigma) / sigma
    in_sigma = -np.where(np.isinf(x), 0, x) / sigma * slope
    _assert_mean(draws, np.stack([slope, in_sigma]))


# --- what it leaves alone ----------------------------------------------------------------------------


def test_value_gradients_in_args_and_second_derivatives_are_those_without():
    """They come from the block's values alone; so does the derivative in what only the stand-in reads."""

    def block(x, weights, slope):
        return (weights * jnp.round(2 * x)).sum()

    def stand_in(x, weights, slope):
        return slope * (weights * x).sum()

    def found(control):
        smoothed = _smooth(control, fun=block)

        def loss(x, weights, slope):
            return smoothed(jax.random.key(0), x, weights, slope)

        arguments = (X, WEIGHTS, jnp.float32(1.9))
        value, (in_weights, in_slope) = jax.value_and_grad(loss, (1, 2))(*arguments)
        return value, in_weights, in_slope, jax.hessian(loss)(*arguments), jax.grad(loss)(*arguments)

    *with_control, slopes = jax.jit(found, static_argnums=0)(stand_in)
    *without, other_slopes = jax.jit(found, static_argnums=0)(None)
    for one, other in zip(with_control, without, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert with_control[2] == 0 and np.abs(slopes - other_slopes).min() > 1e-3


@pytest.mark.parametrize("options", [{}, {"credit": credit.none}], ids=["credit", "none"])
def test_chunks_and_an_offset_change_nothing_but_rounding(options):
    def block(x, weights, offset):
        return (weights * jnp.round(2 * x)).sum() + offset

    def stand_in(x, weights, offset):
        return (weights * 2 * x).sum() - offset

    def gradient(chunk_size):
        smoothed = _smooth(stand_in, 64, block, sampler=samplers.iid, chunk_size=chunk_size, **options)
        return jax.jit(lambda offset: jax.grad(smoothed, 1)(jax.random.key(3), X, WEIGHTS, offset))

    whole = gradient(None)
    np.testing.assert_allclose(gradient(9)(0.0), whole(0.0), rtol=1e-4)
    np.testing.assert_allclose(whole(1e4), whole(0.0), rtol=2e-2)


def test_discarded_samples_are_left_out_of_the_fit():
    """NaN where they are, in the block's values and the stand-in's, for half of the samples."""

    def faulty(function):
        return lambda x, weights: jnp.where(x[0] < 0.1, 1.0, jnp.nan) * (weights * function(2 * x)).sum()

    smoothed = _smooth(faulty(lambda x: x), 64, faulty(jnp.round), discard=jnp.isnan)
    gradient = jax.jit(jax.grad(smoothed, 1))(jax.random.key(0), X, WEIGHTS)
    assert np.all(np.isfinite(gradient)) and np.abs(gradient).max() > 0.1


# --- less variance -----------------------------------------------------------------------------------


def _rounded(x):
    return jnp.mean((jnp.round(x) - 0.3) ** 2)


def _square_errors(control, num_draws, block, num_samples=64, **options):
    """Returns the mean error² of gradients of rounding, D = 20, and what reports on one of a key."""
    x = 2 * jax.random.normal(jax.random.key(4), (20,))
    smoothed = esjax.smooth(block, sigma=0.5, num_samples=num_samples, control=control, **options)

    keys = jax.random.split(jax.random.key(5), num_draws)
    draws = jax.jit(jax.vmap(jax.grad(smoothed, 1), (0, None)))(keys, x)
    return np.asarray(draws, np.float64).var(0).sum(), partial(smoothed.with_info, x=x)


def test_a_good_stand_in_takes_variance_away_and_the_report_says_how_much():
    options = {"sampler": samplers.iid}
    (plain, _), (good, reports) = (
        _square_errors(control, 1_000, _rounded, **options)
        for control in (None, lambda x: jnp.mean((x - 0.3) ** 2))
    )
    assert good < plain / 3
    report = jax.jit(jax.vmap(lambda key: reports(key)[1]))(jax.random.split(jax.random.key(5), 300))
    np.testing.assert_allclose(np.mean(report.share_explained), 1 - good / plain, atol=0.03)
    np.testing.assert_allclose(np.mean(report.gradient_error**2), good, rtol=0.1)
    assert "explained by control" in str(jax.tree.map(lambda leaf: leaf[0], report))
    together = esjax.diagnostics.combined(report).share_explained
    np.testing.assert_allclose(together, 1 - good / plain, atol=0.03)


def test_an_independent_stand_in_costs_at_most_a_tenth_of_the_error():
    """In halves of eight samples, chance alone would cost an eighth."""

    def block(x):
        return _rounded(x[:10])

    options = {"sampler": samplers.iid, "credit": credit.none}
    (plain, _), (poor, _) = (
        _square_errors(control, 4_000, block, 16, **options) for control in (None, lambda x: x[10:].sum())
    )
    assert poor < 1.05 * plain


@pytest.mark.parametrize(("sampler", "num_samples"), [(samplers.antithetic, 4), (samplers.iid, 2)])
def test_a_scale_is_not_fitted_to_one_observation(sampler, num_samples):
    """A ratio of two numbers has no mean, and the gradient would have none."""

    def variance(control):
        smoothed = _smooth(
            control, num_samples, lambda x: jnp.where(x > 0.15, 1.0, 0.0).sum(), sampler=sampler
        )
        return _draws(lambda key: jax.grad(smoothed, 1)(key, X), 2_000).var(0)

    good = variance(lambda x: jax.nn.sigmoid((x - 0.15) / 0.15).sum())
    np.testing.assert_allclose(good, variance(None), rtol=1e-3)


def test_antithetic_pairs_that_cancel_take_nothing_off():
    """A line's values cancel in σ but for rounding, to which a scale could be fitted, of any size."""

    def gradient(control, key):
        block, options = lambda x: jnp.where(x > 0.15, 1.0, 0.0).sum(), {"credit": credit.none}
        smoothed = _smooth(control, 16, block, sampler=samplers.antithetic, **options)
        return jax.grad(lambda sigma: smoothed(key, X, sigma=sigma))(SIGMA)

    found, wanted = (
        _draws(partial(gradient, control), 100) for control in (lambda x: (WEIGHTS * x).sum(), None)
    )
    np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("baseline", [baselines.none, baselines.at_input])
def test_the_fit_and_the_report_are_of_values_less_their_own_baseline(baseline):
    def block(x):
        return jnp.round(2 * x + 0.4).sum() + 3

    options = {"sampler": samplers.iid, "baseline": baseline, "credit": credit.none}
    good, reports = _square_errors(lambda x: 2 * x.sum(), 1_000, block, **options)
    report = jax.jit(jax.vmap(lambda key: reports(key)[1]))(jax.random.split(jax.random.key(5), 300))
    np.testing.assert_allclose(np.mean(report.gradient_error**2), good, rtol=0.1)


def test_coordinates_without_a_gradient_are_no_part_of_the_fit():
    """Masked by −∞, which changes no value, and so neither the gradient of the others nor the report."""
    x = jnp.append(X, jnp.full(30, -jnp.inf))
    soft = lambda x: jax.nn.softmax(x / 0.1)[0]  # noqa: E731
    options = {"sampler": samplers.iid, "credit": credit.none}

    def reported(size):
        smoothed = _smooth(soft, 64, lambda x: jnp.where(x.argmax() == 0, 1.0, 0.0), **options)
        return _draws(lambda key: smoothed.with_info(key, x[:size])[1].share_explained, 300)

    np.testing.assert_allclose(reported(33).mean(), reported(3).mean(), atol=0.03)


def test_each_coordinate_has_a_scale_of_its_own_where_there_is_credit():
    """The stand-in is good for one coordinate, of the wrong sign for another, and silent on the third."""
    block = lambda x: jnp.round(2 * x) / 2  # noqa: E731
    stand_in = lambda x: jnp.array([1.0, -3.0, 0.0]) * x  # noqa: E731

    def variances(control):
        smoothed = esjax.smooth(block, sigma=0.5, num_samples=256, control=control, sampler=samplers.iid)
        keys = jax.random.split(jax.random.key(6), 500)
        return jax.jit(jax.vmap(jax.grad(lambda x, key: smoothed(key, x).sum()), (None, 0)))(X, keys).var(0)

    ratios = variances(None) / variances(stand_in)
    assert ratios[0] > 3 and ratios[1] > 3 and 0.9 < ratios[2] < 1.1


# --- arithmetic, closures, keys ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_dtypes_stay_what_they_are(dtype):
    with jax.enable_x64(dtype == "float64"):
        x = X.astype(dtype)
        smoothed = esjax.smooth(
            lambda x: jnp.round(2 * x), sigma=0.5, num_samples=16, control=lambda x: 2 * x
        )

        @jax.jit
        def value_and_gradient(x):
            value, pull = jax.vjp(lambda x: smoothed(jax.random.PRNGKey(0), x), x)
            return value, pull(jnp.ones_like(value))[0]

        value, gradient = value_and_gradient(x)
        assert value.dtype == gradient.dtype == jnp.dtype(dtype)
        np.testing.assert_allclose(np.asarray(gradient, np.float64), 2, atol=1.5)


def test_a_stand_in_may_close_over_traced_values():
    def gradient(slope):
        stand_in = lambda x, weights: slope * (weights * x).sum()  # noqa: E731
        smoothed = _smooth(stand_in, 16, lambda x, weights: (weights * jnp.round(2 * x)).sum())
        return jax.grad(smoothed, 1)(jax.random.key(0), X, WEIGHTS)

    found = jax.jit(jax.vmap(gradient))(jnp.array([0.5, 2.0]))
    np.testing.assert_allclose(found[1], jax.jit(lambda: gradient(2.0))(), rtol=1e-5)
    in_slope = jax.jit(jax.jacobian(gradient))(2.0)  # the mean does not depend on it
    np.testing.assert_array_equal(in_slope, 0)


# --- learning ----------------------------------------------------------------------------------------


def _line(x, weights, slope):
    return slope * (weights * x).sum()


def _rounded_line(x, weights, slope):
    return (weights * jnp.round(2 * x)).sum()


def test_samples_are_those_of_the_call():
    smoothed = _smooth(_line, 64, _rounded_line)

    (value, samples), gradient = jax.jit(jax.value_and_grad(smoothed.with_samples, 1, has_aux=True))(
        jax.random.key(0), X, WEIGHTS, 2.0
    )
    alone = jax.jit(jax.grad(smoothed, 1))(jax.random.key(0), X, WEIGHTS, 2.0)
    np.testing.assert_allclose(gradient, alone, rtol=1e-5)
    np.testing.assert_allclose(samples.values.mean(), value, rtol=1e-6)
    at_points = jax.vmap(lambda x: _rounded_line(x, WEIGHTS, 2.0))(samples.points)
    np.testing.assert_allclose(at_points, samples.values, atol=1e-5)
    np.testing.assert_allclose((samples.points - X[None]) / SIGMA**2, samples.scores, rtol=1e-4, atol=1e-5)
    assert samples.kept.sum() == 64


def test_samples_have_the_structure_of_x_and_of_the_values():
    smoothed = esjax.smooth(
        lambda x: {"b": jnp.where(x["a"] > 0, 1.0, jnp.nan), "c": x["a"]},
        sigma=0.5,
        num_samples=8,
        discard=jnp.isnan,
    )
    _, samples = smoothed.with_samples(jax.random.key(0), {"a": jnp.bfloat16(0.1)})
    assert samples.points["a"].shape == samples.scores["a"].shape == samples.values["b"].shape == (8,)
    assert 0 < samples.kept.sum() < 8 and samples.values["c"].dtype == jnp.bfloat16
    of_kept = controls.regression(lambda x: {"b": jnp.float32(1), "c": x["a"]}, samples)
    assert of_kept < 1e-4


def test_losses_have_gradients_where_samples_are_discarded():
    """The stand-in is NaN there too."""
    smoothed = esjax.smooth(
        lambda x: jnp.where(x > 0, 1.0, jnp.nan), sigma=0.5, num_samples=8, discard=jnp.isnan
    )
    _, samples = smoothed.with_samples(jax.random.key(0), jnp.float32(0.1))
    for loss in (controls.regression, controls.variance):
        in_slope = jax.grad(lambda slope, loss=loss: loss(lambda x, slope: slope * x**1.5, samples, slope))
        found = jax.jit(in_slope)(2.0)
        assert np.isfinite(found) and found != 0


def test_losses_are_least_squares_and_the_variance_of_the_gradient():
    """A line, whose slope of least squares is known, and whose variance in the estimate is measured."""
    smoothed = _smooth(None, 4096, _rounded_line, sampler=samplers.iid)
    _, samples = smoothed.with_samples(jax.random.key(7), X, WEIGHTS, 0.0)
    values, scores, weights = map(np.asarray, (samples.values, samples.scores, WEIGHTS))
    line = np.asarray(samples.points) @ weights
    best = (line @ values) / (line @ line)
    of = jax.jit(jax.grad(lambda slope: controls.regression(_line, samples, WEIGHTS, slope)))
    np.testing.assert_allclose(of(best), 0, atol=1e-3)
    np.testing.assert_allclose(of(0.0), -2 * (line @ values) / 4096, rtol=1e-4)

    def added(slope):
        """Returns what each sample adds to the gradient."""
        rest = values - slope * line
        return (rest - rest.mean())[:, None] * scores + slope * weights

    variance = jax.jit(jax.value_and_grad(lambda slope: controls.variance(_line, samples, WEIGHTS, slope)))
    for slope in (0.0, 1.8):
        np.testing.assert_allclose(variance(slope)[0], (added(slope) ** 2).sum(1).mean(), rtol=1e-4)
    assert variance(0.5)[1] < 0


def test_a_learned_stand_in_of_a_host_program_takes_variance_away_and_no_evaluations():
    """Its parameters are fitted to the samples of earlier steps, here in closed form."""
    block = esjax.host.wrap(lambda x: np.float32(np.rint(2 * x).sum()), np.float32(0))
    smoothed = esjax.smooth(
        lambda x, slopes: block(x),
        sigma=0.5,
        num_samples=64,
        sampler=samplers.iid,
        control=lambda x, slopes: slopes @ x,
    )
    step = jax.jit(jax.value_and_grad(smoothed.with_samples, 1, has_aux=True))

    def mean_error(learns):
        x, slopes, errors = jnp.linspace(-1, 1, 8), jnp.zeros(8), []
        for key in jax.random.split(jax.random.key(8), 12):
            (_, samples), gradient = step(key, x, slopes)
            errors.append(float(((gradient - 2) ** 2).sum()))
            if learns:
                points, values = samples.points, samples.values
                centred = points - points.mean(0)[None], values - values.mean()
                slopes = jnp.linalg.lstsq(*centred)[0]
        return np.mean(errors[1:])

    assert mean_error(True) < mean_error(False) / 4
    assert block.log.evaluations == 2 * 12 * 64


# --- straight-through, mended ------------------------------------------------------------------------


def _hard(x):
    ranks = jnp.argsort(jnp.argsort(x)).astype(x.dtype)
    hot = jax.nn.one_hot(x.argmax(), x.size, dtype=x.dtype)
    return jnp.stack([jnp.round(x), jnp.where(x > 0.3, 1.0, 0.0), hot, ranks, jnp.sort(x)])


def _soft(x):
    """The operators of docs/stand_ins.md; `sort` is continuous, and stands in for itself."""
    below = jnp.floor(x)
    stairs = below + jnp.clip((x - below - 0.5) / 0.4 + 0.5, 0, 1)
    ranks = jax.nn.sigmoid((x[:, None] - x[None]) / 0.2).sum(1) - 0.5
    ramp = jnp.clip((x - 0.3) / 0.5 + 0.5, 0, 1)
    return jnp.stack([stairs, ramp, jax.nn.softmax(x / 0.2), ranks, jnp.sort(x)])


def test_soft_operators_take_variance_off_hard_ones_and_no_bias_on():
    """Round, threshold, argmax, rank and sort, with the mean of plain estimates."""
    x = jnp.array([0.4, -0.3, 0.1])

    def jacobians(control, seed):
        smoothed = esjax.smooth(
            _hard, sigma=0.5, num_samples=64, sampler=samplers.iid, credit=credit.none, control=control
        )
        return _draws(lambda key: jax.jacrev(smoothed, 1)(jax.random.fold_in(key, seed), x), 1_000)

    plain, mended = jacobians(None, 0), jacobians(_soft, 1)
    error = ((plain.var(0) + mended.var(0)) / 1_000) ** 0.5
    assert np.all(np.abs(plain.mean(0) - mended.mean(0)) < 4.5 * error)
    ratios = plain.var(0).sum((1, 2)) / mended.var(0).sum((1, 2))
    assert np.all(ratios > [2, 1.8, 2, 2.5, 3]), ratios
