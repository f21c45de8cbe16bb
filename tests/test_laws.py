"""Laws that hold for every block, sampler and baseline, on numbers that Hypothesis invents.

A block's numbers are arguments, so that all examples of a case run the program that is compiled for it once.
"""

import functools

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats

import esjax

SAMPLERS = ["iid", "antithetic", "orthogonal", "latin_hypercube", "sobol", "auto"]
BASELINES = ["none", "at_input", "leave_one_out", "centered_rank"]
TREES = [{"a": ()}, {"b": (3,)}, {"a": (2, 2), "c": ()}, {"a": (1,), "b": (3,), "c": (2, 2)}, {"c": (1,)}]
CASES = [(SAMPLERS[i % 6], BASELINES[i % 4], TREES[i % 5]) for i in range(12)]
FIVE = settings(max_examples=5, deadline=None, derandomize=True)

numbers = st.floats(-3, 3, width=32)
points = st.lists(numbers, min_size=8, max_size=8)
keys = st.integers(0, 2**31 - 1).map(jax.random.PRNGKey)


def _of(cases):
    ids = [f"{sampler}-{baseline}-{''.join(tree)}" for sampler, baseline, tree in cases]
    return pytest.mark.parametrize(("sampler", "baseline", "shapes"), cases, ids=ids)


of_all = _of(CASES)


def _tree(shapes, point):
    """Fills a tree of those shapes with the first numbers of `point`."""
    rest = iter(point)
    leaves = {name: [next(rest) for _ in range(int(np.prod(shape)))] for name, shape in shapes.items()}
    return {name: jnp.array(leaves[name], jnp.float32).reshape(shape) for name, shape in shapes.items()}


def _steps(x):
    return sum(jnp.floor(2 * leaf).sum() for leaf in jax.tree.leaves(x))


def _block(x, a, b, offset):
    sines = sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(x))
    return a * _steps(x) + b * sines + offset


@functools.cache
def _eager(sampler, baseline, chunk_size=None):
    """Returns `(key, x, a, b, offset) -> (value, gradient in x)`."""
    smoothed = esjax.smooth(
        _block,
        sigma=0.7,
        num_samples=10,  # which groups of 4 do not divide
        sampler=getattr(esjax.samplers, sampler),
        baseline=getattr(esjax.baselines, baseline),
        chunk_size=chunk_size,
    )
    return jax.value_and_grad(smoothed, 1)


@functools.cache
def _compiled(*options):
    return jax.jit(_eager(*options))


def _assert_close(a, b):
    chex.assert_trees_all_close(a, b, rtol=1e-4, atol=1e-4)


@_of([case for case in CASES if case[1] != "centered_rank"])
@FIVE
@given(key=keys, point=points, a=numbers, b=numbers)
def test_value_and_gradient_are_linear_in_the_block(sampler, baseline, shapes, key, point, a, b):
    call, x = _compiled(sampler, baseline), _tree(shapes, point)
    steps, sines = call(key, x, 1.0, 0.0, 0.0), call(key, x, 0.0, 1.0, 0.0)
    _assert_close(call(key, x, a, b, 0.0), jax.tree.map(lambda s, t: a * s + b * t, steps, sines))


@_of([case for case in CASES if case[1] != "none"])
@FIVE
@given(key=keys, point=points, offset=st.floats(-1000, 1000, width=32))
def test_a_constant_added_to_the_block_leaves_the_gradient(sampler, baseline, shapes, key, point, offset):
    call, x = _compiled(sampler, baseline), _tree(shapes, point)
    value, gradient = call(key, x, 1.0, 0.0, 0.0)
    moved_value, moved_gradient = call(key, x, 1.0, 0.0, offset)
    np.testing.assert_allclose(moved_value, value + offset, rtol=1e-5, atol=1e-3)
    chex.assert_trees_all_close(gradient, moved_gradient, rtol=1e-3, atol=2e-3)


@of_all
@FIVE
@given(key=keys, point=points)
def test_chunks_change_nothing(sampler, baseline, shapes, key, point):
    x, chunk_size = _tree(shapes, point), 1 + CASES.index((sampler, baseline, shapes)) % 7
    whole = _compiled(sampler, baseline)(key, x, 1.0, 1.0, 0.0)
    _assert_close(whole, _compiled(sampler, baseline, chunk_size)(key, x, 1.0, 1.0, 0.0))


@_of(CASES[:6])
@FIVE
@given(key=keys, point=points)
def test_jit_changes_nothing(sampler, baseline, shapes, key, point):
    x = _tree(shapes, point)
    compiled, eager = (make(sampler, baseline)(key, x, 1.0, 1.0, 0.0) for make in (_compiled, _eager))
    _assert_close(compiled, eager)


@of_all
@FIVE
@given(key=keys, point=points)
def test_leaves_under_other_names_in_the_same_order_change_nothing(sampler, baseline, shapes, key, point):
    call, x = _compiled(sampler, baseline), _tree(shapes, point)
    value, gradient = call(key, x, 1.0, 1.0, 0.0)
    listed = call(key, jax.tree.leaves(x), 1.0, 1.0, 0.0)
    _assert_close((value, jax.tree.leaves(gradient)), listed)


@of_all
@FIVE
@given(key=keys, point=points)
def test_gradients_have_the_structure_shapes_and_dtypes_of_x(sampler, baseline, shapes, key, point):
    x = _tree(shapes, point)
    value, gradient = _compiled(sampler, baseline)(key, x, 1.0, 1.0, 0.0)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradient, x)
    chex.assert_shape(value, ())
    chex.assert_tree_all_finite(gradient)


@jax.jit
def _gradients_of_a_symmetric_block(keys, x):
    smoothed = esjax.smooth(lambda x: _steps(x) ** 2, sigma=0.7, num_samples=8, sampler=esjax.samplers.iid)
    return jax.vmap(jax.grad(smoothed, 1), (0, None))(keys, x)


@settings(FIVE, max_examples=30)
@given(key=keys, x=st.lists(numbers, min_size=3, max_size=3), order=st.permutations(range(3)))
def test_permuting_iid_coordinates_permutes_the_distribution_of_the_gradient(key, x, order):
    """By the test of Kolmogorov and Smirnov, whose limit is exceeded once in 30,000."""
    num_keys = 4000
    keys, x = jax.random.split(key, (2, num_keys)), jnp.array(x, jnp.float32)
    order = jnp.array(order, jnp.int32)
    plain, moved = (_gradients_of_a_symmetric_block(*each) for each in zip(keys, (x, x[order]), strict=True))
    for a, b in zip(np.asarray(plain[:, order]).T, np.asarray(moved).T, strict=True):
        assert stats.ks_2samp(a, b, method="asymp").statistic * (num_keys / 2) ** 0.5 < 2.35
