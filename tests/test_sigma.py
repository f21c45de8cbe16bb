"""The choice of σ against its formula, and against what it must not depend on."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from scipy import integrate

import esjax


def test_sigma_is_ten_times_the_spread_within_examples():
    logits = np.random.default_rng(0).normal(size=(50, 7)) * 3 + np.arange(50)[:, None]
    spread = np.mean([row.var() for row in logits]) ** 0.5
    assert esjax.sigma.from_logits(jnp.asarray(logits, jnp.float32)) == pytest.approx(10 * spread, rel=1e-5)
    assert esjax.sigma.from_logits(jnp.asarray(logits, jnp.float32), factor=2.5) == pytest.approx(
        2.5 * spread, rel=1e-5
    )


def test_features_give_the_spread_of_logits_that_a_usual_last_layer_would_have():
    rng = np.random.default_rng(0)
    features = np.maximum(rng.normal(size=(500, 64)) + 3, 0)
    kernel = rng.normal(size=(64, 2000)) / 64**0.5  # many classes, so that chance averages out
    logits = (features - features.mean(0)) @ kernel
    usual = esjax.sigma.from_logits(jnp.asarray(logits, jnp.float32))
    features = jnp.asarray(features, jnp.float32)
    small, large = (jnp.asarray(scale * logits, jnp.float32) for scale in (0.1, 10.0))
    assert esjax.sigma.from_logits(small, features=features) == pytest.approx(float(usual), rel=0.05)
    assert esjax.sigma.from_logits(large, features=features) == pytest.approx(10 * float(usual), rel=1e-4)


def test_sigma_works_inside_jit_and_needs_no_batch():
    logits = jnp.array([1.0, 2.0, 4.0])
    assert jax.jit(esjax.sigma.from_logits)(logits) == pytest.approx(10 * np.std([1, 2, 4]), rel=1e-5)


def _quantised(x):
    """A bowl of steps of height and width one half: its gradient is 0 wherever there is one."""
    return jnp.round(2.0 * jnp.abs(x)).sum()


START = jnp.array([4.0, -3.0, 5.0, 2.0])


@pytest.fixture(scope="module")
def found():
    calibrate = jax.jit(lambda key, x: esjax.sigma.calibrate(_quantised, key, x, num_samples=64))
    return calibrate(jax.random.key(0), START)


def test_the_chosen_sigma_is_the_one_whose_trials_end_lowest(found):
    lowest = np.flatnonzero(found.final == found.final.min())
    assert len(lowest) > 1  # then the clearest gradient decides
    assert found.sigma == found.sigmas[lowest[np.argmax(found.signal_to_noise[lowest])]]
    assert found.value == _quantised(START)
    scale = np.sqrt(np.mean(np.square(START)))
    np.testing.assert_allclose(found.sigmas, scale * np.geomspace(0.01, 10, 13), rtol=1e-5)
    assert found.final.min() < 0.1 * found.value
    assert found.final[0] > 0.5 * found.value  # no step is in sight
    assert found.final[-1] > found.final.min()  # the bowl is small beside σ


def test_trials_are_those_of_the_optimiser_that_is_given_and_of_adam_where_none_is():
    def final(optimizer, x):
        fun = lambda x: jnp.sum(jnp.abs(x) ** 1.5)  # noqa: E731
        key = jax.random.key(0)
        return esjax.sigma.calibrate(fun, key, x, num_samples=8, num_steps=30, optimizer=optimizer).final

    rate = 0.1 * jnp.sqrt(jnp.mean(START**2))
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam needs it
        adam = optax.adam(optax.cosine_decay_schedule(rate, 30))
        np.testing.assert_allclose(jax.jit(partial(final, adam))(START), final(None, START), rtol=1e-4)
        at_start = jnp.sum(jnp.abs(START) ** 1.5)
        np.testing.assert_allclose(final(optax.sgd(0.0), START), at_start, rtol=1e-6)


def test_a_trial_that_diverges_is_not_chosen():
    def fun(x):
        return jnp.where(jnp.abs(x).max() < 6, _quantised(x), jnp.nan)

    sigmas = [0.5, 1e30]  # samples of the second are NaN
    found = esjax.sigma.calibrate(
        fun, jax.random.key(0), START, num_samples=32, sigmas=sigmas, num_steps=20, num_repeats=2
    )
    assert found.sigma == 0.5 and np.isnan(found.final[1])


def test_bias_is_that_of_quadrature(found):
    nodes = scipy.stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    for sigma, bias, error in zip(found.sigmas, found.bias, found.bias_error, strict=True):
        points = np.asarray(START)[:, None] + float(sigma) * nodes
        mean = np.rint(2 * np.abs(points)).mean(1).sum()
        assert abs(bias - abs(mean - found.value)) < 4 * error + 2e-3


def test_signal_to_noise_is_that_of_many_gradients(found):
    sigma = found.sigmas[8]
    smoothed = esjax.smooth(_quantised, sigma=sigma, num_samples=64)
    keys = jax.random.split(jax.random.key(1), 2000)
    gradients = jax.vmap(jax.grad(smoothed, argnums=1), (0, None))(keys, START)
    truth = jnp.linalg.norm(gradients.mean(0)) / jnp.sqrt(jnp.sum(jnp.var(gradients, 0)))
    assert abs(found.signal_to_noise[8] - truth) < 4 * found.signal_to_noise_error[8]
    assert found.signal_to_noise_error[8] < 0.3 * truth


def test_calibration_takes_trees_and_args_and_says_what_it_found():
    def fun(x, target):
        return jnp.sum(jnp.abs(jnp.round(x["a"]) - target)) + jnp.abs(jnp.round(x["b"]))

    x = {"a": jnp.array([3.0, -2.0]), "b": jnp.float32(2.0)}
    sigmas = [0.1, 1.0, 3.0]
    found = esjax.sigma.calibrate(
        fun, jax.random.key(0), x, jnp.array([4.0, -5.0]), num_samples=32, sigmas=sigmas
    )
    assert found.value == abs(3 - 4) + abs(-2 + 5) + abs(2) > 2 * found.final.min()
    assert float(found.sigma) in np.float32(sigmas)
    table = str(found).splitlines()
    assert len(table) >= 4 and sum("chosen" in line for line in table) == 1
    assert "chosen" in table[1 + sigmas.index(round(float(found.sigma), 3))]


def test_a_block_that_never_changes_gives_a_remark():
    found = esjax.sigma.calibrate(
        lambda x: 0.0 * x.sum(), jax.random.key(0), START, num_samples=8, num_steps=1, num_repeats=2
    )
    assert "no candidate lowers f" in str(found)
    np.testing.assert_array_equal(found.signal_to_noise, 0)


def test_a_choice_at_the_end_of_the_candidates_gives_a_remark():
    found = esjax.sigma.calibrate(
        _quantised, jax.random.key(0), START, num_samples=32, sigmas=[1e-3, 1e-2, 1.0]
    )
    assert "end of the candidates" in str(found)


def test_the_picture_has_the_three_curves(found):
    figure = esjax.sigma.plot(found)
    assert [axes.get_ylabel() for axes in figure.axes] == ["f ends at", "signal-to-noise", "bias |F − f(x)|"]
    line = figure.axes[0].lines[0]
    np.testing.assert_allclose(np.asarray(line.get_ydata(), float), found.final)


def _descend(fun, x, log_sigma, num_steps, rate, schedule=None):
    """Gradient descent; log σ is learned, too, unless there is a schedule."""
    smoothed = esjax.smooth(fun, sigma=1.0, num_samples=64)

    def step(carry, numbered):
        number, key = numbered
        x, log_sigma = carry
        if schedule is not None:
            log_sigma = jnp.log(schedule(number))
        slopes = jax.grad(lambda x, s: smoothed(key, x, sigma=jnp.exp(s)), argnums=(0, 1))(x, log_sigma)
        return (x - rate * slopes[0], log_sigma - rate * slopes[1]), jnp.exp(log_sigma)

    numbers = jnp.arange(num_steps), jax.random.split(jax.random.key(0), num_steps)
    (x, log_sigma), sigmas = jax.lax.scan(step, (x, jnp.float32(log_sigma)), numbers)
    return x, jnp.exp(log_sigma), sigmas


def test_sigma_follows_a_schedule_of_optax_inside_scan():
    schedule = optax.exponential_decay(2.0, 100, 0.05)
    x, _, sigmas = jax.jit(lambda x: _descend(_quantised, x, 0.0, 200, 0.05, schedule))(START)
    np.testing.assert_allclose(sigmas[jnp.array([0, 100])], [2.0, 0.1], rtol=1e-5)
    assert _quantised(x) <= 1


def test_a_learned_sigma_shrinks_at_an_optimum_and_runs_away_where_far_is_better():
    _, sigma, _ = _descend(lambda x: jnp.sum(jnp.round(4 * x) ** 2) / 16, START, 0.0, 300, 0.05)
    assert sigma < 0.3  # from 1: near the optimum a smaller σ lowers F

    def pit(x):  # worst where x is: F falls as σ grows, for ever
        return jnp.where(jnp.abs(x) < 1, 1.0, 0.0)

    _, sigma, sigmas = _descend(pit, jnp.float32(0.0), 0.0, 300, 1.0)
    assert sigma > 5 and sigmas[100] < sigmas[200] < sigma


@pytest.mark.parametrize(("out_axis", "shape"), [(-1, (5, 5, 3, 64)), (0, (64, 3, 5, 5)), (-1, (400, 64))])
def test_noise_over_the_root_of_the_fan_in_moves_outputs_by_scale_times_the_root_mean_square(out_axis, shape):
    sigma = esjax.sigma.by_fan_in({"w": jnp.ones(shape)}, 0.3, out_axis=out_axis)["w"]
    rng = np.random.default_rng(0)
    noise = np.moveaxis(rng.normal(size=(400, *shape)), -1 if out_axis == -1 else 1, -1).reshape(400, -1, 64)
    h = rng.normal(size=noise.shape[1])
    moved = np.ravel(h @ (sigma * noise))  # 400 · 64 independent outputs
    assert moved.std() == pytest.approx(0.3 * np.mean(h**2) ** 0.5, rel=4 / (2 * moved.size) ** 0.5)


def test_vectors_and_numbers_have_a_third_or_what_is_said_and_a_pytree_keeps_its_structure():
    params = [{"b": jnp.ones(7), "gain": jnp.float32(2)}, (jax.ShapeDtypeStruct((4, 9), jnp.float32),)]
    assert esjax.sigma.by_fan_in(params, 0.75) == [{"b": 0.25, "gain": 0.25}, (0.375,)]
    assert esjax.sigma.by_fan_in(params, 0.5, vectors=0.1) == [{"b": 0.1, "gain": 0.1}, (0.25,)]


def test_fan_in_of_what_has_none_is_refused():
    for params, options, message in [
        ({"w": jnp.ones((2, 3))}, {"scale": 0.0}, "scale=0.0 must be a finite number > 0"),
        ({"w": jnp.ones((2, 3))}, {"vectors": -1.0}, "vectors=-1.0 must be a finite number > 0"),
        ({"w": jnp.ones((2, 3))}, {"out_axis": 2}, r"out_axis=2, but params\['w'\] has shape \(2, 3\)"),
        ({"w": jnp.ones((0, 3))}, {}, r"params\['w'\] has shape \(0, 3\), without entries; leave it out"),
        ({"f": jnp.tanh, "w": jnp.ones((2, 3))}, {}, r"params\['f'\]=.* is not an array or number"),
    ]:
        with pytest.raises(ValueError, match=message):
            esjax.sigma.by_fan_in(params, **{"scale": 0.1, **options})


@pytest.mark.parametrize(("num_classes", "chance"), [(3, 0.183), (10, 0.073), (100, 0.009)])
def test_with_all_confidence_in_a_wrong_class_an_example_of_standardised_logits_is_still_in_reach(
    num_classes, chance
):
    """E over the wrong class's noise of P(the label beats it) · P(the label beats another)^(K−2)."""
    sigma = esjax.sigma.for_standardised(num_classes)
    logits = np.eye(num_classes)[0]
    wrong, *_, label = (logits - logits.mean()) / logits.std()

    def density(x):  # of the label's logit, times the chance that it is the largest
        others = scipy.stats.norm.cdf((x - label) / sigma) ** (num_classes - 2)
        return (
            scipy.stats.norm.pdf((x - label) / sigma)
            / sigma
            * scipy.stats.norm.cdf((x - wrong) / sigma)
            * others
        )

    found = integrate.quad(density, label - 10 * sigma, label + 10 * sigma)[0]
    assert found == pytest.approx(chance, abs=0.0005)
    assert found > (1 / 64 if num_classes <= 10 else 1 / 128)


@pytest.mark.parametrize("value", [2, 1, 0, 3.0, True])
def test_standardised_logits_are_of_three_classes_or_more(value):
    with pytest.raises(ValueError, match=rf"num_classes={value}"):
        esjax.sigma.for_standardised(value)
