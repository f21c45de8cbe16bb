"""Samples that are left out: of the value, of gradients, and of derivatives of the second order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import esjax


def _faulty(x, fault):
    """A quadratic, NaN where the second, independent coordinate says so."""
    return jnp.where(fault > 0, jnp.nan, jnp.floor(x[0]) ** 2)


@pytest.mark.parametrize("num_outputs", [1, 2])
def test_a_nan_stays_visible_unless_it_is_discarded(num_outputs):
    def block(x):
        return _faulty(x, x[1]) * jnp.ones(num_outputs)

    key, x = jax.random.key(0), jnp.array([0.4, 0.0])
    smoothed = esjax.smooth(block, sigma=1.0, num_samples=16, sampler=esjax.samplers.iid)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: smoothed(key, x).sum()))(x)
    assert np.isnan(value) and np.isnan(gradient).all()


def test_discarded_samples_are_left_out_of_every_sum():
    """Against a NumPy loop over the samples that are kept."""
    key, x, scale, num_samples = jax.random.key(0), jnp.array([0.4, 0.0]), jnp.float32(1.5), 16
    smoothed = esjax.smooth(
        lambda x, scale: scale * _faulty(x, x[1]),
        sigma=1.0,
        num_samples=num_samples,
        sampler=esjax.samplers.iid,
        discard=jnp.isnan,
    )
    with_info = jax.jit(jax.value_and_grad(smoothed.with_info, (1, 2), has_aux=True))
    (value, info), gradients = with_info(key, x, scale)
    eps = np.stack([jax.random.normal(jax.random.fold_in(key, n), (1, 2))[0] for n in range(num_samples)])
    kept = np.asarray(x)[1] + eps[:, 1] <= 0
    eps = eps[kept]
    values = 1.5 * np.floor(np.asarray(x)[0] + eps[:, 0]) ** 2
    others = (values.sum() - values) / (len(values) - 1)
    assert int(info.num_discarded) == num_samples - kept.sum() and 0 < kept.sum() < num_samples
    np.testing.assert_allclose(value, values.mean(), rtol=1e-5)
    np.testing.assert_allclose(gradients[0], ((values - others)[:, None] * eps).mean(0), rtol=1e-4)
    np.testing.assert_allclose(gradients[1], values.mean() / 1.5, rtol=1e-5)


def test_independent_faults_leave_value_and_gradient_unbiased():
    def block(x, faults):
        return jnp.where(faults, jnp.nan, jnp.where(x > 0, 1.0, 0.0))

    def sampler(num_samples, dim, noise):
        del num_samples
        return esjax.samplers.Groups(4, lambda key, dtype: noise.sample(key, (4, dim), dtype))

    smoothed = esjax.smooth(
        lambda x: block(x[0], x[1] > 0.3), sigma=1.0, num_samples=16, sampler=sampler, discard=jnp.isnan
    )
    x = jnp.array([0.2, 0.0])
    keys = jax.random.split(jax.random.key(5), 20_000)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(smoothed, 1), (0, None)))(keys, x)
    for draws, exact in ((values, norm.cdf(0.2)), (gradients[:, 0], norm.pdf(0.2))):
        draws = np.asarray(draws, np.float64)
        assert abs(draws.mean() - exact) < 4 * draws.std() / len(draws) ** 0.5


def test_where_all_samples_are_discarded_the_result_is_nan():
    smoothed = esjax.smooth(
        lambda x: x * jnp.nan, sigma=1.0, num_samples=4, sampler=esjax.samplers.iid, discard=jnp.isnan
    )
    with_info = jax.jit(jax.value_and_grad(smoothed.with_info, 1, has_aux=True))
    (value, info), gradient = with_info(jax.random.key(0), 1.0)
    assert np.isnan(value) and np.isnan(gradient) and int(info.num_discarded) == 4


def test_second_derivatives_of_discarded_samples_are_those_of_the_rest():
    """x[1] only decides which samples are faulty, with σ so small that each is what it is at x."""

    def block(x, scale):
        return jnp.where(x[1] > 0, jnp.nan, jnp.where(x[0] > 0, 1.0, 0.0)) * scale

    def sound(x, scale):
        return jnp.where(x[0] > 0, 1.0, 0.0) * scale

    options = {"sigma": jnp.array([1.0, 1e-9]), "num_samples": 32, "sampler": esjax.samplers.iid}
    x, key = jnp.array([0.3, -1.0]), jax.random.PRNGKey(0)
    with_faults = esjax.smooth(block, discard=jnp.isnan, **options)
    without = esjax.smooth(sound, discard=jnp.isnan, **options)

    def derivatives(smoothed):
        def function(u, scale):
            return smoothed(key, jnp.array([u, x[1]]), scale)

        return jax.jit(jax.hessian(function, (0, 1)))(x[0], 2.0)

    for a, b in zip(*map(jax.tree.leaves, map(derivatives, (with_faults, without))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_second_derivatives_where_some_samples_are_faulty_are_sums_over_the_rest():
    """Against a NumPy loop over the samples that are kept."""
    key, scale, num_samples = jax.random.key(0), 2.0, 32
    smoothed = esjax.smooth(
        lambda x, scale: _faulty(x, x[1]) * scale,
        sigma=1.0,
        num_samples=num_samples,
        sampler=esjax.samplers.iid,
        baseline=esjax.baselines.none,
        discard=jnp.isnan,
    )
    hessian = jax.jit(jax.hessian(lambda x, scale: smoothed(key, x, scale), (0, 1)))
    (in_x, mixed), (mixed_too, in_scale) = hessian(jnp.zeros(2), scale)
    eps = np.stack([jax.random.normal(jax.random.fold_in(key, n), (1, 2))[0] for n in range(num_samples)])
    eps = eps[eps[:, 1] <= 0]
    values = np.floor(eps[:, 0]) ** 2
    squares = eps[:, :, None] * eps[:, None, :] - np.eye(2)
    assert 0 < len(eps) < num_samples
    np.testing.assert_allclose(in_x, scale * (values[:, None, None] * squares).mean(0), rtol=1e-4)
    for found in (mixed, mixed_too):
        np.testing.assert_allclose(found, (values[:, None] * eps).mean(0), rtol=1e-4)
    np.testing.assert_allclose(in_scale, 0, atol=1e-6)


def test_one_sound_group_still_has_a_gradient():
    """With nothing to compare with, b_n = 0."""
    key, num_samples = jax.random.key(0), 4
    eps = np.stack([jax.random.normal(jax.random.fold_in(key, n), (1, 1))[0, 0] for n in range(num_samples)])
    *_, second, first = np.sort(eps)
    smoothed = esjax.smooth(
        lambda x, limit: jnp.where(x > limit, 3.0, jnp.nan),
        sigma=1.0,
        num_samples=num_samples,
        sampler=esjax.samplers.iid,
        discard=jnp.isnan,
    )
    value, gradient = jax.jit(jax.value_and_grad(smoothed, 1))(key, 0.0, (first + second) / 2)
    np.testing.assert_allclose([value, gradient], [3, 3 * first], rtol=1e-6)


def test_gradients_in_args_of_many_rbg_keys_are_finite_and_right():
    """Under `jax.vmap`, JAX draws other numbers for the same key of this kind if it is folded with others."""
    smoothed = esjax.smooth(
        lambda z, a: jnp.sqrt(a * z),
        sigma=1.0,
        num_samples=16,
        sampler=esjax.samplers.iid,
        discard=jnp.isnan,
        chunk_size=4,
    )
    keys = jax.random.split(jax.random.key(0, impl="rbg"), 400)
    slopes = jax.jit(jax.vmap(jax.grad(smoothed, argnums=2), (0, None, None)))(keys, 0.1, 2.0)
    z = np.linspace(0, 12, 200_001)[1:]
    density = norm.pdf(z - 0.1) / norm.pdf(z - 0.1).sum()
    exact = (density * np.sqrt(z)).sum() / (2 * 2**0.5)
    assert abs(slopes.mean() - exact) < 4 * slopes.std() / len(keys) ** 0.5


@pytest.mark.parametrize("outputs", [1, 2])
def test_where_all_samples_are_discarded_derivatives_of_all_orders_are_nan(outputs):
    smoothed = esjax.smooth(
        lambda x, a: a**3 * jnp.where(x > 0, 1.0, 0.5) * jnp.ones(outputs),
        sigma=0.5,
        num_samples=8,
        sampler=esjax.samplers.iid,
        discard=lambda values: values > -1,
    )

    def function(x, a):
        return smoothed(jax.random.PRNGKey(0), x, a).sum()

    slope = jax.grad(function, 1)
    second, third = jax.hessian(function, (0, 1)), jax.hessian(slope, (0, 1))
    for derivatives in (second, third, jax.jacrev(jax.jacrev(slope, (0, 1)), (0, 1))):
        assert np.isnan(jax.jit(derivatives)(0.1, 2.0)).all()
