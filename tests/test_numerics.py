"""Every estimator under JAX's checks, and with each kind of key."""

from contextlib import ExitStack
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

import esjax

X = np.array([0.5, -1.0, 0.25, 2.0])
LABEL = jnp.int32(3)


def _smoothed(**options):
    return esjax.smooth(esjax.blocks.accuracy, sigma=1.0, num_samples=16, **options)


def _decided(estimator, decision=esjax.decisions.threshold, num_samples=4):
    def block(chosen):
        return (chosen * jnp.arange(1, chosen.size + 1, dtype=jnp.int32)).sum().astype(jnp.float32)

    smoothed = esjax.smooth_decisions(
        block, decision=decision, sigma=1.0, num_samples=num_samples, estimator=estimator
    )
    return smoothed


CASES = {
    "auto": lambda key, x: _smoothed()(key, x, LABEL),
    "sobol": lambda key, x: _smoothed(sampler=esjax.samplers.sobol)(key, x, LABEL),
    "discard": lambda key, x: _smoothed(discard=jnp.isnan)(key, x, LABEL),
    "score": _decided(esjax.decisions.score),
    "local_expectation": _decided(esjax.decisions.local_expectation),
    "two_best": _decided(esjax.decisions.score, partial(esjax.decisions.ranking, k=2)),
    "enumeration": _decided(esjax.decisions.enumeration, num_samples=None),
    "accuracy": lambda key, x: esjax.exact.accuracy(x, LABEL, sigma=1.0),
    "top_k": lambda key, x: esjax.exact.top_k_accuracy(x, LABEL, k=2, sigma=1.0),
}
NO_KEY = {"enumeration", "accuracy", "top_k"}


@cache
def _value_and_gradient(name):
    return jax.jit(jax.value_and_grad(CASES[name], 1))


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_nan_or_leaks_under_jaxs_checks(name):
    x = jnp.asarray(X, jnp.float32)
    plain = _value_and_gradient(name)(jax.random.key(0), x)
    with ExitStack() as stack:
        for check in (
            jax.enable_checks(True),
            jax.debug_nans(True),
            jax.debug_infs(True),
            jax.checking_leaks(),
        ):
            stack.enter_context(check)
        checked = jax.jit(jax.value_and_grad(CASES[name], 1))(jax.random.key(0), x)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), checked, plain)
    assert np.abs(plain[1]).max() > 0


@pytest.mark.parametrize("name", [name for name in CASES if name not in NO_KEY])
def test_every_kind_of_key_draws_and_raw_ones_draw_the_same(name):
    x = jnp.asarray(X, jnp.float32)
    typed, raw = (_value_and_gradient(name)(key, x) for key in (jax.random.key(7), jax.random.PRNGKey(7)))
    jax.tree.map(np.testing.assert_array_equal, typed, raw)
    value, gradient = _value_and_gradient(name)(jax.random.key(7, impl="rbg"), x)
    assert np.isfinite(value) and np.isfinite(gradient).all()


PRODUCTS = {
    **{name: CASES[name] for name in CASES if name not in {"score", "two_best", "enumeration"}},
    "orthogonal": lambda key, x: _smoothed(sampler=esjax.samplers.orthogonal)(key, x, LABEL),
    "several values": lambda key, x: esjax.smooth(jnp.sign, sigma=1.0, num_samples=8)(key, x).sum(),
    "report": lambda key, x: _smoothed().with_info(key, x, LABEL)[1].signal_to_noise,
    "curvature": lambda key, x: jax.grad(lambda x: esjax.exact.argmax_probs(x, 1.0)[0])(x).sum(),
    "many rivals": lambda key, x: esjax.exact.accuracy(jnp.resize(x, 1000), LABEL, sigma=1.0),
    "ranking": lambda key, x: esjax.blocks.ndcg(x, jnp.arange(4, dtype=jnp.int32)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_every_product_of_matrices_asks_for_the_precision_of_its_dtype(name):
    """Which GPUs and TPUs do not have by default."""
    value_and_gradient = jax.value_and_grad(PRODUCTS[name], 1)
    jaxpr = jax.make_jaxpr(value_and_gradient)(jax.random.key(0), jnp.asarray(X, jnp.float32))
    asked = {product.params["precision"] for product in _products(jaxpr.jaxpr)}
    assert asked == {(jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)}


def _products(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from _products(inner)


@pytest.mark.parametrize("name", sorted(set(CASES) - NO_KEY))
def test_a_call_consumes_its_key(name):
    key, x = jax.random.key(0), jnp.asarray(X, jnp.float32)
    CASES[name](key, x)
    with pytest.raises(jax.errors.KeyReuseError):
        CASES[name](key, x)


@pytest.mark.parametrize("name", sorted(set(CASES) - NO_KEY))
def test_a_gradient_consumes_its_key(name):
    """In `jit` too, where JAX looks at the program."""

    def gradient(key, x):
        return jax.grad(CASES[name], 1)(key, x)

    key, x = jax.random.key(0), jnp.asarray(X, jnp.float32)
    gradient(key, x)
    with pytest.raises(jax.errors.KeyReuseError):
        jax.random.uniform(key)
    with pytest.raises(jax.errors.KeyReuseError):
        jax.jit(lambda key: gradient(key, x) + gradient(key, x))(jax.random.key(1))


def test_a_call_that_is_refused_leaves_its_key():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="x"):
        esjax.smooth(jnp.floor, sigma=1.0, num_samples=4)(key, "text")
    jax.random.uniform(key)


def test_what_is_drawn_again_on_purpose_passes_the_checker_of_keys():
    one = esjax.smooth(lambda x: jnp.floor(x).sum(), sigma=0.5, num_samples=16)
    several = esjax.smooth(jnp.floor, sigma=0.5, num_samples=16, chunk_size=4)
    for number, call in enumerate(
        (
            lambda key, x: jax.grad(one, 1)(key, x),
            lambda key, x: jax.jacrev(several, 1)(key, x),
            lambda key, x: jax.hessian(one, 1)(key, x),
            lambda key, x: jax.vmap(one.with_info, (0, None))(jax.random.split(key, 3), x),
            lambda key, x: esjax.sigma.calibrate(
                lambda x: (jnp.floor(x) ** 2).sum(), key, x, num_samples=8, num_steps=3
            ),
        )
    ):
        call(jax.random.key(number), jnp.full(3, 2.5))


def test_an_infinite_score_is_decided_and_has_no_part_in_derivatives_in_sigma():
    smoothed = esjax.smooth_decisions(
        lambda decisions: decisions.sum().astype(jnp.float32),
        decision=esjax.decisions.threshold,
        sigma=1.0,
        estimator=esjax.decisions.enumeration,
        noise=esjax.noise.gumbel,
    )

    def value(sigma):
        return smoothed(jax.random.PRNGKey(0), jnp.array([0.5, jnp.inf, -jnp.inf]), sigma=sigma)

    def exact(sigma):
        return -jnp.expm1(-jnp.exp(0.5 / sigma - np.euler_gamma))

    found, wanted = (
        jax.jit(lambda sigma, f=f: (jax.grad(f)(sigma), jax.hessian(f)(sigma)))(1.0) for f in (value, exact)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert np.isnan(jax.jit(lambda x: smoothed(jax.random.PRNGKey(0), x))(jnp.array([0.5, jnp.nan])))
