"""Control variates: the same mean, less variance."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

import esjax


def _step(x):
    return jnp.where(x > 0, 1.0, 0.0)


def test_a_control_variate_keeps_the_mean_and_takes_variance_away():
    """f = a rounded quadratic, c = the quadratic, whose smoothed value is x² + σ²."""
    control = (lambda x: x @ x, lambda x, sigma: x @ x + x.size * sigma**2)

    def block(x):
        return jnp.round(4 * (x @ x)) / 4

    x = jnp.array([0.7, -0.3])
    keys = jax.random.split(jax.random.PRNGKey(1), 20_000)

    def draws(**options):
        smoothed = esjax.smooth(block, sigma=0.5, num_samples=16, **options)
        both = jax.jit(jax.vmap(jax.value_and_grad(smoothed, 1), (0, None)))(keys, x)
        return [np.asarray(leaf, np.float64) for leaf in both]

    plain, controlled = draws(), draws(control=control)
    for p, c in zip(plain, controlled, strict=True):
        error = (p.var(0) + c.var(0)) ** 0.5 / len(p) ** 0.5
        assert np.all(np.abs(p.mean(0) - c.mean(0)) < 4 * error)
        assert np.all(c.var(0) < p.var(0) / 4)


def test_a_control_variate_that_does_not_vary_changes_nothing_but_the_draws():
    """They are those of two halves of the samples, each with a key of its own."""
    key, x = jax.random.key(0), jnp.array([0.1, -0.2])
    control = (lambda x: jnp.float32(7), lambda x, sigma: jnp.float32(7))

    def estimate(key, num_samples, **options):
        smoothed = esjax.smooth(lambda x: _step(x).sum(), sigma=0.5, num_samples=num_samples, **options)
        value, gradient = jax.value_and_grad(smoothed, 1)(key, x)
        return np.append(gradient, value)

    first, second = (estimate(half, 8) for half in jax.random.split(jax.random.clone(key)))
    np.testing.assert_allclose(estimate(key, 16, control=control), (first + second) / 2, rtol=1e-5)
    assert np.abs(first - second).min() > 0.01


def test_a_large_offset_does_not_spoil_a_control_variate():
    def block(x):
        return x.sum() + 1e4

    smoothed = esjax.smooth(block, sigma=1.0, num_samples=16, control=(block, lambda x, sigma: block(x)))
    gradients = jax.vmap(jax.grad(smoothed, 1), (0, None))(
        jax.random.split(jax.random.key(0), 50), jnp.ones(2)
    )
    np.testing.assert_allclose(gradients, 1, atol=2e-3)


def test_the_scale_is_fitted_on_other_samples_than_it_scales():
    """With eight samples in each half, a scale fitted on its own samples would be far off the mean."""

    def block(x):
        return jnp.where(x > 0.5, x, 0.0)

    def exact(x):
        return x * norm.cdf(x - 0.5) + norm.pdf(x - 0.5)

    smoothed = esjax.smooth(
        block,
        sigma=1.0,
        num_samples=16,
        sampler=esjax.samplers.iid,
        control=(lambda x: x**2, lambda x, sigma: x**2 + sigma**2),
    )
    keys = jax.random.split(jax.random.key(3), 50_000)
    both = jax.jit(jax.vmap(jax.value_and_grad(smoothed, 1), (0, None)))(keys, 0.2)
    for draws, truth in zip(both, (exact(0.2), jax.grad(exact)(0.2)), strict=True):
        draws = np.asarray(draws, np.float64)
        assert abs(draws.mean() - truth) < 4 * draws.std() / len(draws) ** 0.5
