"""Laws that hold for every block, sampler and baseline, on inputs that Hypothesis invents."""

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings

import esjax

SAMPLERS = ["iid", "antithetic", "orthogonal", "latin_hypercube", "sobol", "auto"]
BASELINES = ["none", "at_input", "leave_one_out", "centered_rank"]
FEW = settings(max_examples=6, deadline=None, derandomize=True)

numbers = st.floats(-3, 3, width=32)
samplers = st.sampled_from(SAMPLERS).map(lambda name: getattr(esjax.samplers, name))
baselines = st.sampled_from(BASELINES).map(lambda name: getattr(esjax.baselines, name))
affine_baselines = st.sampled_from(BASELINES[:3]).map(lambda name: getattr(esjax.baselines, name))
shapes = st.sampled_from([(), (1,), (3,), (2, 2)])
trees = st.dictionaries(st.sampled_from("abc"), shapes, min_size=1).map(
    lambda tree: {
        name: jnp.linspace(-1.0, 1.0, int(np.prod(shape))).reshape(shape) for name, shape in tree.items()
    }
)


def _steps(x):
    return sum(jnp.floor(2 * leaf).sum() for leaf in jax.tree.leaves(x))


def _sines(x):
    return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(x))


def _gradient(fun, x, sampler, baseline, **options):
    smoothed = esjax.smooth(
        fun, **{"sigma": 0.7, "num_samples": 8, "sampler": sampler, "baseline": baseline} | options
    )
    return jax.jit(jax.value_and_grad(smoothed, 1))(jax.random.key(0), x)


def _assert_close(a, b):
    chex.assert_trees_all_close(a, b, rtol=1e-4, atol=1e-4)


@FEW
@given(x=trees, a=numbers, b=numbers, sampler=samplers, baseline=affine_baselines)
def test_value_and_gradient_are_linear_in_the_block(x, a, b, sampler, baseline):
    both = _gradient(lambda x: a * _steps(x) + b * _sines(x), x, sampler, baseline)
    steps, sines = (_gradient(fun, x, sampler, baseline) for fun in (_steps, _sines))
    _assert_close(both, jax.tree.map(lambda s, t: a * s + b * t, steps, sines))


@FEW
@given(
    x=trees, offset=st.floats(-1000, 1000, width=32), sampler=samplers, name=st.sampled_from(BASELINES[1:])
)
def test_a_constant_added_to_the_block_leaves_the_gradient(x, offset, sampler, name):
    baseline = getattr(esjax.baselines, name)
    value, gradient = _gradient(_steps, x, sampler, baseline)
    moved_value, moved_gradient = _gradient(lambda x: _steps(x) + offset, x, sampler, baseline)
    np.testing.assert_allclose(moved_value, value + offset, rtol=1e-5, atol=1e-3)
    chex.assert_trees_all_close(gradient, moved_gradient, rtol=1e-3, atol=2e-3)


@FEW
@given(x=trees, sampler=samplers, baseline=baselines, chunk_size=st.integers(1, 8))
def test_jit_and_chunks_change_nothing(x, sampler, baseline, chunk_size):
    whole = _gradient(_steps, x, sampler, baseline)
    _assert_close(whole, _gradient(_steps, x, sampler, baseline, chunk_size=chunk_size))
    smoothed = esjax.smooth(_steps, sigma=0.7, num_samples=8, sampler=sampler, baseline=baseline)
    _assert_close(whole, jax.value_and_grad(smoothed, 1)(jax.random.key(0), x))


@FEW
@given(x=trees, sampler=samplers, baseline=baselines)
def test_leaves_under_other_names_in_the_same_order_change_nothing(x, sampler, baseline):
    listed = jax.tree.leaves(x)
    value, gradient = _gradient(_steps, x, sampler, baseline)
    _assert_close((value, jax.tree.leaves(gradient)), _gradient(_steps, listed, sampler, baseline))


@FEW
@given(x=trees, sampler=samplers, baseline=baselines)
def test_gradients_have_the_structure_shapes_and_dtypes_of_x(x, sampler, baseline):
    value, gradient = _gradient(_steps, x, sampler, baseline)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradient, x)
    chex.assert_shape(value, ())
    chex.assert_tree_all_finite(gradient)


def test_permuting_iid_coordinates_permutes_the_distribution_of_the_gradient():
    """A symmetric block at a constant x: all coordinates of the gradient have one mean."""
    smoothed = esjax.smooth(_steps, sigma=0.7, num_samples=8)
    keys = jax.random.split(jax.random.key(1), 20_000)
    draws = np.asarray(
        jax.jit(jax.vmap(jax.grad(smoothed, 1), (0, None)))(keys, jnp.full(3, 0.2)), np.float64
    )
    centred = draws - draws.mean(1, keepdims=True)
    assert np.all(np.abs(centred.mean(0)) < 4 * centred.std(0) / len(draws) ** 0.5)
