"""What `optax.perturbations` promises holds here too, and what it gets wrong does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from optax import perturbations

import esjax

TREE = {"a": np.array([0.2, -0.4], np.float32), "b": (np.array([[0.1], [0.5]], np.float32),)}


def _vector(tree):
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _quadratic(tree):
    """A tree of two arrays, of degree two, so that smoothing leaves its derivatives as they are."""
    v = _vector(tree)
    return {
        "form": v @ (jnp.arange(16.0).reshape(4, 4) / 8) @ v,
        "map": 2 * tree["b"][0] - tree["a"][:, None],
    }


def _mean_and_error(function, num_keys):
    keys = jax.random.split(jax.random.PRNGKey(9), num_keys)
    draws = jax.jit(jax.vmap(function))(keys)
    mean = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64).mean(0), draws)
    error = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64).std(0) / num_keys**0.5, draws)
    return mean, error


def _assert_within_errors(estimate, truth):
    mean, error = estimate
    for m, e, t in zip(*map(jax.tree.leaves, (mean, error, truth)), strict=True):
        assert m.shape == np.shape(t)
        assert np.all(np.abs(m - np.asarray(t)) <= 4 * e + 1e-6)


@pytest.mark.parametrize("derivative", ["jacobian", "hessian"])
def test_jacobians_and_hessians_on_trees_are_those_of_the_smoothed_block(derivative):
    smoothed = esjax.smooth(_quadratic, num_samples=64, sigma=0.5, noise=esjax.noise.normal)
    transform = getattr(jax, derivative)
    truth = jax.jit(transform(_quadratic))(TREE)
    _assert_within_errors(_mean_and_error(lambda key: transform(smoothed, 1)(key, TREE), 2000), truth)


def test_values_on_trees_add_the_trace_of_the_quadratic_form():
    smoothed = esjax.smooth(_quadratic, num_samples=64, sigma=0.5)
    truth = _quadratic(TREE)
    truth["form"] += 0.25 * (0 + 5 + 10 + 15) / 8
    _assert_within_errors(_mean_and_error(lambda key: smoothed(key, TREE), 2000), truth)


def test_perturbed_argmax_with_gumbel_noise_is_softmax():
    logits = jnp.array([0.3, -0.5, 1.2])
    smoothed = esjax.smooth(
        lambda x: jax.nn.one_hot(jnp.argmax(x), 3), num_samples=64, sigma=0.7, noise=esjax.noise.gumbel
    )

    def both(key):
        return smoothed(key, logits), jax.jacrev(smoothed, 1)(key, logits)

    def softmax(x):
        return jax.nn.softmax(x / 0.7)

    _assert_within_errors(
        _mean_and_error(both, 4000), (softmax(logits), jax.jit(jax.jacrev(softmax))(logits))
    )


@pytest.mark.parametrize("shape", [(), (1,), (3, 1, 2)])
def test_any_shape_agrees_with_optax(shape):
    x = jnp.full(shape, 0.3)

    def block(x):
        return jnp.where(x > 0, 1.0, 0.0)

    ours = esjax.smooth(block, num_samples=256, sigma=0.5)
    theirs = perturbations.make_perturbed_fun(block, 256, 0.5, perturbations.Normal())
    (our_mean, our_error), (their_mean, their_error) = (
        _mean_and_error(lambda key, f=f: (f(key, x), jax.jacrev(f, 1)(jax.random.clone(key), x)), 1000)
        for f in (ours, theirs)
    )
    for a, ea, b, eb in zip(
        *map(jax.tree.leaves, (our_mean, our_error, their_mean, their_error)), strict=True
    ):
        assert a.shape == b.shape
        assert np.all(np.abs(a - b) <= 4 * np.sqrt(ea**2 + eb**2) + 1e-6)


def test_the_gradient_in_sigma_has_the_normaliser_that_optax_leaves_out():
    """A step at x = σ = 0.1: −φ(1)/0.1 = −2.42, and optax's estimate is about −4.01."""

    def step(x):
        return jnp.where(x > 0, 1.0, 0.0)

    smoothed = esjax.smooth(step, num_samples=256, sigma=1.0)
    estimate = _mean_and_error(lambda key: jax.grad(lambda s: smoothed(key, 0.1, sigma=s))(0.1), 4000)
    _assert_within_errors(estimate, -norm.pdf(1.0) / 0.1)
