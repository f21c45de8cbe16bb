"""Derivative rules: known derivatives of every order, and what the block is never asked for."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import esjax


def _step(x):
    return jnp.where(x > 0, 1.0, 0.0)


def _sort_sum(x):
    return jnp.sort(x) @ jnp.arange(float(x.size))


def test_the_blocks_own_derivative_is_never_asked_for():
    @jax.custom_vjp
    def block(x):
        return jnp.floor(x).sum()

    def forbidden(*_):
        raise AssertionError("the block was differentiated")

    block.defvjp(forbidden, forbidden)
    smoothed = esjax.smooth(block, sigma=1.0, num_samples=4, sampler=esjax.samplers.iid)
    x = jnp.array([0.3, 1.2])
    gradient = jax.grad(smoothed, argnums=1)
    assert gradient(jax.random.key(0), x).shape == (2,)
    assert jax.jit(jax.jacrev(gradient, argnums=1))(jax.random.key(0), x).shape == (2, 2)


@pytest.mark.parametrize("sampler", [esjax.samplers.iid, esjax.samplers.antithetic])
@pytest.mark.parametrize("baseline", [esjax.baselines.none, esjax.baselines.leave_one_out])
def test_a_step_has_its_known_derivatives(sampler, baseline):
    x, sigma = 0.1, 0.2
    smoothed = esjax.smooth(_step, sigma=sigma, num_samples=6, sampler=sampler, baseline=baseline)

    def derivatives(function):
        """The value, first derivatives in x and σ, and the derivatives in x and σ of that in x."""

        def first(x, sigma):
            value, (in_x, in_sigma) = jax.value_and_grad(function, (0, 1))(x, sigma)
            return in_x, (value, in_x, in_sigma)

        second, value_and_first = jax.grad(first, (0, 1), has_aux=True)(x, sigma)
        return jnp.stack([*value_and_first, *second])

    def estimated(key):
        return derivatives(lambda x, sigma: smoothed(key, x, sigma=sigma))

    exact = jax.jit(lambda: derivatives(lambda x, sigma: norm.cdf(x / sigma)))()
    keys = jax.random.split(jax.random.PRNGKey(7), 20_000)
    draws = np.asarray(jax.jit(jax.vmap(estimated))(keys), np.float64)
    standard_errors = draws.std(0) / len(draws) ** 0.5
    assert (np.abs(draws.mean(0) - exact) < 4 * standard_errors).all()


@pytest.mark.parametrize("outputs", [1, 2])
def test_forward_over_reverse_is_reverse_over_reverse(outputs):
    smoothed = esjax.smooth(
        lambda x: _sort_sum(x) * jnp.ones(outputs), sigma=1.0, num_samples=8, sampler=esjax.samplers.iid
    )
    x = jnp.array([0.3, -0.2])

    def function(x):
        return smoothed(jax.random.key(0), x)

    hessian = jax.jit(jax.hessian(function))(x)
    reverse = jax.jit(jax.jacrev(jax.jacrev(function)))(x)
    np.testing.assert_allclose(hessian, reverse, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(hessian, np.swapaxes(hessian, -1, -2), rtol=1e-5, atol=1e-6)
    both = jax.value_and_grad(lambda x: function(x).sum())
    (_, gradient), (slope, _) = jax.jit(lambda x: jax.jvp(both, (x,), (jnp.ones(2),)))(x)
    np.testing.assert_allclose(slope, gradient.sum(), rtol=1e-4)


def test_second_derivatives_in_x_ask_for_no_derivative_in_args():
    def host(x, scale):
        return np.float32((np.asarray(x) > 0).sum() * np.asarray(scale))

    def block(x, scale):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.pure_callback(host, shape, x, scale, vmap_method="sequential")

    options = {"sigma": 1.0, "num_samples": 8, "sampler": esjax.samplers.iid}
    smoothed = esjax.smooth(block, **options)
    plain = esjax.smooth(
        lambda x, scale: (x > 0).sum().astype(x.dtype) * scale, credit=esjax.credit.none, **options
    )
    hessian, wanted = (
        jax.jit(jax.hessian(each, 1))(jax.random.key(0), jnp.array([0.1, 0.2]), 2.0)
        for each in (smoothed, plain)
    )
    np.testing.assert_allclose(hessian, wanted, rtol=1e-5)


def test_complex_args_have_second_derivatives():
    smoothed = esjax.smooth(
        lambda x, a: x.sum() * jnp.real(a) + jnp.imag(a) ** 2,
        sigma=1.0,
        num_samples=16,
        sampler=esjax.samplers.iid,
    )

    def function(t):
        return smoothed(jax.random.key(0), jnp.ones(2), jax.lax.complex(t, 2 * t))

    np.testing.assert_allclose(jax.jit(jax.grad(jax.grad(function)))(1.0), 8.0, rtol=1e-5)


def test_gradients_in_args_are_pathwise_and_integer_args_are_fine():
    key, x = jax.random.PRNGKey(2), jnp.array([0.5, -0.5])

    def block(x, args, index):
        return args["w"][index] * jnp.sum(x > 0).astype(x.dtype) + args["b"] ** 2

    for fun in (block, lambda *a: block(*a) * jnp.ones(2)):
        smoothed = esjax.smooth(fun, sigma=1.0, num_samples=16, sampler=esjax.samplers.iid)

        def loss(args, smoothed=smoothed):
            return smoothed(key, x, args, 1).sum()

        args = {"w": jnp.array([1.0, 2.0]), "b": jnp.float32(3.0)}
        eps = np.stack([jax.random.normal(jax.random.fold_in(key, n), (1, 2))[0] for n in range(16)])
        count = (np.asarray(x) + eps > 0).sum(1).mean()
        outputs = 1 if fun is block else 2
        gradient = jax.jit(jax.grad(loss))(args)
        np.testing.assert_allclose(gradient["w"], [0.0, outputs * count], rtol=1e-6)
        np.testing.assert_allclose(gradient["b"], outputs * 6.0, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("outputs", [1, 2])
def test_gradients_in_narrow_args_are_summed_in_float32(dtype, outputs):
    smoothed = esjax.smooth(
        lambda x, a: (0 * x + 100 * a.astype(x.dtype)) * jnp.ones(outputs),
        sigma=1.0,
        num_samples=4096,
        sampler=esjax.samplers.iid,
        chunk_size=8,
    )
    gradient = jax.grad(lambda a: smoothed(jax.random.key(0), 0.0, a)[0])(jnp.ones((), dtype))
    assert gradient.dtype == dtype and float(gradient) == 100


# --- one object, several patterns --------------------------------------------------------------------


def test_one_object_is_differentiated_in_other_inputs_at_each_call_of_one_program():
    smoothed = esjax.smooth(lambda x, w: x * w, sigma=0.1, num_samples=512)
    first, second = jax.random.split(jax.random.key(0))
    constant, (x, w) = jax.lax.stop_gradient, (jnp.array([1.0, 2.0]), jnp.array([3.0, -4.0]))

    def both(x, w):
        return (smoothed(first, x, constant(w)) + smoothed(second, constant(x), w)).sum()

    in_x, in_w = jax.jit(jax.grad(both, (0, 1)))(x, w)
    np.testing.assert_allclose(in_x, w, atol=0.5)  # about 4 standard errors of 0.13
    np.testing.assert_allclose(in_w, x, atol=0.05)
    keys = jax.random.split(jax.random.PRNGKey(1), 3)

    def recurrent(smoothed, x, w):
        return jax.lax.scan(lambda x, key: (smoothed(key, x, w), None), x, keys)[0].sum()

    fresh = esjax.smooth(lambda x, w: x * w, sigma=0.1, num_samples=512)
    wanted = jax.jit(jax.grad(partial(recurrent, fresh), (0, 1)))(x, w)
    found = jax.jit(lambda *at: [jax.grad(partial(recurrent, smoothed), n)(*at) for n in (1, 0)])(x, w)
    np.testing.assert_allclose(found, wanted[::-1], rtol=1e-5)


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_vjp_that_is_kept_is_not_that_of_a_later_call(outputs):
    smoothed = esjax.smooth(
        lambda x, w: w * _step(x) * jnp.ones(outputs),
        sigma=0.5,
        num_samples=64,
        sampler=esjax.samplers.iid,
    )
    key, at = jax.random.PRNGKey(0), (jnp.float32(0.3), jnp.float32(2.0), jnp.float32(0.5))

    def of(numbers):
        def function(*moved):
            x, w, sigma = (dict(zip(numbers, moved, strict=True)).get(n, at[n]) for n in range(3))
            return smoothed(key, x, w, sigma=sigma).sum()

        return jax.vjp(function, *(at[n] for n in numbers))[1]

    patterns = (0,), (2,), (1,), (0, 2), (1, 2)

    @jax.jit
    def of_all():
        kept = [of(numbers) for numbers in ((0, 1, 2), *patterns)]
        return [pull(1.0) for pull in kept]

    wanted, *found = of_all()
    for numbers, slopes in zip(patterns, found, strict=True):
        np.testing.assert_allclose(slopes, [wanted[n] for n in numbers], rtol=1e-5)


# --- coordinates that are infinite -------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [1, 2])
def test_infinite_coordinates_have_no_part_in_derivatives_and_spoil_none(outputs):
    """A masked logit: what the other two give, by the same draws."""
    masked, plain = jnp.array([0.3, -jnp.inf, -0.2]), jnp.array([0.3, -0.2])

    def sampler(num_samples, dim, noise):  # the second of three coordinates is drawn, and is not seen
        def draw(key, dtype):
            eps = noise.sample(key, (1, 3), dtype)
            return eps if dim == 3 else eps[:, ::2]

        return esjax.samplers.Groups(1, draw)

    smoothed = esjax.smooth(
        lambda x: (jnp.max(x) > 0.4).astype(x.dtype) * jnp.ones(outputs),
        sigma=1.0,
        num_samples=32,
        sampler=sampler,
    )

    def function(sigma, x):
        return smoothed(jax.random.PRNGKey(0), x, sigma=sigma).sum()

    def first(sigma, x):
        gradients = jax.grad(function, (0, 1))(sigma, x)
        return gradients, gradients

    both = jax.jit(jax.jacfwd(first, (0, 1), has_aux=True))
    ((ss, sx), (xs, xx)), (in_sigma, in_x) = both(1.0, masked)
    ((plain_ss, plain_sx), (_, plain_xx)), (plain_sigma, plain_x) = both(1.0, plain)
    for found, wanted in ((in_sigma, plain_sigma), (ss, plain_ss)):
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    for found, wanted in ((in_x, plain_x), (sx, plain_sx), (xs, plain_sx)):
        np.testing.assert_allclose(found, np.insert(wanted, 1, 0), rtol=1e-4, atol=1e-6)
    expected = np.insert(np.insert(plain_xx, 1, 0, axis=0), 1, 0, axis=1)
    np.testing.assert_allclose(xx, expected, rtol=1e-4, atol=1e-6)
