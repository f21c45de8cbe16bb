"""Derivatives of higher orders: through rules of others, in chunks, and where JAX would lose ours."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import esjax


def _step(x):
    return jnp.where(x > 0, 1.0, 0.0)


# --- orders -----------------------------------------------------------------------------------------


def _derivative(function, order):
    for _ in range(order):
        function = jax.grad(function)
    return function


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_a_product_of_two_smoothed_steps_has_its_known_third_derivative(chunk_size):
    """Whose terms are of all lower orders, each of which must keep its rule in the loop over chunks."""
    smoothed = esjax.smooth(
        _step, sigma=1.0, num_samples=4, sampler=esjax.samplers.iid, chunk_size=chunk_size
    )

    def product(x, keys):
        return smoothed(keys[0], x) * smoothed(keys[1], x)

    x, keys = 0.3, jax.random.split(jax.random.PRNGKey(3), (40_000, 2))
    draws = jax.jit(jax.vmap(lambda keys: _derivative(partial(product, keys=keys), 3)(x)))(keys)
    draws = np.asarray(draws, np.float64)
    exact = 2 * (x**2 - 1) * norm.pdf(x) * norm.cdf(x) - 6 * x * norm.pdf(x) ** 2  # of Φ(x)²
    assert abs(draws.mean() - exact) < 4 * draws.std() / len(draws) ** 0.5


@pytest.mark.parametrize("outputs", [1, 2])
def test_chunks_do_not_change_derivatives_of_higher_orders(outputs):
    """Of a loss that is not linear in the smoothed value."""

    def loss(x, chunk_size):
        smoothed = esjax.smooth(
            lambda x: _step(x - 0.3) * jnp.arange(1.0, outputs + 1),
            sigma=0.5,
            num_samples=64,
            sampler=esjax.samplers.iid,
            chunk_size=chunk_size,
        )
        return (smoothed(jax.random.PRNGKey(0), x) ** 2).sum()

    def second_and_third(chunk_size):
        return jax.jit(jax.value_and_grad(_derivative(partial(loss, chunk_size=chunk_size), 2)))(0.1)

    np.testing.assert_allclose(second_and_third(24), second_and_third(64), rtol=1e-4)


# --- second derivatives through rules of others -----------------------------------------------------


@jax.custom_vjp
def _square(w):
    return w * w


_square.defvjp(lambda w: (w * w, w), lambda w, cotangent: (2 * w * cotangent,))


@jax.custom_vjp
def _clipped(w):
    return w * w


_clipped.defvjp(lambda w: (w * w, w), lambda w, cotangent: (2 * w * jnp.clip(cotangent, -9, 9),))


def _doubled_on_the_host(cotangent, w):
    return jax.pure_callback(
        lambda c, w: 2 * np.asarray(w) * np.asarray(c), w, cotangent, w, vmap_method="expand_dims"
    )


@jax.custom_vjp
def _hosted(w):
    return w * w


_hosted.defvjp(lambda w: (w * w, w), lambda w, cotangent: (_doubled_on_the_host(cotangent, w),))


def test_a_rule_that_calls_the_host_is_asked_for_first_derivatives_only():
    """In derivatives of a gradient in x, whose tangent in w is of the first order."""

    def slope(square, w):
        smoothed = esjax.smooth(lambda x, w: square(w) * _step(x.sum()), sigma=0.5, num_samples=8)
        return (jax.grad(smoothed, 1)(jax.random.PRNGKey(0), jnp.array([0.1, -0.2]), w) ** 2).sum()

    found, wanted = (jax.jit(jax.grad(partial(slope, square)))(0.9) for square in (_hosted, jnp.square))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("square", [_square, _clipped])
@pytest.mark.parametrize("outputs", [1, 2])
def test_hessians_in_args_go_through_somebodys_custom_vjp(square, outputs):
    weights, w = jnp.array([1.0, 2.0]), jnp.array([0.5, -1.0])

    def block(x, w):
        return (0 * x + square(w) @ weights) * jnp.arange(1.0, outputs + 1)

    smoothed = esjax.smooth(block, sigma=1.0, num_samples=8, sampler=esjax.samplers.iid)

    def function(w):
        return smoothed(jax.random.PRNGKey(0), 0.0, w).sum()

    scale = outputs * (outputs + 1) / 2
    slopes, hessian = jax.jit(jax.jacfwd(jax.value_and_grad(function)))(w)
    np.testing.assert_allclose(slopes, scale * 2 * w * weights, rtol=1e-5)
    np.testing.assert_allclose(hessian, scale * np.diag([2, 4]), rtol=1e-5, atol=1e-4)


def test_a_smoothed_function_in_a_block_has_second_derivatives_in_all_arguments():
    """F(x, w) = w² (x² + 2 σ²), of a quadratic that is smoothed twice."""
    inner = esjax.smooth(lambda x, w: (w * x) ** 2, sigma=0.5, num_samples=4)

    def block(x, w, key):
        return inner(key, x, w)

    outer = esjax.smooth(block, sigma=0.5, num_samples=8)

    def hessian(keys):
        found = jax.hessian(lambda x, w: outer(keys[0], x, w, keys[1]), (0, 1))(0.7, 1.5)
        return jnp.array(found)

    keys = jax.random.split(jax.random.PRNGKey(0), (2000, 2))
    draws = np.asarray(jax.jit(jax.vmap(hessian))(keys), np.float64)
    x, w, variance = 0.7, 1.5, 0.25
    exact = np.array([[2 * w**2, 4 * w * x], [4 * w * x, 2 * (x**2 + 2 * variance)]])
    assert (np.abs(draws.mean(0) - exact) < 4 * draws.std(0) / len(draws) ** 0.5).all()


# --- in loops ---------------------------------------------------------------------------------------


def _decided(key, x):
    smoothed = esjax.smooth_decisions(
        lambda decisions: decisions.sum().astype(jnp.float32),
        decision=esjax.decisions.threshold,
        sigma=1.0,
        num_samples=2,
        estimator=esjax.decisions.local_expectation,
    )
    return smoothed(key, x)


FUNCTIONS = {
    "smooth": esjax.smooth(
        lambda x: jnp.floor(x).sum(), sigma=0.6, num_samples=8, sampler=esjax.samplers.iid
    ),
    "smooth_decisions": _decided,
    "accuracy": lambda key, x: esjax.exact.accuracy(x, jnp.int32(1), 0.7),
    "top_k_accuracy": lambda key, x: esjax.exact.top_k_accuracy(x, jnp.int32(1), k=1, sigma=0.7),
    "argmax_probs": lambda key, x: esjax.exact.argmax_probs(x, 0.7) @ jnp.array([1.0, 3.0]),
}
KEYS = jax.random.split(jax.random.PRNGKey(1), 2)
POINT = jnp.array([0.3, -0.5])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivatives_through_scan_are_those_of_a_python_loop(name):
    """JAX forgets a `jax.custom_jvp` in the body of a scan that it linearises."""
    function, weights = FUNCTIONS[name], jnp.array([0.1, -0.2])

    def scanned(x):
        return jax.lax.scan(lambda x, key: (x + function(key, x) * weights, None), x, KEYS)[0].sum()

    def looped(x):
        for key in KEYS:
            x = x + function(key, x) * weights
        return x.sum()

    _assert_hessians(scanned, jax.jit(jax.jacfwd(jax.grad(looped)))(POINT))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivatives_of_gradients_in_map_are_those_of_a_python_loop(name):
    def squared(key, x):
        return (jax.grad(FUNCTIONS[name], 1)(key, x) ** 2).sum()

    hessian = jax.jit(jax.jacfwd(jax.grad(squared, 1), 1))
    _assert_hessians(
        lambda x: jax.lax.map(lambda key: squared(key, x), KEYS).sum(),
        sum(np.asarray(hessian(key, POINT)) for key in KEYS),
    )


def _assert_hessians(function, wanted):
    for hessian in (jax.jacfwd(jax.grad(function)), jax.jacrev(jax.grad(function))):
        np.testing.assert_allclose(jax.jit(hessian)(POINT), wanted, rtol=1e-4, atol=1e-5)
    assert np.abs(wanted).max() > 1e-2


def test_noise_without_second_derivatives_is_refused_in_chunks_too():
    smoothed = esjax.smooth(
        lambda x: jnp.floor(x).sum(), sigma=0.6, num_samples=8, noise=esjax.noise.laplace, chunk_size=2
    )
    with pytest.raises(ValueError, match="noise=laplace has first derivatives only"):
        jax.jit(jax.hessian(smoothed, 1))(KEYS[0], POINT)


@pytest.mark.parametrize("axis", [0, 1])
def test_rules_are_kept_under_vmap_over_any_axis(axis):
    """Second derivatives, where some inputs are mapped over and some are not."""
    hessian = jax.hessian(FUNCTIONS["smooth"], 1)
    xs = jnp.moveaxis(jnp.array([[0.3, -0.5], [0.1, 0.2], [0.7, 0.4]]), 0, axis)
    mapped, one = jax.jit(jax.vmap(hessian, (None, axis))), jax.jit(hessian)
    alone = [one(KEYS[0], x) for x in np.moveaxis(np.asarray(xs), axis, 0)]
    np.testing.assert_allclose(mapped(KEYS[0], xs), alone, rtol=1e-4, atol=1e-5)
