"""The algebra that turns the sums of one pass into those of f_n − b_n, against the weights written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esjax
from esjax.smoothing import _weights

RNG = np.random.default_rng(0)


def _written_out(values, own, total, group_size):
    """f_n − own S_group − total S of all samples (N,)."""
    sums = values.reshape(-1, group_size).sum(1).repeat(group_size)
    return values - own * sums - total * values.sum()


@pytest.mark.parametrize("group_size", [1, 3])
@pytest.mark.parametrize("baseline", ["leave_one_out", "mean of all"])
def test_passes_with_offsets_of_their_own_add_up_to_the_weights_written_out(group_size, baseline):
    num_samples, dim, runs = 24, 5, 2
    values, scores = 7 + RNG.normal(size=num_samples), RNG.normal(size=(num_samples, dim))
    if baseline == "leave_one_out":
        own, total = map(float, esjax.baselines.leave_one_out.coefficients(group_size, num_samples))
    else:
        own, total = 0.0, 1 / num_samples
    truth = _written_out(values, own, total, group_size) @ scores

    offsets = np.array([6.0, 9.5])
    common = offsets.mean()
    centred_sum = (values - common).sum()
    found = np.zeros(dim)
    for rows, offset in zip(np.split(np.arange(num_samples), runs), offsets, strict=True):
        own_part = _written_out(values[rows] - offset, own, 0.0, group_size)
        sums = np.stack([own_part, np.full(rows.size, total)]) @ scores[rows]
        found = found + _weights.completed(sums, offset - common, centred_sum, num_samples, lambda each: each)
    np.testing.assert_allclose(found, truth, rtol=1e-12)


def test_where_no_offset_drops_out_the_sum_of_all_enters_with_its_coefficient():
    values, scores = RNG.normal(size=8), RNG.normal(size=(8, 3))
    own, total = 0.25, 0.5
    sums = np.stack([_written_out(values, own, 0.0, 2), np.full(8, total)]) @ scores
    truth = _written_out(values, own, total, 2) @ scores
    np.testing.assert_allclose(
        _weights.completed(sums, 0, values.sum(), 8, lambda each: each), truth, rtol=1e-12
    )


@jax.jit
def _gradient(offset):
    def block(x, offset):
        return jnp.sum(x > 0, dtype=jnp.float32) / 2 + offset

    smoothed = esjax.smooth(block, sigma=0.5, num_samples=4096, credit=esjax.credit.none)
    return jax.grad(smoothed, 1)(jax.random.key(0), jnp.linspace(-1.0, 1.0, 100), offset)


@pytest.mark.parametrize("offset", [1e4, 1e6])
def test_a_large_offset_of_all_values_costs_no_digits(offset):
    """Halves above 10⁶ are exact in float32, and so are their differences from the mean of the first few."""
    near = _gradient(0.0)
    assert np.linalg.norm(_gradient(offset) - near) < 1e-5 * np.linalg.norm(near)


def test_an_infinite_value_among_the_first_makes_the_mean_infinite_not_nan():
    smoothed = esjax.smooth(lambda x: jnp.where(x > 0, jnp.inf, 1.0), sigma=0.5, num_samples=16)
    value, _ = jax.value_and_grad(smoothed, 1)(jax.random.key(0), jnp.float32(0.0))
    assert value == smoothed(jax.random.key(0), jnp.float32(0.0)) == jnp.inf
