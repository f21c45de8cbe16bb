"""Each sampler's samples by themselves (the noise's distribution) and together (the structure promised)."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.stats import qmc

import esjax
from esjax import noise, samplers
from esjax.samplers import points as sobol_points
from esjax.samplers import rotations

GROUPED = ["orthogonal", "latin_hypercube", "sobol"]
DISTRIBUTIONS = {
    "normal": stats.norm(),
    "laplace": stats.laplace(),
    "gumbel": stats.gumbel_r(loc=-np.euler_gamma),
}
# ε = u itself, so that structure in the uniform numbers can be looked at without rounding
UNIFORM = noise.Noise(sample=jax.random.uniform, score=jnp.zeros_like, icdf=lambda u: u, symmetric=False)

every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@pytest.fixture(autouse=True)
def _strict():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@functools.cache
def _draws(name, num_samples, dim, chosen, *, num_keys, dtype=np.float64, seed=0):
    """Returns one group for each of `num_keys` keys, (num_keys, size, dim)."""
    groups = getattr(samplers, name)(num_samples, dim, chosen)
    keys = jax.random.split(jax.random.key(seed), num_keys)
    eps = np.asarray(jax.jit(jax.vmap(lambda key: groups.draw(key, dtype)))(keys))
    assert eps.shape == (num_keys, groups.size, dim)
    assert eps.dtype == dtype
    return eps


def _assert_mean(values, expected):
    """Within 4 standard errors over the first axis."""
    errors = values.mean(0) - expected
    assert (np.abs(errors) < 4 * values.std(0) / len(values) ** 0.5).all(), errors


# --- each sample by itself --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "noise_name"),
    [
        ("iid", "laplace"),
        ("antithetic", "laplace"),
        ("orthogonal", "normal"),
        ("orthogonal", "laplace"),
        ("orthogonal", "gumbel"),
        ("latin_hypercube", "gumbel"),
        ("sobol", "gumbel"),
    ],
)
def test_every_slot_of_a_group_has_the_noise_as_its_distribution(name, noise_name):
    num_keys, dim = 4000, 4
    eps = _draws(name, 16, dim, getattr(noise, noise_name), num_keys=num_keys)
    u = DISTRIBUTIONS[noise_name].cdf(eps)
    for slot in (0, -1):
        for coordinate in (0, -1):
            distance = stats.kstest(u[:, slot, coordinate], "uniform").statistic
            assert distance * num_keys**0.5 < 1.95  # exceeded once in a thousand
    pairs = [(i, j) for i in range(dim) for j in range(i)]
    for part in (u - 0.5, np.abs(u - 0.5) - 0.25):  # directions, and sizes
        products = np.stack([part[..., i] * part[..., j] for i, j in pairs], -1)
        _assert_mean(products[:, [0, -1]], 0)


@pytest.mark.parametrize("name", GROUPED)
@every_dtype
@pytest.mark.parametrize("extreme", ["smallest", "largest"])
def test_extreme_random_numbers_give_finite_noise(name, dtype, extreme, monkeypatch):
    """The smallest and the largest that JAX can return, at every place."""

    def uniform(key, shape, dtype):
        return jnp.full(shape, 1 - np.finfo(dtype).eps if extreme == "largest" else 0, dtype)

    def bits(key, shape, word):
        return jnp.full(shape, np.iinfo(word).max if extreme == "largest" else 0, word)

    def normal(key, shape, dtype):
        return jnp.full(shape, 40.0 if extreme == "largest" else -40.0, dtype)

    monkeypatch.setattr(jax.random, "uniform", uniform)
    monkeypatch.setattr(jax.random, "bits", bits)
    if name == "orthogonal":
        monkeypatch.setattr(jax.random, "normal", normal)
    with jax.disable_jit():  # what was compiled before would not see the replacements, nor forget them
        for noise_name in ("gumbel", "triangular"):
            chosen = getattr(noise, noise_name)
            eps = getattr(samplers, name)(16, 1, chosen).draw(jax.random.key(0), dtype)
            assert np.isfinite(eps).all()
            assert np.isfinite(chosen.score(eps)).all()


# --- sizes and refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*GROUPED, "auto"])
@pytest.mark.parametrize("dim", [1, 3, 1000, 20_000])
def test_groups_are_two_or_more_and_fit_the_bound(name, dim):
    for num_samples in [1, 2, 3, 5, 16, 100, 1001]:
        size = getattr(samplers, name)(num_samples, dim, noise.normal).size
        assert 1 <= size <= num_samples
        assert num_samples == 1 or -(-num_samples // size) >= 2
        assert size == 1 or size * dim <= 2**16


def test_sizes_that_the_docstrings_state():
    assert samplers.orthogonal(256, 10, noise.normal).size == 10
    assert samplers.orthogonal(256, 1000, noise.normal).size == 65
    assert samplers.orthogonal(7, 10, noise.normal).size == 4
    assert samplers.latin_hypercube(100, 10, noise.normal).size == 50
    assert samplers.sobol(256, 10, noise.normal).size == 128
    assert samplers.sobol(100, 10, noise.normal).size == 32


def test_sobol_refuses_more_coordinates_than_it_has_direction_numbers_for():
    samplers.sobol(4, qmc.Sobol.MAXDIM, noise.normal)
    dim = qmc.Sobol.MAXDIM + 1
    with pytest.raises(ValueError, match=f"dim={dim}: .* at most {qmc.Sobol.MAXDIM} .*samplers.orthogonal"):
        samplers.sobol(4, dim, noise.normal)
    samplers.auto(2**20, dim, noise.normal)


@pytest.mark.parametrize(
    ("num_samples", "dim", "expected"),
    [
        (2, 1, "sobol"),
        (16, 2, "sobol"),
        (16, 10, "orthogonal"),
        (64, 10, "orthogonal"),
        (256, 10, "sobol"),
        (128, 10, "orthogonal"),
        (1024, 20, "sobol"),
        (4096, 32, "sobol"),
        (64, 100, "orthogonal"),
        (2048, 100, "orthogonal"),
        (100_000, 100, "orthogonal"),
        (16, 100, "iid"),
        (256, 500, "orthogonal"),
        (1024, 1000, "iid"),
        (1024, 10_000, "iid"),
    ],
)
def test_auto_takes_the_sampler_that_its_docstring_names(num_samples, dim, expected):
    groups = samplers.auto(num_samples, dim, noise.normal)
    named = getattr(samplers, expected)(num_samples, dim, noise.normal)
    assert groups.size == named.size
    assert groups.draw.__qualname__ == named.draw.__qualname__


def test_importing_esjax_leaves_scipy_stats_alone():
    code = "import sys, esjax; sys.exit('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the structure of a group -----------------------------------------------------------------------


def test_antithetic_pairs_mirror_each_other():
    eps = _draws("antithetic", 4, 3, noise.laplace, num_keys=5)
    np.testing.assert_array_equal(eps[:, 0], -eps[:, 1])


@pytest.mark.parametrize(
    ("num_samples", "dim", "dtype"), [(64, 5, np.float64), (64, 32, np.float32), (16, 200, np.float32)]
)
def test_orthogonal_samples_are_orthogonal(num_samples, dim, dtype):
    eps = _draws("orthogonal", num_samples, dim, noise.normal, num_keys=20, dtype=dtype)
    directions = eps / np.linalg.norm(eps, axis=-1, keepdims=True)
    products = np.einsum("kid,kjd->kij", directions, directions)
    identity = np.broadcast_to(np.eye(eps.shape[1]), products.shape)
    np.testing.assert_allclose(products, identity, atol=50 * np.finfo(dtype).eps)


@pytest.mark.parametrize(("count", "dim"), [(1, 1), (3, 3), (4, 7)])
def test_a_rotation_turns_the_rest_of_each_row_by_the_reflections_of_those_before(count, dim):
    rows = np.random.default_rng(0).normal(size=(count, dim))
    turned, before = [], np.eye(dim)
    for i in range(count):
        x, axis = np.where(np.arange(dim) >= i, rows[i], 0), np.eye(dim)[i]
        v = x + np.copysign(np.linalg.norm(x), x[i]) * axis
        turned.append(before @ x / np.linalg.norm(x))
        before = before @ (np.eye(dim) - 2 * np.outer(v, v) / (v @ v))
    np.testing.assert_allclose(rotations._rotation(jnp.asarray(rows)), turned, atol=1e-12)


ALMOST_PARALLEL = 1 + 1e-3 * np.random.default_rng(0).normal(size=(4, 50))


@pytest.mark.parametrize(
    "rows", [ALMOST_PARALLEL, np.ones((4, 50)), np.zeros((4, 4)), np.diag([1.0, 1.0, 0.0])]
)
def test_a_rotation_is_one_where_rows_are_parallel_or_0(rows):
    basis = np.asarray(rotations._rotation(jnp.asarray(rows, np.float32)))
    rounding = 1e-6 if jax.default_backend() == "cpu" else 5e-6  # a GPU adds up in another order
    np.testing.assert_allclose(basis @ basis.T, np.eye(len(rows)), atol=rounding)


@every_dtype
def test_the_triangular_system_is_that_of_numpy(dtype):
    upper = np.triu(np.random.default_rng(0).normal(size=(9, 9))) + 3 * np.eye(9)
    right = np.random.default_rng(1).normal(size=(9, 4))
    found = rotations._solve_in_turn(jnp.asarray(upper, dtype), jnp.asarray(right, dtype))
    np.testing.assert_allclose(found, np.linalg.solve(upper, right), atol=50 * np.finfo(dtype).eps)


def test_orthogonal_lengths_are_chi_and_independent_of_each_other_and_of_the_directions():
    eps = _draws("orthogonal", 6, 3, noise.normal, num_keys=20_000)
    lengths = np.linalg.norm(eps, axis=-1)
    _assert_mean(lengths**2, 3)  # those of a normal vector
    _assert_mean((lengths**2 - 3) ** 2, 6)
    centred = lengths - lengths.mean(0)
    directions = eps / lengths[..., None]
    _assert_mean(np.stack([centred[:, i] * centred[:, j] for i, j in [(0, 1), (0, 2), (1, 2)]], -1), 0)
    for i in range(3):
        for j in range(3):
            _assert_mean(centred[:, i, None] * directions[:, j] ** 2, 0)


@pytest.mark.parametrize("num_samples", [12, 101])
def test_latin_hypercube_visits_every_stratum_once(num_samples):
    u = _draws("latin_hypercube", num_samples, 3, UNIFORM, num_keys=4000 if num_samples == 12 else 5)
    size = u.shape[1]
    strata = np.sort(np.floor(u * size), axis=1)
    np.testing.assert_array_equal(strata, np.broadcast_to(np.arange(size)[:, None], strata.shape))


def test_latin_hypercube_permutes_each_coordinate_by_itself_and_jitters_each_point():
    u = _draws("latin_hypercube", 12, 3, UNIFORM, num_keys=4000)
    strata = np.floor(u * 6)
    jitter = u * 6 - strata - 0.5
    centred = strata - 2.5
    _assert_mean(centred[:, :, 0] * centred[:, :, 1], 0)
    _assert_mean(jitter[:, 0] * jitter[:, 1], 0)
    _assert_mean(jitter[:, :, 0] * jitter[:, :, 2], 0)
    _assert_mean(jitter * centred, 0)
    orders = np.unique(strata[:, :, 1], axis=0)
    assert len(orders) > 700  # of 720; each is missed with probability e^-5.6


@every_dtype
def test_sobol_stratifies_every_coordinate_and_every_aligned_block(dtype):
    u = _draws("sobol", 64, 20, UNIFORM, num_keys=5, dtype=dtype)
    for size in (32, 8, 4):
        blocks = u.reshape(-1, size, 20)
        strata = np.sort(np.floor(blocks * size), axis=1)
        np.testing.assert_array_equal(strata, np.broadcast_to(np.arange(size)[:, None], strata.shape))


def test_sobol_is_a_net_in_its_first_two_coordinates():
    """A (0, m, 2)-net: one point in each of the 2^m rectangles of sides 2^-k and 2^(k-m), for all k."""
    log2_size = 5
    u = _draws("sobol", 64, 20, UNIFORM, num_keys=5)
    for k in range(log2_size + 1):
        columns = np.floor(u[..., 0] * 2**k)
        rows = np.floor(u[..., 1] * 2 ** (log2_size - k))
        cells = np.sort(columns * 2 ** (log2_size - k) + rows, axis=1)
        np.testing.assert_array_equal(cells, np.broadcast_to(np.arange(2**log2_size), cells.shape))


@pytest.mark.parametrize(("log2_size", "dim"), [(0, 3), (1, 3), (6, 5), (3, 300)])
def test_sobol_without_its_scramble_is_scipys(log2_size, dim):
    directions = jnp.asarray(sobol_points.direction_numbers(log2_size, dim))
    points = np.asarray(sobol_points.span(jnp.zeros(dim, np.uint32), directions)) / 2**log2_size
    expected = qmc.Sobol(dim, scramble=False).random_base2(log2_size)
    assert {tuple(row) for row in points} == {tuple(row) for row in expected}


def test_sobol_scramble_is_a_random_triangular_matrix_and_a_random_shift():
    """The difference of two points loses the shift: the matrix leaves its top digit, randomises the rest."""
    u = _draws("sobol", 16, 3, UNIFORM, num_keys=2000, dtype=np.float32)
    integers = np.floor(u * 2**23).astype(np.int64)
    np.testing.assert_array_equal(integers + 0.5, u.astype(np.float64) * 2**23)
    difference = integers[:, 0] ^ integers[:, 1]
    digits = (difference[..., None] >> np.arange(22, -1, -1)) & 1
    assert (digits[..., 0] == 1).all()
    _assert_mean(digits[..., 1:], 0.5)
    shift_digits = (integers[:, 0, :, None] >> np.arange(22, -1, -1)) & 1
    _assert_mean(shift_digits, 0.5)
    _assert_mean((2 * digits[:, 0, 1:] - 1) * (2 * digits[:, 1, 1:] - 1), 0)


# --- in `smooth` ------------------------------------------------------------------------------------


def _steps_and_a_linear_map(x):
    return jnp.where(x > 0, 1.0, 0.0) @ jnp.array([1.0, -2.0, 0.5]) + x @ jnp.array([0.5, 1.0, 2.0]) + 1


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("baseline", ["none", "leave_one_out"])
def test_gradients_are_unbiased(name, baseline):
    """Ten samples in groups of three, five and four: the last one is cut short where it does not fit."""
    x, sigma = np.array([0.2, -0.3, 0.1]), 0.7
    smoothed = esjax.smooth(
        _steps_and_a_linear_map,
        sigma=sigma,
        num_samples=10,
        sampler=getattr(samplers, name),
        baseline=getattr(esjax.baselines, baseline),
    )
    keys = jax.random.split(jax.random.key(11), 4000)
    gradients = jax.jit(jax.vmap(jax.grad(smoothed, argnums=1), (0, None)))(keys, jnp.asarray(x))
    of_steps = np.array([1.0, -2.0, 0.5]) * stats.norm.pdf(x / sigma) / sigma
    _assert_mean(np.asarray(gradients), of_steps + np.array([0.5, 1.0, 2.0]))


@pytest.mark.parametrize("name", GROUPED)
def test_chunks_do_not_change_the_draws(name):
    def value(chunk_size):
        smoothed = esjax.smooth(
            lambda x: jnp.sort(x) @ x,
            sigma=1.0,
            num_samples=10,
            sampler=getattr(samplers, name),
            chunk_size=chunk_size,
        )
        return jax.jit(smoothed)(jax.random.key(0), jnp.arange(4.0))

    np.testing.assert_allclose(value(None), value(1), rtol=1e-12)
