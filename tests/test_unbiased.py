"""Every noise × sampler × baseline against closed forms and quadrature, in standard errors.

One block of ten outputs stands for five kinds: steps, an argmax, a sort, a quadratic and a linear map, on a
tree of three numbers. Their smoothed values are computed in float64 from SciPy's distributions, and
their derivatives by central differences of those.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import esjax

SIGMA = 0.8
X = np.array([0.3, -0.2, 0.1])
WEIGHTS = np.array([1.0, -2.0, 0.5])
VECTOR = np.array([0.5, -1.0, 1.5, 0.7])  # multiplies Hessians in x and σ
NUM_OUTPUTS = 10
BOUNDED = slice(0, 6)  # outputs with a smoothed value for noise without moments

DISTRIBUTIONS = {
    "normal": stats.norm(),
    "logistic": stats.logistic(),
    "laplace": stats.laplace(),
    "gumbel": stats.gumbel_r(loc=-np.euler_gamma),
    "cauchy": stats.cauchy(),
    "triangular": stats.triang(c=0.5, loc=-1, scale=2),
}
KINKED = {"laplace", "triangular"}
BASELINES = ["none", "at_input", "leave_one_out"]
SAMPLERS = ["iid", "antithetic", "orthogonal", "latin_hypercube", "sobol"]
COMBINATIONS = [
    (noise, sampler)
    for noise in DISTRIBUTIONS
    for sampler in SAMPLERS
    if (noise, sampler) != ("gumbel", "antithetic")
]


def _tree(x):
    return {"a": x[:2], "b": x[2]}


def _outputs(tree):
    x = jnp.append(tree["a"], tree["b"])
    steps = jnp.where(x > 0, 1.0, 0.0)
    hot = jax.nn.one_hot(jnp.argmax(x), 3)
    linear = WEIGHTS.astype(x.dtype) @ x
    return jnp.concatenate([steps, hot, jnp.sort(tree["a"]), jnp.stack([x @ x, linear])])


def _smoothed_exactly(distribution, x, sigma):
    """Returns the ten smoothed outputs in float64."""
    steps = distribution.sf(-x / sigma)
    eps = distribution.ppf((np.arange(20_000) + 0.5) / 20_000)
    hot = [
        np.prod([distribution.cdf((x[k] - x[j]) / sigma + eps) for j in range(3) if j != k], 0).mean()
        for k in range(3)
    ]
    u = np.linspace(0, 60, 12_001)  # E max = ∫ P(max > u) − P(max <= −u) du
    below, above = (
        distribution.cdf((each - x[0]) / sigma) * distribution.cdf((each - x[1]) / sigma) for each in (-u, u)
    )
    largest = np.trapezoid(1 - above - below, u)
    quadratic = x @ x + 3 * sigma**2 * distribution.var()
    return np.array([*steps, *hot, x[0] + x[1] - largest, largest, quadratic, WEIGHTS @ x])


def _differences(function, point, h=1e-3):
    rows = [(function(point + h * e) - function(point - h * e)) / (2 * h) for e in np.eye(len(point))]
    return np.stack(rows, -1)


@cache
def _exact(name):
    distribution = DISTRIBUTIONS[name]

    def at(point):
        return _smoothed_exactly(distribution, point[:3], point[3])

    point = np.append(X, SIGMA)
    return at(point), _differences(at, point)


@cache
def _exact_products(name):
    """Returns the ten outputs' Hessians times VECTOR, (10, 4)."""
    distribution = DISTRIBUTIONS[name]

    def at(point):
        return _smoothed_exactly(distribution, point[:3], point[3])

    def slope(point, h=3e-3):
        return (at(point + h * VECTOR) - at(point - h * VECTOR)) / (2 * h)

    return _differences(slope, np.append(X, SIGMA), h=3e-3)


def _smooth(fun, noise, sampler, baseline, num_samples=8):
    return esjax.smooth(
        fun,
        sigma=SIGMA,
        num_samples=num_samples,
        noise=getattr(esjax.noise, noise),
        sampler=getattr(esjax.samplers, sampler),
        baseline=getattr(esjax.baselines, baseline),
    )


def _draws(function, num_keys):
    keys = jax.random.split(jax.random.PRNGKey(12), num_keys)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), jax.jit(jax.vmap(function))(keys))


def _assert_mean(draws, truth, noise):
    chosen = BOUNDED if noise == "cauchy" else slice(None)
    draws, truth = draws[:, chosen], truth[chosen]
    error = np.maximum(draws.std(0) / len(draws) ** 0.5, 1e-6)
    z = (draws.mean(0) - truth) / error
    assert np.abs(z).max() < 4, z


@pytest.mark.parametrize(("noise", "sampler"), COMBINATIONS)
def test_value_and_gradients_of_scalar_blocks(noise, sampler):
    """The one pass: each output as a block of one value; all baselines in one function, on the last axis.

    (Most of the time goes to compiling.)
    """
    blocks = [_smooth(lambda tree, index: _outputs(tree)[index], noise, sampler, each) for each in BASELINES]

    def value(point, key, index, smoothed):
        return smoothed(key, _tree(point[:3]), index, sigma=point[3])

    def of_output(key, index):
        point = jnp.append(jnp.asarray(X, jnp.float32), SIGMA)
        each = [jax.value_and_grad(value)(point, key, index, smoothed) for smoothed in blocks]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves, -1), *each)

    def all_of(key):
        return jax.vmap(of_output, (None, 0))(key, jnp.arange(NUM_OUTPUTS))

    for draws, truth in zip(_draws(all_of, 8000), _exact(noise), strict=True):
        _assert_mean(draws, truth[..., None], noise)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("sampler", ["iid", "sobol"])
def test_value_and_gradients_of_a_block_with_several_outputs(sampler, baseline):
    """Two passes: values kept, noise drawn again."""
    smoothed = _smooth(_outputs, "normal", sampler, baseline)

    def value(point, key):
        return smoothed(key, _tree(point[:3]), sigma=point[3])

    def all_of(key):
        point = jnp.append(jnp.asarray(X, jnp.float32), SIGMA)
        return value(point, key), jax.jacrev(value)(point, key)

    values, gradients = _draws(all_of, 8000)
    exact_values, exact_gradients = _exact("normal")
    _assert_mean(values, exact_values, "normal")
    _assert_mean(gradients, exact_gradients, "normal")


@pytest.mark.parametrize(("noise", "sampler"), [pair for pair in COMBINATIONS if pair[0] not in KINKED])
def test_hessian_vector_products(noise, sampler):
    """All baselines in one function, on the last axis of draws and z."""
    blocks = [_smooth(lambda tree, index: _outputs(tree)[index], noise, sampler, each) for each in BASELINES]

    def slope(point, key, index, smoothed):
        gradient = jax.grad(lambda point: smoothed(key, _tree(point[:3]), index, sigma=point[3]))(point)
        return gradient @ VECTOR.astype(np.float32)

    def products(key, index):
        point = jnp.append(jnp.asarray(X, jnp.float32), SIGMA)
        return jnp.stack([jax.grad(slope)(point, key, index, smoothed) for smoothed in blocks], -1)

    def all_of(key):
        return jax.vmap(products, (None, 0))(key, jnp.arange(NUM_OUTPUTS))

    _assert_mean(_draws(all_of, 20_000), _exact_products(noise)[..., None], noise)


@pytest.mark.parametrize("noise", sorted(KINKED))
def test_second_derivatives_under_a_density_with_a_kink_are_refused(noise):
    smoothed = _smooth(jnp.sum, noise, "iid", "none")
    with pytest.raises(ValueError, match=f"noise={noise} has first derivatives only"):
        jax.hessian(smoothed, 1)(jax.random.key(0), jnp.ones(2))


def test_third_derivatives_of_a_step():
    smoothed = esjax.smooth(lambda x: jnp.where(x > 0, 1.0, 0.0), sigma=SIGMA, num_samples=16)
    third = jax.grad(jax.grad(jax.grad(lambda x, key: smoothed(key, x))))
    draws = _draws(partial(third, 0.3), 100_000)
    exact = jax.grad(jax.grad(jax.grad(lambda x: jax.scipy.stats.norm.cdf(x / SIGMA))))(0.3)
    assert abs(draws.mean() - exact) < 4 * draws.std() / len(draws) ** 0.5
