"""`smooth` against the algorithm written out as a loop, closed forms, and wrong arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import esjax


def _step(x):
    return jnp.where(x > 0, 1.0, 0.0)


def test_plain_estimator_equals_the_numpy_loop_over_the_same_draws():
    key, num_samples, t, label = jax.random.key(1), 50, 0.25, 2
    logits = np.array([0.3, -0.2, 0.1, 0.4], np.float32)
    smoothed = esjax.smooth(
        esjax.blocks.accuracy, sigma=t**0.5, num_samples=num_samples, baseline=esjax.baselines.none
    )
    gradient = jax.grad(smoothed, argnums=1)(key, jnp.asarray(logits), label)
    total = np.zeros(4)
    for n in range(num_samples):
        eps = np.asarray(jax.random.normal(jax.random.fold_in(key, n), (1, 4))[0], np.float64)
        q = t**0.5 * eps
        total += (np.argmax(logits + q) == label) * q
    np.testing.assert_allclose(gradient, total / (t * num_samples), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("sampler", [esjax.samplers.iid, esjax.samplers.antithetic])
@pytest.mark.parametrize("baseline", [esjax.baselines.none, esjax.baselines.leave_one_out])
def test_a_step_has_its_known_derivatives(sampler, baseline):
    x, sigma = 0.1, 0.2
    smoothed = esjax.smooth(_step, sigma=sigma, num_samples=6, sampler=sampler, baseline=baseline)

    def f(key, x, sigma):
        return smoothed(key, x, sigma=sigma)

    def exact(x, sigma):
        return norm.cdf(x / sigma)

    cases = [
        (f, exact),
        (jax.grad(f, 1), jax.grad(exact)),
        (jax.grad(f, 2), jax.grad(exact, 1)),
        (jax.grad(jax.grad(f, 1), 1), jax.grad(jax.grad(exact))),
        (jax.grad(jax.grad(f, 1), 2), jax.grad(jax.grad(exact), 1)),
    ]
    keys = jax.random.split(jax.random.key(7), 20_000)
    for estimated, truth in cases:
        draws = np.asarray(jax.jit(jax.vmap(estimated, (0, None, None)))(keys, x, sigma), np.float64)
        standard_error = draws.std() / len(draws) ** 0.5
        assert abs(draws.mean() - truth(x, sigma)) < 4 * standard_error


@pytest.mark.parametrize("chunk_size", [1, 3, 10, 64])
def test_chunks_do_not_change_the_draws(chunk_size):
    key, x = jax.random.key(0), jnp.arange(3.0)

    def sort_sum(x):
        return jnp.sort(x) @ jnp.arange(3.0)

    whole = esjax.smooth(sort_sum, sigma=1.0, num_samples=10)
    parts = esjax.smooth(sort_sum, sigma=1.0, num_samples=10, chunk_size=chunk_size)
    for a, b in zip(jax.value_and_grad(whole, 1)(key, x), jax.value_and_grad(parts, 1)(key, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "x", "match"),
    [
        ({"sigma": 0.0}, 1.0, "sigma=0.0"),
        ({"sigma": float("nan")}, 1.0, "sigma=nan"),
        ({"num_samples": 1}, 1.0, "num_samples=1 .*num_samples >= 2"),
        ({"num_samples": 3, "sampler": esjax.samplers.antithetic}, 1.0, "num_samples=3 is odd"),
        ({}, 1, "x has dtype int32"),
        ({"fun": lambda x: x > 0}, 1.0, "value of fun has dtype bool"),
    ],
)
def test_wrong_arguments_name_themselves(options, x, match):
    options = {"fun": _step, "sigma": 1.0, "num_samples": 4} | options
    with pytest.raises(ValueError, match=match):
        esjax.smooth(options.pop("fun"), **options)(jax.random.key(0), x)
