"""Baselines against their definitions written out as loops over the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import esjax

N = 12


def _pairs(num_samples, dim, noise):
    del num_samples
    return esjax.samplers.Groups(2, lambda key, dtype: noise.sample(key, (2, dim), dtype))


def _draws(key):
    pairs = [jax.random.normal(jax.random.fold_in(key, group), (2, 3)) for group in range(N // 2)]
    return np.concatenate(pairs).astype(np.float64)


def _leave_group_out(values):
    pairs = values.reshape(-1, 2)
    return np.repeat((values.sum() - pairs.sum(1)) / (N - 2), 2)


WEIGHTS = {
    "none": lambda values, at_input: values,
    "at_input": lambda values, at_input: values - at_input,
    "leave_one_out": lambda values, at_input: values - _leave_group_out(values),
    "centered_rank": lambda values, at_input: (stats.rankdata(values) - 1) / (N - 1) - 0.5,
}


def _block(x):
    return jnp.round(2 * x).sum() + 100.0


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("name", WEIGHTS)
def test_each_baseline_is_its_definition(name, outputs):
    key, x, sigma = jax.random.key(4), np.array([0.1, -0.7, 0.4]), 0.6
    smoothed = esjax.smooth(
        lambda x: _block(x) * jnp.arange(1.0, outputs + 1),
        sigma=sigma,
        num_samples=N,
        sampler=_pairs,
        baseline=getattr(esjax.baselines, name),
        credit=esjax.credit.none,
        chunk_size=4,
    )
    value, vjp = jax.vjp(
        lambda x, s: smoothed(key, x, sigma=s), jnp.asarray(x, jnp.float32), jnp.float32(sigma)
    )
    cotangent = jnp.arange(2.0, outputs + 2)
    in_x, in_sigma = vjp(cotangent)

    eps = _draws(key)
    base = np.round(2 * (x + sigma * eps)).sum(1) + 100
    weights = 0
    for output in range(outputs):
        values, at_input = (output + 1) * base, (output + 1) * (np.round(2 * x).sum() + 100)
        np.testing.assert_allclose(value[output], values.mean(), rtol=1e-6)
        weights = weights + (output + 2) * WEIGHTS[name](values, at_input)
    tolerance = 1e-4 * np.abs(weights).mean() / sigma
    np.testing.assert_allclose(in_x, (weights[:, None] * eps).mean(0) / sigma, rtol=1e-4, atol=tolerance)
    scores = (eps**2 - 1).sum(1)
    np.testing.assert_allclose(in_sigma, (weights * scores).mean() / sigma, rtol=1e-4, atol=tolerance)


def test_ranks_do_not_see_a_monotone_change_of_the_values():
    key, x = jax.random.PRNGKey(0), jnp.array([0.3, -0.2])
    options = {"sigma": 1.0, "num_samples": 16, "baseline": esjax.baselines.centered_rank}
    plain = jax.grad(esjax.smooth(lambda x: jnp.sum(x**3), **options), 1)(key, x)
    stretched = jax.grad(esjax.smooth(lambda x: jnp.exp(jnp.sum(x**3)), **options), 1)(key, x)
    np.testing.assert_allclose(plain, stretched, rtol=1e-6)


def test_ranks_of_discarded_samples_do_not_count():
    ranks = esjax.baselines.centered_rank.transform(
        jnp.array([3.0, 0.0, 1.0, 2.0]), jnp.array([1.0, 0, 1, 1])
    )
    np.testing.assert_allclose(ranks[jnp.array([0, 2, 3])], [0.5, -0.5, 0.0])


def test_a_nan_stays_a_nan_among_ranks():
    ranks = esjax.baselines.centered_rank.transform(jnp.array([3.0, jnp.nan]), jnp.ones(2))
    assert jnp.isnan(ranks[1])


@pytest.mark.parametrize("outputs", [1, 2])
def test_half_of_one_and_half_of_another_leave_nothing_of_a_constant(outputs):
    one_out = esjax.baselines.leave_one_out
    half = one_out._replace(
        coefficients=lambda *counts: tuple(each / 2 for each in one_out.coefficients(*counts)), at_input=0.5
    )

    def gradient(block, baseline):
        options = {"sigma": 1.0, "num_samples": 32, "sampler": esjax.samplers.iid, "baseline": baseline}
        smoothed = esjax.smooth(lambda x: block(x) * jnp.ones(outputs), **options)
        return jax.jit(jax.jacrev(smoothed, 1))(jax.random.PRNGKey(0), jnp.array([0.2, -0.6]))

    constant = gradient(lambda x: 1000 + 0 * x.sum(), half)
    np.testing.assert_allclose(constant, 0 * constant, atol=1e-3)
    parts = [gradient(lambda x: jnp.floor(2 * x).sum(), each) for each in (one_out, esjax.baselines.at_input)]
    mixed = gradient(lambda x: jnp.floor(2 * x).sum(), half)
    np.testing.assert_allclose(mixed, (parts[0] + parts[1]) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "kept", "ranks"),
    [
        ([1.0, 2.0, np.inf, 0.0], [1, 1, 1, 0], [-0.5, 0.0, 0.5]),
        ([-np.inf, np.inf, np.inf, 0.0], [1, 1, 1, 0], [-0.5, 0.25, 0.25]),
        ([3.0, np.inf, np.inf, np.inf], [1, 0, 0, 0], [0.0]),
    ],
)
def test_infinite_values_have_ranks_beside_discarded_ones(values, kept, ranks):
    found = esjax.baselines.centered_rank.transform(jnp.array(values), jnp.array(kept, jnp.float32))
    np.testing.assert_allclose(found[: len(ranks)], ranks)
