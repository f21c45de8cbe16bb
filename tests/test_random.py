"""Draws are those of `jax.random`, bit for bit, whatever the key, the shape and the transformation."""

import jax
import numpy as np
import pytest

from esjax._core import random

PAIRS = {"uniform": (random.uniform, jax.random.uniform), "normal": (random.normal, jax.random.normal)}


@pytest.mark.parametrize("key", [jax.random.key(7), jax.random.PRNGKey(2**31), jax.random.key(0, impl="rbg")])
@pytest.mark.parametrize("shape", [(), (255,), (256,), (4, 1, 333), (300, 300)])
@pytest.mark.parametrize("name", PAIRS)
def test_draws_are_those_of_jax(name, shape, key):
    ours, jaxs = PAIRS[name]
    drawn, wanted = (draw(jax.random.clone(key), shape, np.float32) for draw in (ours, jaxs))
    assert (drawn.shape, drawn.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_array_equal(drawn, wanted)


def test_draws_in_double_precision_are_those_of_jax():
    with jax.enable_x64(True):
        drawn = random.normal(jax.random.key(3), (2000,), np.float64)
        np.testing.assert_array_equal(drawn, jax.random.normal(jax.random.key(3), (2000,), np.float64))


@pytest.mark.parametrize("name", PAIRS)
def test_many_keys_draw_what_each_draws_alone(name):
    ours, jaxs = PAIRS[name]
    keys = jax.random.split(jax.random.key(1), (3, 4))
    many = jax.jit(jax.vmap(jax.vmap(lambda key: ours(key, (200, 6), np.float32))))(keys)
    _, scanned = jax.lax.scan(lambda c, key: (c, ours(key, (200, 6), np.float32)), None, keys.reshape(-1))
    wanted = [jaxs(key, (200, 6), np.float32) for key in keys.reshape(-1)]
    np.testing.assert_array_equal(many.reshape(12, 200, 6), wanted)
    np.testing.assert_array_equal(scanned, wanted)
    assert len(np.unique(wanted)) > 14_000


def test_draws_where_jax_counts_in_another_order():
    with jax.threefry_partitionable(False):
        drawn, wanted = (draw(jax.random.key(5), (2000,), np.float32) for draw in PAIRS["uniform"])
        np.testing.assert_array_equal(drawn, wanted)


def test_one_pass_hashes_once():
    compiled = jax.jit(lambda key: random.normal(key, (2000,), np.float32)).lower(jax.random.key(0)).compile()
    if jax.default_backend() == "cpu":
        assert compiled.as_text().count("conditional(") == 1  # what keeps the hash apart from its users


def test_the_seed_of_a_differentiated_function_may_be_batched():
    def value(x, key):
        return x * random.normal(key, (2000,), np.float32).sum()

    keys = jax.random.split(jax.random.key(2), 5)
    slopes = jax.vmap(jax.grad(value), (None, 0))(np.float32(2), keys)
    np.testing.assert_allclose(slopes, [jax.random.normal(key, (2000,)).sum() for key in keys], rtol=1e-4)


def test_draws_outside_jit_compile_once(compiled):
    key = jax.random.key(0)
    random.normal(key, (2000,), np.float32)
    count = len(compiled)
    random.normal(key, (2000,), np.float32)
    assert len(compiled) == count
    random.normal(key, (2003,), np.float32)
    assert len(compiled) > count  # else nothing was watched
