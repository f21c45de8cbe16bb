"""The noise distributions against SciPy's, quadrature and finite differences."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import esjax
from esjax import noise
from esjax._core import random
from esjax.benchmarks import references

ORACLES = references.LAWS
MEANS_AND_VARIANCES = {
    "normal": (0, 1),
    "logistic": (0, np.pi**2 / 3),
    "laplace": (0, 2),
    "gumbel": (0, np.pi**2 / 6),
    "triangular": (0, 1 / 6),
}
SCORE_VARIANCES = {"normal": 1, "logistic": 1 / 3, "laplace": 1, "gumbel": 1, "cauchy": 1 / 2}

every_noise = pytest.mark.parametrize("name", ORACLES)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@pytest.fixture(autouse=True)
def _strict():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@every_noise
@every_dtype
def test_samples_follow_the_distribution(name, dtype):
    size = 40_000
    eps = np.asarray(getattr(noise, name).sample(jax.random.key(3), (size // 4, 4), dtype))
    assert eps.dtype == dtype
    distance = stats.kstest(eps.ravel().astype(np.float64), ORACLES[name].cdf).statistic
    assert distance * size**0.5 < 1.95  # exceeded once in a thousand
    if name in MEANS_AND_VARIANCES:
        mean, variance = MEANS_AND_VARIANCES[name]
        for values, expected in [(eps, mean), ((eps - mean) ** 2, variance)]:
            assert abs(values.mean() - expected) < 4 * values.std() / size**0.5


@every_noise
@every_dtype
def test_icdf_is_accurate_in_both_tails(name, dtype):
    tiny = [1e-30, 1e-12, 1e-8] if dtype == np.float32 else [1e-300, 1e-100, 1e-30, 1e-12]
    spacings = np.finfo(dtype).epsneg * np.array([1, 2, 5, 100, 10_000])
    u = np.concatenate([tiny, spacings, np.linspace(0.01, 0.99, 50), 1 - spacings]).astype(dtype)
    expected = ORACLES[name].ppf(u.astype(np.float64))
    rtol = {"normal": 5e-6}.get(name, 1e-6) if dtype == np.float32 else 2e-12
    atol = 4 * np.finfo(dtype).eps  # around the median, where ε passes through 0
    actual = jax.jit(getattr(noise, name).icdf)(u)
    assert actual.dtype == dtype
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


@every_noise
def test_symmetric_means_that_the_tails_mirror_each_other(name):
    chosen = getattr(noise, name)
    u = np.array([1, 5, 100, 300]) / 1024
    gap = np.abs(chosen.icdf(u) + chosen.icdf(1 - u))
    assert (gap < 1e-12).all() if chosen.symmetric else (gap > 0.1).any()


@every_noise
@every_dtype
def test_extreme_draws_are_finite_and_so_are_their_scores(name, dtype, monkeypatch):
    least_and_most = np.array([0, 1 - np.finfo(dtype).eps], dtype)  # that JAX can return
    extremes = np.tile(least_and_most, 128)  # so many that normal noise in float32 is not JAX's own
    monkeypatch.setattr(random, "uniform", lambda key, shape, dtype: jnp.asarray(extremes))
    monkeypatch.setattr(random, "_by_device", lambda of_jax, of_cpu, shape, words: of_cpu(shape, words))
    monkeypatch.setattr(random, "_uniform_of_cpu", lambda shape, words: jnp.asarray(extremes))
    chosen = getattr(noise, name)
    eps = chosen.sample(jax.random.key(0), extremes.shape, dtype)
    assert np.isfinite(eps).all()
    assert np.isfinite(chosen.score(eps)).all()
    if name != "normal":
        np.testing.assert_array_equal(eps, chosen.icdf(extremes + np.finfo(dtype).eps / 2))
    elif dtype == np.float32:
        assert np.abs(eps).min() > 5


@every_noise
def test_score_is_the_slope_of_minus_the_log_density(name):
    eps = np.linspace(-0.97, 0.97, 40) if name == "triangular" else np.linspace(-6, 6, 40)
    step = 1e-5
    slope = (ORACLES[name].logpdf(eps + step) - ORACLES[name].logpdf(eps - step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(getattr(noise, name).score)(eps), -slope, rtol=1e-6, atol=1e-8)


def _nodes(chosen, size):
    """Returns ε and s(ε) at the midpoints of `size` intervals of equal probability."""
    eps = jax.jit(chosen.icdf)((np.arange(size) + 0.5) / size)
    return np.asarray(eps), np.asarray(jax.jit(chosen.score)(eps))


@every_noise
def test_score_has_mean_0_and_mean_1_with_eps_and_its_documented_variance(name):
    chosen = getattr(noise, name)
    eps, score = _nodes(chosen, 2**20)
    assert abs(score.mean()) < 1e-4
    assert abs((score * eps).mean() - 1) < 1e-3
    if name in SCORE_VARIANCES:
        assert abs((score**2).mean() - SCORE_VARIANCES[name]) < 1e-4
    else:
        _, coarse = _nodes(chosen, 2**10)
        assert (score**2).mean() > (coarse**2).mean() + 2  # grows for ever, with the logarithm of the nodes


def test_gumbel_noise_makes_an_argmax_a_softmax():
    logits, size = jnp.array([0.5, -1.0, 0.2]), 40_000
    eps = noise.gumbel.sample(jax.random.key(5), (size, 3), np.float64)
    frequencies = np.bincount(jnp.argmax(logits[None] + 0.7 * eps, axis=1), minlength=3) / size
    probabilities = np.asarray(jax.nn.softmax(logits / 0.7))
    errors = frequencies - probabilities
    assert (np.abs(errors) < 4 * np.sqrt(probabilities * (1 - probabilities) / size)).all()


@every_noise
def test_a_noise_that_was_pickled_is_the_same(name):
    chosen = getattr(noise, name)
    again = pickle.loads(pickle.dumps(chosen))
    assert again == chosen == copy.deepcopy(chosen)
    own = chosen._replace(symmetric=None)
    assert copy.copy(own) == own != chosen


def test_a_noise_that_was_pickled_has_its_closed_form():
    again = pickle.loads(pickle.dumps(noise.gumbel))
    probs = esjax.exact.argmax_probs(jnp.array([1.0, 0.0]), 1.0, noise=again)
    np.testing.assert_allclose(probs, jax.nn.softmax(jnp.array([1.0, 0.0])), rtol=1e-6)
