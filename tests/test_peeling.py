"""Blocks, and the same put together from their terms: values, gradients in arguments, and Hessians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esjax._jaxpr.dependence import reads
from esjax._jaxpr.peeling import peel

SIZE = 6
WEIGHTS = np.array([1.0, 2.0, 0.5, -1.0, 3.0, 2.0], np.float32)
MATRIX = np.arange(12, dtype=np.float32).reshape(SIZE, 2)


@jax.jit
def _inner(x, a):
    return jnp.mean(jax.jit(jnp.sin)(x)) * a


BLOCKS = {  # block(x, a, w), and how many terms it has
    "mean": (lambda x, a, w: jnp.mean(x**2), SIZE),
    "mean of rows": (lambda x, a, w: jnp.mean(jnp.sort(x.reshape(2, 3), axis=1), axis=1), SIZE),
    "weighted": (lambda x, a, w: jnp.sum(w**2 * jnp.round(x)) / jnp.sum(w), SIZE),
    "count": (lambda x, a, w: (x > 0).sum(), SIZE),
    "count, weighted": (lambda x, a, w: ((x > 0).sum() - 2).astype(jnp.float32) * 3 * a, SIZE),
    "count times a whole number": (lambda x, a, w: jnp.float32((x > 0).sum() * 3) * a, 1),
    "whole weights": (lambda x, a, w: jnp.float32(jnp.dot(jnp.int32(x > 0), jnp.arange(SIZE))) * a, 1),
    "mean of Booleans": (lambda x, a, w: jnp.mean(x > 0) * a, SIZE),
    "affine": (lambda x, a, w: jnp.where(x > 0, 1.0, 0.0).mean() * a**2 + jnp.sin(a), SIZE),
    "dot": (lambda x, a, w: jnp.tanh(x) @ w * a, SIZE),
    "matrix": (lambda x, a, w: jnp.tanh(x) @ MATRIX + a, SIZE),
    "two terms": (lambda x, a, w: jnp.sum(x**2) - a * jnp.sum(w[:2] * jnp.sin(x[:2])), SIZE + 2),
    "nested jit": (lambda x, a, w: _inner(x, a) * a + 1, SIZE),
    "moves": (lambda x, a, w: jnp.pad((x**2).reshape(2, 3).T[::-1], 1).sum(0) * a, SIZE),
    "joined": (lambda x, a, w: jnp.concatenate([x**2, jnp.stack([a, a])]) @ jnp.ones(SIZE + 2), SIZE),
    "cumulative": (lambda x, a, w: jnp.cumsum(jnp.sign(x)) * a, SIZE),
    "chosen": (lambda x, a, w: jnp.where(w > 0, jnp.cos(x), a).sum(), SIZE),
    "known choice": (lambda x, a, w: jnp.where(WEIGHTS > 0, jnp.cos(x), a).sum(), SIZE - 1),
    "part": (lambda x, a, w: jnp.mean((jnp.round(x) * a)[1:3]), 2),
    "neighbours": (lambda x, a, w: (lambda y: jnp.sum(y[1:] - y[:-1] * w[1:]))(x**2), SIZE),
    "parts of two": (lambda x, a, w: jnp.sum((x**2)[1:] - jnp.sin(x)[:-1] * w[1:]), 2 * (SIZE - 1)),
    "broadcast": (lambda x, a, w: jnp.broadcast_to(jnp.prod(x), (9,)) * a, 1),
    "term in both": (lambda x, a, w: (lambda y: y.sum() + jnp.exp(-y).sum() * a)(jnp.sin(x)), 2 * SIZE),
    "nothing": (lambda x, a, w: jnp.sort(x), SIZE),
    "a product of two": (lambda x, a, w: jnp.sum(x) * jnp.mean(x), 1),
    "a maximum": (lambda x, a, w: jnp.max(x) * a, 1),
    "division": (lambda x, a, w: a / jnp.sum(x * x), 1),
    "several": (lambda x, a, w: {"f": jnp.mean(x**2), "g": (jnp.max(x), a)}, SIZE + 1),
    "constant": (lambda x, a, w: a * jnp.sum(w), 0),
    "itself": (lambda x, a, w: x @ w, SIZE),
    "narrow": (lambda x, a, w: (x > 0).astype(jnp.int8).sum(dtype=jnp.int8).astype(jnp.float32), 1),
    "counted in few bits": (lambda x, a, w: (x > 0).sum().astype(jnp.float16).astype(jnp.float32), 1),
    "added in few bits": (
        lambda x, a, w: (lambda y: (y[:3] + y[3:]).astype(jnp.float32) @ w[:3])(x.astype(jnp.bfloat16)),
        SIZE // 2,
    ),
    "whole division": (lambda x, a, w: jax.lax.div((x > 0).sum(), 2).astype(jnp.float32), 1),
}


def _both(name):
    """The block as a function of its three arguments, flat and floating, and the same from its terms."""
    block, num_terms = BLOCKS[name]
    x, a = jnp.array([0.3, -1.2, 2.5, 0.7, -0.4, 1.1]), jnp.float32(1.7)
    args = (x, a, jnp.asarray(WEIGHTS))
    peeled = peel(jax.make_jaxpr(block)(*args), [True, False, False])

    def direct(*args):
        return jnp.concatenate(
            [jnp.ravel(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(block(*args))]
        )

    def of_terms(terms, a, w):
        found = jax.core.eval_jaxpr(peeled.combine.jaxpr, peeled.combine.consts, *terms, a, w)
        return jnp.concatenate([jnp.ravel(leaf) for leaf in found])

    def terms(*args):
        return jax.core.eval_jaxpr(peeled.terms.jaxpr, peeled.terms.consts, *args)

    return args, peeled, direct, terms, of_terms, num_terms


@pytest.mark.parametrize("name", BLOCKS)
def test_terms_make_the_block_and_its_derivatives(name):
    args, peeled, direct, terms, of_terms, num_terms = _both(name)
    assert peeled.num_terms == num_terms
    assert all(term.dtype == jnp.float32 for term in terms(*args))

    def again(x, a, w):
        return of_terms(terms(x, a, w), a, w)

    def derivatives(f):
        return jax.jit(
            lambda *args: (f(*args), jax.jacobian(f, (0, 1, 2))(*args), jax.hessian(f, (1, 2))(*args))
        )

    for ours, theirs in zip(*(jax.tree.leaves(derivatives(f)(*args)) for f in (again, direct)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", BLOCKS)
def test_what_is_combined_is_linear(name):
    args, _, _, terms, of_terms, _ = _both(name)
    rng = np.random.default_rng(0)
    first, second = ([jnp.asarray(rng.normal(size=t.shape), t.dtype) for t in terms(*args)] for _ in range(2))
    middle = [0.25 * p + 0.75 * q for p, q in zip(first, second, strict=True)]
    of = lambda terms: of_terms(terms, *args[1:])  # noqa: E731
    np.testing.assert_allclose(of(middle), 0.25 * of(first) + 0.75 * of(second), rtol=1e-5, atol=1e-5)


def test_each_term_of_a_mean_reads_its_own_inputs():
    peeled = peel(jax.make_jaxpr(lambda x: jnp.mean(x > 0))(jnp.zeros(SIZE)), [True])
    np.testing.assert_array_equal(reads(peeled.terms, [True]).pattern.toarray(), np.eye(SIZE, dtype=bool))


@pytest.mark.parametrize(
    "scaled",
    [
        lambda y, w: y / w,
        lambda y, w: y * (1 / w),
        lambda y, w: y * jnp.log(w),
        lambda y, w: jnp.log(w)[:, None] @ y[None, :1],
    ],
)
def test_no_slope_is_infinity_times_what_a_mask_leaves_out(scaled):
    w = jnp.array([0.0, 1.0, 2.0, 0.0, 3.0, 1.0])

    def block(x, w):
        found = scaled(jnp.round(x), w)
        return jnp.where((w > 0).reshape(found.shape), found, 0).sum()

    peeled = peel(jax.make_jaxpr(block)(w, w), [True, False])

    def combined(terms):
        return jax.core.eval_jaxpr(peeled.combine.jaxpr, peeled.combine.consts, *terms, w)[0]

    (slopes,) = jax.grad(combined)([jnp.ones(aval.shape) for aval in peeled.terms.out_avals])
    assert slopes.size and np.isfinite(slopes).all()


def test_inside_a_trace_weights_may_be_traced():
    def through_terms(w, x):
        peeled = peel(jax.make_jaxpr(lambda x: jnp.sum(w * jnp.sin(x)))(x), [True])
        terms = jax.core.eval_jaxpr(peeled.terms.jaxpr, peeled.terms.consts, x)
        return jax.core.eval_jaxpr(peeled.combine.jaxpr, peeled.combine.consts, *terms)[0]

    x, w = jnp.arange(1.0, SIZE + 1), jnp.asarray(WEIGHTS)
    found = jax.jit(jax.grad(through_terms))(w, x)
    np.testing.assert_allclose(found, jnp.sin(x), rtol=1e-6)


@pytest.mark.parametrize("narrow", [jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn])
def test_rounding_to_fewer_bits_is_of_each_term_and_not_of_their_mean(narrow):
    """(Evaluated step by step: XLA may leave out a conversion there and back.)"""
    x = jnp.linspace(1.0, 1.1, 7)
    program = jax.make_jaxpr(lambda x: x.astype(narrow).astype(jnp.float32).sum())(x)
    peeled = peel(program, [True])
    (terms,) = jax.core.eval_jaxpr(peeled.terms.jaxpr, peeled.terms.consts, x)
    np.testing.assert_array_equal(terms.astype(jnp.float32), x.astype(narrow).astype(jnp.float32))
    assert peeled.num_terms == 7 and (terms.astype(jnp.float32) != x).any()


@pytest.mark.parametrize("narrow", [jnp.bfloat16, jnp.float16])
def test_means_of_terms_of_few_bits_are_not_rounded_to_as_few(narrow):
    """1.0005 is none of their numbers, but a mean of them; nor is the slope of a thousandth."""
    program = jax.make_jaxpr(lambda x: (x.astype(narrow).astype(jnp.float32) * 1e-3).sum())(jnp.ones(7))
    combine = peel(program, [True]).combine

    def combined(means):
        return jax.core.eval_jaxpr(combine.jaxpr, combine.consts, means)[0]

    value, slopes = jax.value_and_grad(combined)(jnp.full(7, 1.0005))
    np.testing.assert_allclose(value, 7 * 1.0005e-3, rtol=1e-6)
    np.testing.assert_allclose(slopes, 1e-3, rtol=1e-6)
