"""Credit: gradients stay unbiased, against closed forms; they are the sums that are promised, and less noisy.

Every block below is made of steps, so that its smoothed value is a polynomial in p_i = Φ(x_i / σ_i).
"""

import json
import os
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from jax.sharding import NamedSharding, PartitionSpec
from scipy import sparse

import esjax
from esjax import credit
from esjax.smoothing import _credit

DIM = 6
X = jnp.array([0.3, -0.4, 0.1, 0.6, -0.2, 0.5])
W = jnp.array([0.5, -0.7, 0.9, 1.2, -0.3, 0.8])
SCALES = jnp.array([0.8, 0.6, 1.1, 0.7, 0.9, 1.0])
SIGMA = 0.8
SLOPES = jnp.array([1.0, -0.5, 1.5, 0.7, 2.0, -1.2])  # of the loss, in the values


# --- blocks, and their smoothed values ---------------------------------------------------------------


def _step(x):
    return jnp.where(x > 0, 1.0, 0.0)


def _at_least_two(a, b, c):
    return a * b + a * c + b * c - 2 * a * b * c


def _is_odd(chances):
    """P(an odd number of independent bits is 1), of the bits up to each."""
    return (1 - jnp.cumprod(1 - 2 * chances)) / 2


def _median(x, w):
    rows = jnp.stack([x[:-2], x[1:-1], x[2:]])
    return jnp.mean(w[:4] * _step(jnp.median(rows, 0)))


def _rewards(x, w):
    """Three rewards of two actions each, of which each reads all actions before it."""
    odd = jnp.cumsum(_step(x))[1::2] % 2
    return w[:3] * odd


def _pairs(x, w):
    return jnp.prod(_step(x.reshape(3, 2)), axis=1) * w[:3]


def _largest(x, w):
    return w[0] * _step(jnp.sort(x)[-1])


def _two(x, w):
    return {"a": _step(x) @ w, "b": _step(x[:3]) * _step(x[3:])}


def _with_args(x, w):
    return jnp.exp(w[0]) * jnp.where(x > 0, w**2, w).sum() + w @ w


def _rounded(chance, w, x, sigma):
    del chance, w
    halves, sigma = jnp.arange(8.0)[:, None] + 0.5, sigma[None]
    up, down = norm.cdf((x[None] - halves) / sigma), norm.cdf((-x[None] - halves) / sigma)
    return (up - down).sum()


BLOCKS = {  # block, credit, smoothed value as a function of chances, w, x and σ (DIM,)
    "count": (lambda x, w: jnp.sum(x > 0, dtype=x.dtype), credit.auto, lambda p, w, *_: p.sum()),
    "rounding": (lambda x, w: jnp.round(x).sum(), credit.auto, _rounded),
    "weighted": (lambda x, w: _step(x) @ w, credit.auto, lambda p, w, *_: p @ w),
    "median": (
        _median,
        credit.traced,
        lambda p, w, *_: jnp.mean(w[:4] * _at_least_two(p[:-2], p[1:-1], p[2:])),
    ),
    "vector": (
        lambda x, w: jnp.where(x > 0, w**2, w),
        credit.auto,
        lambda p, w, *_: p * w**2 + (1 - p) * w,
    ),
    "rewards": (_rewards, credit.declared(credit.causal), lambda p, w, *_: w[:3] * _is_odd(p)[1::2]),
    "pairs": (
        _pairs,
        credit.declared(credit.blocks(2)),
        lambda p, w, *_: p.reshape(3, 2).prod(1) * w[:3],
    ),
    "largest": (_largest, credit.traced, lambda p, w, *_: w[0] * (1 - jnp.prod(1 - p))),
    "two": (
        _two,
        credit.auto,
        lambda p, w, *_: {"a": p @ w, "b": p[:3] * p[3:]},
    ),
    "args": (
        _with_args,
        credit.auto,
        lambda p, w, *_: jnp.exp(w[0]) * (p * w**2 + (1 - p) * w).sum() + w @ w,
    ),
}
READS = {  # what the terms of these read
    "count": np.eye(DIM, dtype=bool),
    "median": sum(np.eye(4, DIM, k) for k in range(3)) > 0,
}


def _loss(values):
    """A loss with slopes of its own in all values."""
    flat = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(values)])
    return flat @ SLOPES[: flat.size]


def _smooth(name, num_samples=8, **options):
    block, its_credit, _ = BLOCKS[name]
    options = {"credit": its_credit, "sigma": SIGMA, "sampler": esjax.samplers.iid} | options
    return esjax.smooth(block, num_samples=num_samples, **options)


def _exact_loss(name):
    def loss(x, sigma, w):
        sigma = jnp.broadcast_to(sigma, x.shape)
        return _loss(BLOCKS[name][2](norm.cdf(x / sigma), w, x, sigma))

    return loss


def _estimated_loss(smoothed):
    return lambda key: lambda x, sigma, w: _loss(smoothed(key, x, w, sigma=sigma))


def _ones_like(points):
    """A direction without symmetry."""
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=jnp.shape(leaf)), jnp.float32), points)


def _first(loss, points):
    return jax.value_and_grad(loss, (0, 1, 2))(*points)


def _second(loss, points):
    """The Hessian in x, σ and args times a direction, by `jax.grad` of `jax.grad`."""
    directions = _ones_like(points)

    def along(*points):
        gradients = jax.grad(loss, (0, 1, 2))(*points)
        return sum(jnp.vdot(g, d) for g, d in zip(gradients, directions, strict=True))

    return jax.grad(along, (0, 1, 2))(*points)


def _draws(function, num_keys=4000):
    keys = jax.random.split(jax.random.PRNGKey(5), num_keys)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), jax.jit(jax.vmap(function))(keys))


def _assert_mean(draws, truth):
    for leaf, exact in zip(*map(jax.tree.leaves, (draws, truth)), strict=True):
        error = np.maximum(leaf.std(0) / len(leaf) ** 0.5, 2e-6)
        z = (leaf.mean(0) - np.asarray(exact)) / error
        assert np.abs(z).max() < 4, z


def _quietly(function, *args):
    """Without the warning of `traced` where everything reads everything, which a test below asks for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="credit=traced finds")
        return function(*args)


def _assert_unbiased(name, transforms, points, num_keys=4000, **options):
    loss, exact = _estimated_loss(_smooth(name, **options)), _exact_loss(name)

    def derivatives(loss):
        return [transform(loss, each) for transform in transforms for each in points]

    draws = _quietly(_draws, lambda key: derivatives(loss(key)), num_keys)
    _assert_mean(draws, jax.jit(lambda: derivatives(exact))())


BOTH_SIGMAS = [(X, jnp.float32(SIGMA), W), (X, SCALES, W)]


# --- unbiased ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BLOCKS)
def test_value_and_gradients_in_x_and_sigma_and_args(name):
    _assert_unbiased(name, [_first], BOTH_SIGMAS)


@pytest.mark.parametrize("name", ["median", "two", "args", "rewards"])
def test_hessian_products(name):
    _assert_unbiased(name, [_second], BOTH_SIGMAS, 8000)


def test_hessians():
    smoothed, exact = _smooth("pairs"), _exact_loss("pairs")

    def hessian(loss):
        return jax.hessian(loss)(X, SIGMA, W)

    truth = jax.jit(lambda: hessian(exact))()
    _assert_mean(_draws(lambda key: hessian(_estimated_loss(smoothed)(key)), 8000), truth)


@pytest.mark.parametrize("name", ["args", "two"])  # one pass, and two
@pytest.mark.parametrize("sampler", ["antithetic", "orthogonal", "sobol"])
def test_samplers(name, sampler):
    drawn = getattr(esjax.samplers, sampler)
    _assert_unbiased(name, [_first, _second], BOTH_SIGMAS[1:], 3000, num_samples=24, sampler=drawn)


@pytest.mark.parametrize("name", ["args", "two"])
@pytest.mark.parametrize("baseline", ["at_input", "none"])
def test_baselines(name, baseline):
    chosen = getattr(esjax.baselines, baseline)
    _assert_unbiased(name, [_first, _second], BOTH_SIGMAS[1:], baseline=chosen)


def test_a_control_variate():
    """c is the block with a smooth end, of which the mean is x · w."""
    block, _, _ = BLOCKS["weighted"]
    smoothed = esjax.smooth(
        block,
        sigma=SIGMA,
        num_samples=16,
        credit=credit.auto,
        control=(lambda x, w: x @ w / 2, lambda x, sigma, w: x @ w / 2),
    )
    loss, exact = _estimated_loss(smoothed), _exact_loss("weighted")
    draws = _draws(lambda key: _first(loss(key), BOTH_SIGMAS[0]))
    _assert_mean(draws, jax.jit(lambda: _first(exact, BOTH_SIGMAS[0]))())


@pytest.mark.parametrize("chosen", ["auto", "declared"])
def test_discarded_samples(chosen):
    """The last coordinate says which samples are faulty, and nothing else: all others are unbiased."""

    def block(x, w):
        each = jnp.where(x[-1] > 0.9, jnp.nan, w[:-1] * _step(x[:-1]))
        return each.mean() if chosen == "auto" else each

    def exact(x, w):
        each = w[:-1] * norm.cdf(x[:-1] / SIGMA)
        return each.mean() if chosen == "auto" else each @ SLOPES[:-1]

    reads = np.append(np.eye(DIM - 1, dtype=bool), np.ones((DIM - 1, 1), bool), axis=1)
    given = credit.auto if chosen == "auto" else credit.declared(reads)
    smoothed = esjax.smooth(block, sigma=SIGMA, num_samples=16, credit=given, discard=jnp.isnan)

    def loss(x, w, key):
        values = smoothed(key, x, w)
        return values if chosen == "auto" else values @ SLOPES[:-1]

    def of(loss):
        directions = jnp.append(SLOPES[:-1], 0.0)

        def along(x, w):
            value, (in_x, in_w) = jax.value_and_grad(loss, (0, 1))(x, w)
            return in_x @ directions, (value, in_x[:-1], in_w[:-1])

        (second, mixed), first = jax.grad(along, (0, 1), has_aux=True)(X, W)
        return *first, second[:-1], mixed[:-1]

    draws = _draws(lambda key: of(lambda x, w: loss(x, w, key)), 8000)
    _assert_mean(draws, jax.jit(lambda: of(exact))())


# --- the very sums that are promised -----------------------------------------------------------------


def _terms_by_hand(name, z, w):
    """Terms (N, T) in NumPy, their slopes c (T,) and what they read."""
    bits = (z > 0).astype(np.float64)
    if name == "count":
        return bits, np.ones(DIM), READS[name]
    rows = np.stack([z[:, k : k + 4] for k in range(3)])
    return (np.median(rows, 0) > 0).astype(np.float64), w[:4] / 4, READS[name]


@pytest.mark.parametrize("baseline", ["leave_one_out", "at_input", "none"])
@pytest.mark.parametrize("name", READS)
def test_gradient_and_hessian_are_the_sums_over_what_reads(name, baseline):
    """Against loops in NumPy over the same draws: other sums may be unbiased, too, and are not these."""
    num_samples, key = 20, jax.random.PRNGKey(4)
    smoothed = _smooth(name, num_samples, baseline=getattr(esjax.baselines, baseline), chunk_size=7)
    eps = np.stack([jax.random.normal(jax.random.fold_in(key, n), (1, DIM))[0] for n in range(num_samples)])
    eps = eps.astype(np.float64)
    terms, slopes, reads = _terms_by_hand(name, np.asarray(X) + SIGMA * eps, np.asarray(W))
    if baseline == "leave_one_out":
        weights = terms - (terms.sum(0) - terms) / (num_samples - 1)
    else:
        at_input = _terms_by_hand(name, np.asarray(X)[None], np.asarray(W))[0]
        weights = terms - at_input * (baseline == "at_input")
    weighted = weights * slopes
    gradient = ((weighted @ reads) * eps).sum(0) / (num_samples * SIGMA)
    in_sigma = ((weighted @ reads) * (eps**2 - 1)).sum() / (num_samples * SIGMA)
    squares = eps[:, :, None] * eps[:, None, :] - np.eye(DIM)
    read_both = np.einsum("nt,ti,tj->nij", weighted, reads * 1.0, reads * 1.0)
    hessian = (read_both * squares).sum(0) / (num_samples * SIGMA**2)

    def first(x, sigma):
        found = jax.grad(lambda x, sigma: smoothed(key, x, W, sigma=sigma), (0, 1))(x, sigma)
        return found[0], found

    found_hessian, found = jax.jit(jax.jacfwd(first, has_aux=True))(X, SIGMA)
    np.testing.assert_allclose(found[0], gradient, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], in_sigma, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found_hessian, hessian, rtol=1e-4, atol=2e-5)


def test_samples_are_discarded_by_their_values_and_not_by_their_terms():
    """Counts above 3 are left out, though no term is above 1; against a loop in NumPy over those kept."""
    key, num_samples = jax.random.PRNGKey(4), 40
    smoothed = _smooth("count", num_samples, discard=lambda values: values > 3.5)
    value, gradient = jax.jit(jax.value_and_grad(smoothed, 1))(key, X, W)
    eps = np.stack([jax.random.normal(jax.random.fold_in(key, n), (1, DIM))[0] for n in range(num_samples)])
    terms = (np.asarray(X) + SIGMA * eps > 0).astype(np.float64)
    kept = terms.sum(1) <= 3
    eps, terms = eps[kept], terms[kept]
    weights = terms - (terms.sum(0) - terms) / (len(terms) - 1)
    assert 2 < len(terms) < num_samples
    np.testing.assert_allclose(value, terms.sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(gradient, (weights * eps).mean(0) / SIGMA, rtol=1e-4, atol=1e-5)


def test_hessians_do_not_see_terms_that_a_mask_leaves_out():
    """Where the mask is false, x is perturbed to negative numbers, too, whose logarithms are NaN."""
    mask = jnp.arange(DIM) % 2 == 0

    def hessian(elsewhere):
        def block(x, mask):
            each = jnp.where(mask, _step(x), elsewhere(x))
            return jnp.where(mask, each, 0).sum() * jnp.arange(1.0, 3)

        smoothed = esjax.smooth(block, sigma=SIGMA, num_samples=32, sampler=esjax.samplers.iid)
        return jax.jit(jax.hessian(lambda x: smoothed(jax.random.key(4), x, mask).sum()))(X)

    found = hessian(jnp.log)
    np.testing.assert_allclose(found, hessian(jnp.zeros_like), rtol=1e-5, atol=1e-6)
    assert np.abs(np.diag(found)[::2]).min() > 0


def test_a_report_tells_the_pairs_kept_and_weighs_terms_with_their_slopes():
    """The second term counts a thousandfold, so that samples in which it is 1 carry the gradient."""

    def block(x):
        return _step(x) @ jnp.array([1e-3, 1.0])

    x, options = jnp.array([0.0, 3.0]), {"sigma": 1.0, "num_samples": 4096, "baseline": esjax.baselines.none}

    def report_of(block, **more):
        return jax.jit(esjax.smooth(block, **options, **more).with_info)(jax.random.key(0), x)[1]

    report, alone = report_of(block), report_of(lambda x: _step(x[1]))
    assert report.share_credited == 0.5 and "credited  50.00%" in str(report)
    np.testing.assert_allclose(report.effective_samples, alone.effective_samples, rtol=1e-3)
    without = report_of(block, credit=credit.none)
    assert without.share_credited == 1 and "credited" not in str(without)


def _as_without(block):
    """Asserts that values and gradients in x have the means of those without credit, over 400 keys."""

    def draws(chosen):
        smoothed = esjax.smooth(block, sigma=SIGMA, num_samples=64, credit=chosen, sampler=esjax.samplers.iid)
        return jax.jit(jax.vmap(jax.value_and_grad(smoothed, 1), (0, None)))(
            jax.random.split(jax.random.key(1), 400), X
        )

    for found, wanted in zip(draws(credit.auto), draws(credit.none), strict=True):
        found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
        error = np.sqrt((found.var(0) + wanted.var(0)) / 400)
        np.testing.assert_array_less(np.abs(found.mean(0) - wanted.mean(0)), 4.5 * error + 1e-6)


def _hash(dtype, factor):
    def block(x):
        whole = (jnp.floor(x * 4) + 100).astype(dtype) * jnp.asarray(factor, dtype)
        return (whole.astype(jnp.float32) * 2.0**-31).sum()

    return block


NOT_LINEAR = {
    "rounded to bfloat16": lambda x: jax.lax.reduce_precision(1000 + x, 8, 7).sum(),
    "uint32 that wrap": _hash(jnp.uint32, 2**31 + 12345),
    "int32 that wrap": _hash(jnp.int32, 1103515245),
}


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_what_rounds_or_wraps_each_number_is_no_linear_end(name):
    _as_without(NOT_LINEAR[name])


def test_slopes_that_are_0_have_derivatives():
    """∂²F/∂x∂λ of λ Σ round(x) at λ = 0, and of Σ w round(x) at w = 0: the slopes of E[round]."""
    x, options = jnp.linspace(-1.0, 2.0, 6), {"sigma": 0.5, "num_samples": 4096}
    scaled = esjax.smooth(lambda x, lam: lam * jnp.round(x).sum(), **options)
    found = jax.jit(jax.grad(lambda lam: jax.grad(scaled, 1)(jax.random.key(0), x, lam).sum()))(0.0)
    weighted = esjax.smooth(lambda x, w: (w * jnp.round(x)).sum(), **options)
    matrix = jax.jit(jax.jacrev(lambda w: jax.grad(weighted, 1)(jax.random.key(0), x, w)))(jnp.zeros(6))
    slopes = jax.jit(jax.vmap(jax.grad(lambda x: norm.cdf((x - jnp.arange(-9.5, 10)) / 0.5).sum())))(x)
    np.testing.assert_allclose(matrix, np.diag(slopes), atol=0.1)
    np.testing.assert_allclose(found, slopes.sum(), atol=0.3)


def test_a_division_that_a_mask_guards_has_no_slopes_of_1_over_0():
    w = jnp.array([0.0, 1.0, 2.0, 0.0, 3.0, 0.0])
    smoothed = esjax.smooth(
        lambda x, w: jnp.where(w > 0, jnp.round(x) / w, 0.0).sum(), sigma=SIGMA, num_samples=64
    )
    found = jax.jit(jax.grad(lambda x, s: smoothed(jax.random.key(0), x, w, sigma=s), (0, 1)))(X, SIGMA)
    assert np.isfinite(found[0]).all() and np.isfinite(found[1])
    np.testing.assert_array_equal(found[0][::3], 0)


def test_one_pass_and_two_give_the_same_gradient():
    key = jax.random.PRNGKey(4)
    smoothed, twice = _smooth("weighted", 20), _smooth("weighted", 20, discard=jnp.isnan)
    one, two = (jax.jit(jax.grad(each, (1, 2)))(key, X, W) for each in (smoothed, twice))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, two)


@pytest.mark.parametrize("name", ["count", "vector"])
def test_ranks_are_of_values_and_not_of_terms(name):
    """The terms of a sum have ranks of their own, which are not those of the value: there is no peeling."""
    key, ranks = jax.random.PRNGKey(4), esjax.baselines.centered_rank
    given, without = (_smooth(name, 32, baseline=ranks, credit=each) for each in (credit.auto, credit.none))
    found, plain = (np.asarray(jax.jit(jax.jacrev(each, 1))(key, X, W)) for each in (given, without))
    if name == "vector":  # each value has its own ranks, and credit
        assert np.all(found[~np.eye(DIM, dtype=bool)] == 0)
        found, plain = np.diag(found), np.diag(plain)
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dim", [100, 1000])
def test_the_error_does_not_grow_with_the_length_of_x(dim):
    """Relative squared error of the gradient of a threshold count, N = 256."""
    x = jax.random.normal(jax.random.key(dim), (dim,))

    def error(chosen, num_repeats):
        smoothed = esjax.smooth(
            lambda x: jnp.mean(_step(x)),
            sigma=0.5,
            num_samples=256,
            credit=chosen,
            sampler=esjax.samplers.iid,
        )
        exact = np.asarray(norm.pdf(x / 0.5) / 0.5) / dim
        keys = jax.random.split(jax.random.PRNGKey(0), num_repeats)
        found = jax.jit(lambda keys: jax.lax.map(lambda key: jax.grad(smoothed, 1)(key, x), keys))(keys)
        return ((np.asarray(found) - exact) ** 2).sum(1).mean() / (exact**2).sum()

    with_credit, without = error(credit.auto, 30), error(credit.none, 10)
    assert with_credit < 0.012 and without > 20 * with_credit, (with_credit, without)


# --- every way to call -------------------------------------------------------------------------------


def _all_gradients(smoothed, key=None, x=X):
    key = jax.random.PRNGKey(4) if key is None else key
    return jax.value_and_grad(_estimated_loss(smoothed)(key), (0, 1, 2))(x, SIGMA, W)


def _assert_close(found, wanted, rtol=2e-5, atol=2e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, wanted)


@pytest.mark.parametrize("name", ["args", "two"])
def test_chunks_one_device_and_jit_change_nothing(name):
    whole = jax.jit(lambda: _all_gradients(_smooth(name, 24)))()
    placed = NamedSharding(jax.make_mesh((1,), ("samples",)), PartitionSpec("samples"))
    for options in ({"chunk_size": 5}, {"sharding": placed}):
        smoothed = _smooth(name, 24, **options)
        _assert_close(jax.jit(lambda smoothed=smoothed: _all_gradients(smoothed))(), whole)


def test_derivatives_outside_of_jit_with_sharding():
    """There, what a derivative rule has saved is typed as placed on the mesh."""
    placed = NamedSharding(jax.make_mesh((1,), ("samples",)), PartitionSpec("samples"))

    def hessian(sharding):
        smoothed = _smooth("vector", 4, discard=jnp.isnan, sharding=sharding)
        loss = lambda w: (smoothed(jax.random.PRNGKey(4), X, w) ** 2).sum()  # noqa: E731
        return jax.jacrev(jax.grad(loss))(W)

    _assert_close(hessian(placed), hessian(None))


_ON_TWO = """
import json, os, sys
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"
import jax, numpy as np
sys.path.insert(0, sys.argv[1])
import test_credit as t
from jax.sharding import NamedSharding, PartitionSpec
assert len(jax.devices()) == 2
placed = NamedSharding(jax.make_mesh((2,), ("samples",)), PartitionSpec("samples"))
blocks = [t._smooth(name, 24, chunk_size=5, sharding=placed) for name in ("args", "two")]
found = jax.jit(lambda: [t._all_gradients(each) for each in blocks])()
print(json.dumps([np.ravel(leaf).tolist() for leaf in jax.tree.leaves(found)]))
"""


def test_two_devices_change_nothing():
    folder = os.path.dirname(__file__)
    run = subprocess.run(
        [sys.executable, "-c", _ON_TWO, folder], capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    alone = jax.jit(lambda: [_all_gradients(_smooth(name, 24)) for name in ("args", "two")])()
    for found, wanted in zip(json.loads(run.stdout.splitlines()[-1]), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(found, np.ravel(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["args", "two"])
def test_vmap_and_scan_are_loops(name):
    smoothed = _smooth(name, 8)
    keys, xs = jax.random.split(jax.random.PRNGKey(1), 3), jnp.stack([X, -X, 2 * X])

    def one(key, x):
        return _all_gradients(smoothed, key, x)

    rows = [jax.jit(one)(key, x) for key, x in zip(keys, xs, strict=True)]
    loop = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    _assert_close(jax.jit(jax.vmap(one))(keys, xs), loop)
    _assert_close(jax.jit(lambda *each: jax.lax.map(lambda each: one(*each), each))(keys, xs), loop)


@pytest.mark.parametrize(
    ("name", "sampler"), [("median", "iid"), ("two", "antithetic"), ("rewards", "iid"), ("vector", "iid")]
)
def test_predicted_errors_are_those_of_repeated_gradients(name, sampler):
    smoothed = _smooth(name, 64, sampler=getattr(esjax.samplers, sampler))

    def one(key):
        gradient, report = jax.jacrev(smoothed.with_info, 1, has_aux=True)(key, X, W)
        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(gradient)]), report

    gradients, reports = _draws(one, 1000)
    squares = ((gradients - gradients.mean(0)) ** 2).sum(1) * 1000 / 999
    gaps = reports.gradient_error**2 - squares
    assert abs(gaps.mean()) < min(4 * gaps.std() / 1000**0.5, 0.1 * squares.mean())
    np.testing.assert_allclose(reports.gradient_norm, np.linalg.norm(gradients, axis=1), rtol=1e-3)


def test_a_gradient_through_with_info_is_that_of_the_call():
    key = jax.random.PRNGKey(2)
    for name in ("args", "count"):
        smoothed = _smooth(name, 16)
        info, _ = jax.jit(jax.grad(smoothed.with_info, 1, has_aux=True))(key, X, W)
        _assert_close(info, jax.jit(jax.grad(smoothed, 1))(key, X, W))


def test_coordinates_that_are_infinite_have_no_gradient_and_take_none_away():
    key, x = jax.random.PRNGKey(2), jnp.append(X, jnp.array([-jnp.inf, jnp.inf]))
    smoothed = esjax.smooth(lambda x: jnp.mean(jnp.sign(x)), sigma=SIGMA, num_samples=64, credit=credit.auto)

    @jax.jit
    def derivatives(x, sigma):
        in_sigma = jax.grad(lambda sigma: smoothed(key, x, sigma=sigma))(sigma)
        report = smoothed.with_info(key, x)[1]
        return jax.grad(smoothed, 1)(key, x), in_sigma, jax.hessian(smoothed, 1)(key, x), report

    found, in_sigma, hessian, report = derivatives(x, SIGMA)
    assert np.all(found[-2:] == 0) and np.all(found[:-2] > 0)
    assert np.isfinite(in_sigma) and np.isfinite(hessian).all() and np.all(hessian[-2:] == 0)
    np.testing.assert_allclose(report.gradient_norm, jnp.linalg.norm(found), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_trees_are_read_leaf_after_leaf(dtype):
    """Two leaves and two results, each of which reads one: the derivatives across are 0 exactly."""
    key = jax.random.PRNGKey(2)
    tree = {"a": X[:4].astype(dtype).reshape(2, 2), "b": X[4:].astype(dtype)}
    smoothed = esjax.smooth(
        lambda x: (jnp.sum(x["b"] > 0, dtype=jnp.float32), jnp.where(x["a"] > 0, 1.0, 0.0)),
        sigma=SIGMA,
        num_samples=256,
        sampler=esjax.samplers.iid,
        credit=credit.auto,
    )
    of_b, of_a = jax.jit(jax.jacrev(smoothed, 1))(key, tree)
    assert not np.any(np.asarray(of_b["a"])) and not np.any(np.asarray(of_a["b"]))
    own = np.asarray(of_a["a"], np.float32).reshape(4, 4)
    assert np.all(own[~np.eye(4, dtype=bool)] == 0)
    assert {leaf.dtype for leaf in jax.tree.leaves((of_a, of_b))} == {jnp.dtype(dtype)}
    found = np.append(np.diag(own), np.asarray(of_b["b"], np.float32))
    exact = np.asarray(norm.pdf(X / SIGMA) / SIGMA)
    assert np.abs(found - exact).max() < 4 / (SIGMA * 256**0.5)  # |f − b| ≤ 1, so each s (f − b) / σ has less


def test_in_float64():
    with jax.enable_x64():
        key, x, w = jax.random.PRNGKey(2), np.asarray(X, np.float64), np.asarray(W, np.float64)
        smoothed = _smooth("median", 32, sigma=0.5)
        found = jax.jit(jax.grad(smoothed, (1, 2)))(key, x, w)
        assert all(leaf.dtype == jnp.float64 for leaf in found)
        eps = np.stack([jax.random.normal(jax.random.fold_in(key, n), (1, DIM))[0] for n in range(32)])
        terms, slopes, reads = _terms_by_hand("median", x + 0.5 * eps, w)
        weights = (terms - (terms.sum(0) - terms) / 31) * slopes
        np.testing.assert_allclose(found[0], ((weights @ reads) * eps).mean(0) / 0.5, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(found[1][:4], terms.mean(0) / 4, rtol=1e-12)


def test_declared_credit_of_a_program_on_the_host():
    key, on_host = jax.random.PRNGKey(2), esjax.host.wrap(lambda x: np.rint(4 * x), jnp.zeros(DIM))
    options = {"sigma": SIGMA, "num_samples": 16, "credit": credit.declared(credit.elementwise)}
    found, traced = (
        jax.jit(jax.jacrev(esjax.smooth(f, **options), 1))(key, X)
        for f in (on_host, lambda x: jnp.rint(4 * x))
    )
    np.testing.assert_allclose(found, traced, rtol=1e-6)
    assert np.all(np.asarray(found)[~np.eye(DIM, dtype=bool)] == 0) and np.all(np.diag(found) != 0)


# --- patterns ----------------------------------------------------------------------------------------


def _rows(text):
    return np.array([[mark == "x" for mark in row] for row in text.split()])


PATTERNS = {
    "elementwise": (credit.elementwise, "x.. .x. ..x"),
    "blocks": (credit.blocks(2), "xx.. xx.. xx.. ..xx ..xx ..xx"),
    "blocks, fewer values": (credit.blocks(3), "xxx... ...xxx"),
    "window before": (credit.windows(1, 0), "x... xx.. .xx. ..xx"),
    "window after": (credit.windows(0, 2), "xxx.. .xxx. ..xxx ...xx ....x"),
    "window of all": (credit.windows(9, 9), "xxx xxx xxx"),
    "causal": (credit.causal, "xx.... xxxx.. xxxxxx"),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_by_hand(name):
    made, text = PATTERNS[name]
    rows = _rows(text)
    found = made(*rows.shape)
    assert found.dtype == bool and found.nnz == rows.sum()
    np.testing.assert_array_equal(found.toarray(), rows)


def _near_diagonals(rng, shape):
    offsets = np.arange(shape[1])[None] - np.arange(shape[0])[:, None]
    return np.isin(offsets, [-5, 0, 3, 4]) & (rng.random(shape) < 0.8)


@pytest.mark.parametrize("density", [0.0, 0.02, 0.1, 0.5, 1.0, "diagonals"])
@pytest.mark.parametrize("shape", [(7, 40), (40, 7), (40, 40)])
def test_sums_along_pairs_are_products_with_the_pattern(shape, density):
    """Few diagonals are shifted, short rows gathered, long ones multiplied; a row may be empty, or all."""
    rng = np.random.default_rng(0)
    pattern = _near_diagonals(rng, shape) if density == "diagonals" else rng.random(shape) < density
    pattern[2], pattern[:, 3] = False, False
    sums = _credit.readers(sparse.csr_array(pattern))
    by_term, by_coordinate = rng.normal(size=(2, 3, shape[0])), rng.normal(size=(2, 3, shape[1]))
    for found, exact in (
        (sums.by_coordinate(jnp.asarray(by_term, jnp.float32)), by_term @ pattern),
        (sums.by_term(jnp.asarray(by_coordinate, jnp.float32)), by_coordinate @ pattern.T),
    ):
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5)
    assert sums.num_pairs == pattern.sum()
    assert set(zip(*(each.tolist() for each in sums.pairs), strict=True)) == set(
        zip(*(each.tolist() for each in np.nonzero(pattern)), strict=True)
    )


def test_check_finds_pairs_that_are_missing_and_none_where_none_is():
    key = jax.random.key(0)

    def neighbours(x, w):
        return _step(x) - _step(jnp.roll(x, 1)) * w

    reads = np.eye(DIM, dtype=bool) | np.roll(np.eye(DIM, dtype=bool), -1, axis=1)
    assert credit.check(neighbours, X, credit.declared(reads), key, W, num_tries=24) == []
    assert credit.check(neighbours, X, credit.traced, key, W, num_tries=24) == []
    assert credit.check(neighbours, X, reads, key, W, num_tries=24) == []
    assert credit.check(neighbours, X, credit.none, key, W, num_tries=24) == []
    missing = [(0, 5), (1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]
    assert credit.check(neighbours, X, credit.declared(credit.elementwise), key, W) == missing
    few = credit.check(neighbours, X, credit.declared(credit.elementwise), key, W, num_tries=1)
    assert set(few) < set(missing)


def test_check_tries_each_coordinate_before_any_a_second_time():
    """Each value jumps wherever its own coordinate moves."""
    pattern = credit.declared(np.zeros((DIM, DIM), bool))
    found = credit.check(
        lambda x: {"a": x["a"], "b": x["b"]}, {"a": X[:2], "b": X[2:]}, pattern, jax.random.key(0)
    )
    assert found == [(i, i) for i in range(DIM)]
    found = credit.check(lambda x: x, X, pattern, jax.random.key(1), num_tries=DIM)
    assert found == [(i, i) for i in range(DIM)]


def test_a_missing_pair_makes_the_gradient_wrong_and_a_spare_one_does_not():
    def draws(reads):
        chosen = credit.declared(reads)
        return _draws(lambda key: _loss(jax.jacrev(_smooth("pairs", credit=chosen), 1)(key, X, W)[:, 0]))

    exact = jax.jit(
        lambda: _loss(jax.jacrev(lambda x: BLOCKS["pairs"][2](norm.cdf(x / SIGMA), W))(X)[:, 0])
    )()
    right = credit.blocks(2)(3, DIM).toarray()
    more, less = right | (np.arange(DIM) == 0), right & (np.arange(DIM) != 0)
    _assert_mean(draws(more), exact)
    assert np.all(draws(less) == 0) and exact != 0


# --- bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: credit.declared(np.eye(3)), r"reads is float64\[3, 3\]; give booleans"),
        (lambda: credit.declared(np.ones(3, bool)), r"reads is bool\[3\]; give booleans"),
        (lambda: credit.declared(sparse.eye_array(3)), r"reads is float64\[3, 3\]; give booleans"),
        (lambda: credit.declared("auto"), "give booleans"),
        (lambda: credit.blocks(0), "size=0 must be"),
        (lambda: credit.blocks(1.5), r"size=1\.5 must be"),
        (lambda: credit.windows(-1, 0), "before=-1 must be"),
        (lambda: credit.windows(0, -2), "after=-2 must be"),
        (lambda: credit.blocks(4)(6, 6), "size=4 does not divide 6 coordinates and 6 values"),
        (lambda: credit.blocks(2)(4, 6), "size=2 does not divide 6 coordinates and 4 values"),
        (lambda: credit.windows(1, 1)(5, 6), "5 values are not as many as 6 coordinates"),
        (lambda: credit.elementwise(7, 6), "7 values are not as many as 6 coordinates"),
        (lambda: credit.causal(4, 6), "6 coordinates of x are not a multiple of 4 rewards"),
        (
            lambda: esjax.smooth(jnp.sum, sigma=1.0, num_samples=8, credit="auto"),
            r"credit='auto' is not a Credit; pass esjax\.credit\.auto itself",
        ),
        (
            lambda: esjax.smooth(jnp.sum, sigma=1.0, num_samples=8, credit=np.eye(3, dtype=bool)),
            "is not a Credit",
        ),
        (
            lambda: credit.check(jnp.sign, X, credit.auto, jax.random.key(0), num_tries=0),
            "num_tries=0 must be",
        ),
        (lambda: credit.check(jnp.sign, X, credit.auto, jax.random.split(jax.random.key(0))), "key"),
        (
            lambda: credit.check(jnp.sign, X, credit.declared(np.eye(4, dtype=bool)), jax.random.key(0)),
            r"reads has shape \(4, 4\)",
        ),
    ],
)
def test_bad_input_is_refused_with_a_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "reads", [np.eye(4, dtype=bool), np.ones((1, DIM), bool), lambda m, d: np.eye(2, 2) > 0]
)
def test_a_pattern_of_another_shape_is_refused_at_the_call(reads):
    smoothed = esjax.smooth(jnp.sign, sigma=1.0, num_samples=8, credit=credit.declared(reads))
    with pytest.raises(ValueError, match=r"turns 6 coordinates of x into 6 values; give booleans \(6, 6\)"):
        smoothed(jax.random.key(0), X)


def test_traced_warns_where_everything_reads_everything_and_says_what_it_does_not_know():
    def unknown(x):
        return jax.pure_callback(np.sort, jax.typeof(x), x, vmap_method="sequential")

    for block, message in (
        (jnp.sort, r"may read all of x; return"),
        (unknown, r"it met pure_callback, which it does not"),
    ):
        smoothed = esjax.smooth(block, sigma=1.0, num_samples=8, credit=credit.traced)
        with pytest.warns(UserWarning, match=message):
            smoothed(jax.random.key(0), X)


@pytest.mark.parametrize("block", [jnp.sort, jnp.max, lambda x: jnp.prod(_step(x))])
def test_auto_says_nothing_and_is_without_credit_where_it_does_not_pay(block):
    key = jax.random.PRNGKey(0)
    found, plain = (
        jax.jit(jax.jacrev(esjax.smooth(block, sigma=1.0, num_samples=8, credit=each), 1))(key, X)
        for each in (credit.auto, credit.none)
    )
    np.testing.assert_allclose(found, plain, rtol=1e-6)


# --- patterns and blocks at the edge -----------------------------------------------------------------


@pytest.mark.parametrize("num_values", [1, 3])
def test_a_declared_pattern_without_gaps(num_values):
    full = credit.declared(np.ones((num_values, DIM), bool))

    def gradients(chosen):
        smoothed = esjax.smooth(
            lambda x: jnp.arange(1.0, num_values + 1) * _step(x).sum(),
            sigma=SIGMA,
            num_samples=12,
            chunk_size=4,
            credit=chosen,
        )
        key = jax.random.PRNGKey(0)
        return jax.jit(jax.grad(lambda x, sigma: smoothed(key, x, sigma=sigma).sum(), (0, 1)))(X, SIGMA)

    _assert_close(gradients(full), gradients(credit.none))


@pytest.mark.parametrize("last", [-jnp.inf, -3.0])
def test_terms_that_a_mask_among_args_leaves_out(last):
    """The value never sees them; without credit the gradient is finite."""

    def block(x, mask):
        return jnp.where(mask, jnp.round(jnp.log(x[:-1]) - x[1:]), 0.0).sum()

    key, x = jax.random.PRNGKey(0), jnp.array([3.0, 4.0, 3.5, last, last])
    mask = jnp.array([True, True, False, False])
    for chosen in (credit.none, credit.auto):
        smoothed = esjax.smooth(block, sigma=0.1, num_samples=16, credit=chosen)
        value, gradient = jax.jit(jax.value_and_grad(smoothed, 1))(key, x, mask)
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_blocks_of_an_empty_x():
    smoothed = esjax.smooth(
        lambda x: jnp.ones(3), sigma=SIGMA, num_samples=8, credit=credit.declared(credit.blocks(2))
    )
    with pytest.raises(ValueError, match="size=2"):
        smoothed(jax.random.key(0), jnp.zeros(0))


def test_declared_credit_of_a_block_with_effects():
    def block(x):
        jax.debug.callback(lambda _: None, x[0])
        return _step(x)

    smoothed = esjax.smooth(block, sigma=SIGMA, num_samples=8, credit=credit.declared(credit.elementwise))
    found = np.asarray(jax.jit(jax.jacrev(smoothed, 1))(jax.random.PRNGKey(0), X))
    assert np.all(found[~np.eye(DIM, dtype=bool)] == 0)


def test_check_takes_any_sigma():
    with pytest.raises(ValueError, match="sigma"):
        credit.check(_step, X, credit.declared(credit.elementwise), jax.random.key(0), sigma=0.0)
