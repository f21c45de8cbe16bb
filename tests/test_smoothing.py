"""`smooth` against the algorithm written out as a loop, closed forms, and wrong arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import esjax
from esjax import _sums
from esjax._sampling import Problem


def _step(x):
    return jnp.where(x > 0, 1.0, 0.0)


def _sort_sum(x):
    return jnp.sort(x) @ jnp.arange(float(x.size))


def test_plain_estimator_equals_the_numpy_loop_over_the_same_draws():
    key, num_samples, t, label = jax.random.key(1), 50, 0.25, 2
    logits = np.array([0.3, -0.2, 0.1, 0.4], np.float32)
    smoothed = esjax.smooth(
        esjax.blocks.accuracy,
        sigma=t**0.5,
        num_samples=num_samples,
        sampler=esjax.samplers.iid,
        baseline=esjax.baselines.none,
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
    whole = esjax.smooth(_sort_sum, sigma=1.0, num_samples=10)
    parts = esjax.smooth(_sort_sum, sigma=1.0, num_samples=10, chunk_size=chunk_size)
    for a, b in zip(jax.value_and_grad(whole, 1)(key, x), jax.value_and_grad(parts, 1)(key, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_chunks_smaller_than_a_group_and_left_over_groups_change_nothing():
    key, x = jax.random.key(0), jnp.arange(3.0)

    def sampler(num_samples, dim, noise):
        del num_samples
        return esjax.samplers.Groups(4, lambda key, dtype: noise.sample(key, (4, dim), dtype))

    def options(chunk_size):
        return {"sigma": 1.0, "num_samples": 10, "sampler": sampler, "chunk_size": chunk_size}

    for fun in (_sort_sum, jnp.sort):
        whole, parts = (esjax.smooth(fun, **options(size)) for size in (None, 3))
        both = [jax.jit(lambda x, f=f: (f(key, x), jax.jacrev(f, 1)(key, x)))(x) for f in (whole, parts)]
        for a, b in zip(*both, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_blocks_own_derivative_is_never_asked_for():
    @jax.custom_vjp
    def block(x):
        return jnp.floor(x).sum()

    def forbidden(*_):
        raise AssertionError("the block was differentiated")

    block.defvjp(forbidden, forbidden)
    smoothed = esjax.smooth(block, sigma=1.0, num_samples=4)
    x = jnp.array([0.3, 1.2])
    gradient = jax.grad(smoothed, argnums=1)
    assert gradient(jax.random.key(0), x).shape == (2,)
    assert jax.jit(jax.jacrev(gradient, argnums=1))(jax.random.key(0), x).shape == (2, 2)


@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize(("baseline", "extra"), [("leave_one_out", 0), ("at_input", 1), ("centered_rank", 0)])
def test_a_value_and_gradient_takes_exactly_n_evaluations(num_outputs, baseline, extra):
    counted = []

    def block(x):
        jax.debug.callback(lambda _: counted.append(1), x)
        return jnp.floor(x).sum() * jnp.ones(num_outputs)

    baseline = getattr(esjax.baselines, baseline)
    smoothed = esjax.smooth(block, sigma=1.0, num_samples=10, baseline=baseline, chunk_size=4)
    jax.value_and_grad(lambda x: smoothed(jax.random.key(0), x).sum())(jnp.ones(2))
    jax.effects_barrier()
    assert len(counted) == 10 + extra


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_trees_come_back_in_their_structure_shapes_and_dtypes(dtype):
    x = {"a": jnp.ones((2, 3), dtype), "b": (jnp.zeros((), jnp.float32),)}

    def block(x, scale):
        return {"sum": jnp.floor(x["a"]).sum(0), "rest": [x["b"][0] > 0.1 * scale] and jnp.sign(x["b"][0])}

    smoothed = esjax.smooth(block, sigma=0.5, num_samples=8)
    value, vjp = jax.vjp(lambda x: smoothed(jax.random.key(0), x, 2), x)
    assert jax.tree.map(jnp.shape, value) == {"sum": (3,), "rest": ()}
    assert value["sum"].dtype == dtype
    (gradient,) = vjp(jax.tree.map(jnp.ones_like, value))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), gradient) == (
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), x)
    )


def test_gradients_in_args_are_pathwise_and_integer_args_are_fine():
    key, x = jax.random.key(2), jnp.array([0.5, -0.5])

    def block(x, args, index):
        return args["w"][index] * jnp.sum(x > 0).astype(x.dtype) + args["b"] ** 2

    for fun in (block, lambda *a: block(*a) * jnp.ones(2)):
        smoothed = esjax.smooth(fun, sigma=1.0, num_samples=16, sampler=esjax.samplers.iid)

        def loss(args, smoothed=smoothed):
            return smoothed(key, x, args, 1).sum()

        args = {"w": jnp.array([1.0, 2.0]), "b": jnp.float32(3.0)}
        eps = np.stack([jax.random.normal(jax.random.fold_in(key, n), (1, 2))[0] for n in range(16)])
        count = (np.asarray(x) + eps > 0).sum(1).mean()
        outputs = 1 if fun is block else 2
        gradient = jax.grad(loss)(args)
        np.testing.assert_allclose(gradient["w"], [0.0, outputs * count], rtol=1e-6)
        np.testing.assert_allclose(gradient["b"], outputs * 6.0, rtol=1e-6)


def test_sigma_for_each_coordinate_is_that_of_scaled_coordinates():
    key, x = jax.random.key(0), {"a": jnp.array([0.1, -0.4]), "b": jnp.float32(0.2)}
    scales = {"a": jnp.array([0.5, 2.0]), "b": 1.5}

    def block(x):
        return jnp.floor(3 * x["a"]).sum() * jnp.sign(x["b"])

    def scaled(u):
        return block(jax.tree.map(jnp.multiply, u, scales))

    smoothed = esjax.smooth(block, sigma=scales, num_samples=32)
    plain = esjax.smooth(scaled, sigma=1.0, num_samples=32)
    u = jax.tree.map(jnp.divide, x, scales)
    value, gradient = jax.value_and_grad(smoothed, 1)(key, x)
    plain_value, plain_gradient = jax.value_and_grad(plain, 1)(key, u)
    np.testing.assert_allclose(value, plain_value, rtol=1e-6)
    for leaf, like, scale in zip(*map(jax.tree.leaves, (gradient, plain_gradient, scales)), strict=True):
        np.testing.assert_allclose(leaf, like / scale, rtol=1e-4)
    in_sigma = jax.grad(lambda s: smoothed(key, x, sigma=s))(scales)
    assert jax.tree.map(jnp.shape, in_sigma) == {"a": (2,), "b": ()}


def test_the_gradient_in_one_shared_sigma_is_the_sum_over_coordinates():
    key, x = jax.random.key(0), jnp.array([0.1, -0.4])
    smoothed = esjax.smooth(_sort_sum, sigma=1.0, num_samples=16)
    shared = jax.grad(lambda s: smoothed(key, x, sigma=s))(0.7)
    each = jax.grad(lambda s: smoothed(key, x, sigma=s))(jnp.array([0.7, 0.7]))
    np.testing.assert_allclose(shared, each.sum(), rtol=1e-5)


def test_the_gradient_in_sigma_of_a_step_is_the_known_one():
    """x = σ = 0.1: the derivative of Φ(x/σ) in σ is −φ(1) / 0.1 = −2.42."""
    smoothed = esjax.smooth(_step, sigma=0.1, num_samples=100_000)
    draws = jax.vmap(lambda key: jax.grad(lambda s: smoothed(key, 0.1, sigma=s))(0.1))(
        jax.random.split(jax.random.key(0), 16)
    )
    exact = -norm.pdf(1.0) / 0.1
    assert abs(draws.mean() - exact) < 4 * draws.std() / 4


def test_vmap_over_everything_is_a_loop():
    keys = jax.random.split(jax.random.key(0), 3)
    xs, labels = jax.random.normal(jax.random.key(1), (3, 4)), jnp.array([0, 3, 2])
    sigmas = jnp.array([0.5, 1.0, 2.0])
    smoothed = esjax.smooth(esjax.blocks.accuracy, sigma=1.0, num_samples=6)

    def value(key, x, label, sigma):
        return smoothed(key, x, label, sigma=sigma)

    both = jax.value_and_grad(value, (1, 3))
    together = jax.vmap(both)(keys, xs, labels, sigmas)
    one_by_one = [both(*each) for each in zip(keys, xs, labels, sigmas, strict=True)]
    for a, b in zip(
        jax.tree.leaves(together), zip(*map(jax.tree.leaves, one_by_one), strict=True), strict=True
    ):
        np.testing.assert_allclose(a, np.stack(b), rtol=1e-4, atol=1e-6)


def test_it_is_traced_once_and_works_in_scan_and_checkpoint():
    traces = []

    def block(x):
        traces.append(1)
        return jnp.floor(x).sum()

    smoothed = esjax.smooth(block, sigma=1.0, num_samples=4)

    @jax.jit
    def train(key, x):
        def step(x, key):
            gradient = jax.grad(jax.checkpoint(lambda x: smoothed(key, x)))(x)
            return x - 0.1 * gradient, gradient

        return jax.lax.scan(step, x, jax.random.split(key, 5))

    with jax.checking_leaks():
        first, _ = train(jax.random.key(0), jnp.ones(3))
    count = len(traces)
    again, _ = train(jax.random.key(0), jnp.ones(3))
    assert len(traces) == count
    np.testing.assert_array_equal(first, again)


def test_a_block_may_close_over_traced_values():
    @jax.jit
    def gradient(x, shift):
        smoothed = esjax.smooth(lambda x: jnp.floor(x + shift).sum(), sigma=1.0, num_samples=4)
        return jax.grad(smoothed, 1)(jax.random.key(0), x)

    moved = esjax.smooth(lambda x: jnp.floor(x).sum(), sigma=1.0, num_samples=4)
    expected = jax.grad(moved, 1)(jax.random.key(0), jnp.ones(3) + 0.25)
    np.testing.assert_allclose(gradient(jnp.ones(3), 0.25), expected, rtol=1e-5, atol=1e-6)


def test_forward_mode_of_the_first_order_says_what_to_call_instead():
    smoothed = esjax.smooth(_step, sigma=1.0, num_samples=4)
    with pytest.raises(TypeError, match=r"no forward mode.*use jax\.grad"):
        jax.jacfwd(lambda x: smoothed(jax.random.key(0), x))(0.5)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(jax.jit(lambda x: smoothed(jax.random.key(0), x)), (0.5,), (1.0,))


@pytest.mark.parametrize("outputs", [1, 2])
def test_forward_over_reverse_is_reverse_over_reverse(outputs):
    smoothed = esjax.smooth(lambda x: _sort_sum(x) * jnp.ones(outputs), sigma=1.0, num_samples=8)
    x = jnp.array([0.3, -0.2])

    def function(x):
        return smoothed(jax.random.key(0), x)

    hessian = jax.jit(jax.hessian(function))(x)
    reverse = jax.jit(jax.jacrev(jax.jacrev(function)))(x)
    np.testing.assert_allclose(hessian, reverse, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(hessian, jnp.swapaxes(hessian, -1, -2), rtol=1e-5, atol=1e-6)
    both = jax.jit(jax.value_and_grad(lambda x: function(x).sum()))
    _, (slope, _) = jax.jvp(both, (x,), (jnp.ones(2),))
    np.testing.assert_allclose(slope, both(x)[1].sum(), rtol=1e-4)


def _faulty(x, fault):
    """A quadratic, NaN where the second, independent coordinate says so."""
    return jnp.where(fault > 0, jnp.nan, jnp.floor(x[0]) ** 2)


@pytest.mark.parametrize("num_outputs", [1, 2])
def test_a_nan_stays_visible_unless_it_is_discarded(num_outputs):
    def block(x):
        return _faulty(x, x[1]) * jnp.ones(num_outputs)

    key, x = jax.random.key(0), jnp.array([0.4, 0.0])
    smoothed = esjax.smooth(block, sigma=1.0, num_samples=16)
    value, gradient = jax.value_and_grad(lambda x: smoothed(key, x).sum())(x)
    assert jnp.isnan(value) and jnp.isnan(gradient).all()


def test_discarded_samples_are_left_out_of_every_sum():
    """Against a NumPy loop over the samples that are kept."""
    key, x, scale, num_samples = jax.random.key(0), jnp.array([0.4, 0.0]), jnp.float32(1.5), 16
    smoothed = esjax.smooth(
        lambda x, scale: scale * _faulty(x, x[1]),
        sigma=1.0,
        num_samples=num_samples,
        sampler=esjax.samplers.iid,
        discard=jnp.isnan,
    )
    (value, info), gradients = jax.value_and_grad(smoothed.with_info, (1, 2), has_aux=True)(key, x, scale)
    eps = np.stack([jax.random.normal(jax.random.fold_in(key, n), (1, 2))[0] for n in range(num_samples)])
    kept = np.asarray(x)[1] + eps[:, 1] <= 0
    eps = eps[kept]
    values = 1.5 * np.floor(np.asarray(x)[0] + eps[:, 0]) ** 2
    others = (values.sum() - values) / (len(values) - 1)
    assert int(info.num_discarded) == num_samples - kept.sum() and 0 < kept.sum() < num_samples
    np.testing.assert_allclose(value, values.mean(), rtol=1e-5)
    np.testing.assert_allclose(gradients[0], ((values - others)[:, None] * eps).mean(0), rtol=1e-4)
    np.testing.assert_allclose(gradients[1], values.mean() / 1.5, rtol=1e-5)


def test_independent_faults_leave_value_and_gradient_unbiased():
    def block(x, faults):
        return jnp.where(faults, jnp.nan, jnp.where(x > 0, 1.0, 0.0))

    def sampler(num_samples, dim, noise):
        del num_samples
        return esjax.samplers.Groups(4, lambda key, dtype: noise.sample(key, (4, dim), dtype))

    smoothed = esjax.smooth(
        lambda x: block(x[0], x[1] > 0.3), sigma=1.0, num_samples=16, sampler=sampler, discard=jnp.isnan
    )
    x = jnp.array([0.2, 0.0])
    keys = jax.random.split(jax.random.key(5), 20_000)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(smoothed, 1), (0, None)))(keys, x)
    for draws, exact in ((values, norm.cdf(0.2)), (gradients[:, 0], norm.pdf(0.2))):
        draws = np.asarray(draws, np.float64)
        assert abs(draws.mean() - exact) < 4 * draws.std() / len(draws) ** 0.5


def test_where_all_samples_are_discarded_the_result_is_nan():
    smoothed = esjax.smooth(lambda x: x * jnp.nan, sigma=1.0, num_samples=4, discard=jnp.isnan)
    (value, info), gradient = jax.value_and_grad(smoothed.with_info, 1, has_aux=True)(jax.random.key(0), 1.0)
    assert jnp.isnan(value) and jnp.isnan(gradient) and int(info.num_discarded) == 4


def test_a_control_variate_keeps_the_mean_and_takes_variance_away():
    """f = a rounded quadratic, c = the quadratic, whose smoothed value is x² + σ²."""
    control = (lambda x: x @ x, lambda x, sigma: x @ x + x.size * sigma**2)

    def block(x):
        return jnp.round(4 * (x @ x)) / 4

    x = jnp.array([0.7, -0.3])
    keys = jax.random.split(jax.random.key(1), 20_000)

    def draws(**options):
        smoothed = esjax.smooth(block, sigma=0.5, num_samples=16, **options)
        both = jax.jit(jax.vmap(jax.value_and_grad(smoothed, 1), (0, None)))(keys, x)
        return [np.asarray(leaf, np.float64) for leaf in both]

    plain, controlled = draws(), draws(control=control)
    for p, c in zip(plain, controlled, strict=True):
        error = (p.var(0) + c.var(0)) ** 0.5 / len(p) ** 0.5
        assert np.all(np.abs(p.mean(0) - c.mean(0)) < 4 * error)
        assert np.all(c.var(0) < p.var(0) / 4)


def test_a_control_variate_that_does_not_vary_changes_nothing_but_the_draws():
    control = (lambda x: jnp.ones_like(x), lambda x, sigma: jnp.ones_like(x))
    smoothed = esjax.smooth(_step, sigma=0.5, num_samples=8, control=control)
    assert 0 <= smoothed(jax.random.key(0), 0.1) <= 1


@pytest.mark.parametrize("transform", [jax.jit, jax.checkpoint, lambda f: jax.vmap(f, (0, None))])
def test_a_block_may_close_over_traced_integers_and_keys(transform):
    def function(x, label):
        key = jax.random.key(7)
        smoothed = esjax.smooth(
            lambda z: jnp.where(z[label] > jax.random.normal(key), 1.0, 0.0) * jnp.ones(2),
            sigma=1.0,
            num_samples=8,
            discard=lambda values: values > label.astype(values.dtype),
        )
        return smoothed(jax.random.key(0), x).sum()

    x = (
        jnp.array([[0.1, 0.2, 0.3]])
        if transform not in (jax.jit, jax.checkpoint)
        else jnp.array([0.1, 0.2, 0.3])
    )
    gradient = jax.grad(lambda x: transform(function)(x, jnp.int32(1)).sum())(x)
    expected = jax.jit(jax.grad(function))(jnp.array([0.1, 0.2, 0.3]), jnp.int32(1))
    np.testing.assert_allclose(jnp.ravel(gradient), expected, rtol=1e-5, atol=1e-6)


def test_second_derivatives_of_discarded_samples_are_those_of_the_rest():
    """x[1] only decides which samples are faulty, with σ so small that each is what it is at x."""

    def block(x, scale):
        return jnp.where(x[1] > 0, jnp.nan, jnp.where(x[0] > 0, 1.0, 0.0)) * scale

    def sound(x, scale):
        return jnp.where(x[0] > 0, 1.0, 0.0) * scale

    options = {"sigma": jnp.array([1.0, 1e-9]), "num_samples": 32, "sampler": esjax.samplers.iid}
    x, key = jnp.array([0.3, -1.0]), jax.random.key(0)
    with_faults = esjax.smooth(block, discard=jnp.isnan, **options)
    without = esjax.smooth(sound, discard=jnp.isnan, **options)

    def derivatives(smoothed):
        def function(u, scale):
            return smoothed(key, jnp.array([u, x[1]]), scale)

        return jax.hessian(function, (0, 1))(x[0], 2.0)

    for a, b in zip(*map(jax.tree.leaves, map(derivatives, (with_faults, without))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)

    mixed = esjax.smooth(
        lambda x, scale: _faulty(x, x[1]) * scale, sigma=1.0, num_samples=32, discard=jnp.isnan
    )
    found = jax.hessian(lambda x, scale: mixed(key, x, scale), (0, 1))(jnp.zeros(2), 2.0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_second_derivatives_in_x_ask_for_no_derivative_in_args():
    def host(x, scale):
        return np.float32((np.asarray(x) > 0).sum() * np.asarray(scale))

    def block(x, scale):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.pure_callback(host, shape, x, scale, vmap_method="sequential")

    smoothed = esjax.smooth(block, sigma=1.0, num_samples=8)
    x = jnp.array([0.1, 0.2])
    plain = esjax.smooth(lambda x: (x > 0).sum().astype(x.dtype) * 2, sigma=1.0, num_samples=8)
    hessian = jax.hessian(smoothed, 1)(jax.random.key(0), x, 2.0)
    np.testing.assert_allclose(hessian, jax.hessian(plain, 1)(jax.random.key(0), x), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("outputs", [1, 2])
def test_gradients_in_narrow_args_are_summed_in_float32(dtype, outputs):
    smoothed = esjax.smooth(
        lambda x, a: (0 * x + 100 * a.astype(x.dtype)) * jnp.ones(outputs),
        sigma=1.0,
        num_samples=4096,
        chunk_size=8,
    )
    gradient = jax.grad(lambda a: smoothed(jax.random.key(0), 0.0, a)[0])(jnp.ones((), dtype))
    assert gradient.dtype == dtype and float(gradient) == 100


def test_complex_args_have_second_derivatives():
    smoothed = esjax.smooth(lambda x, a: x.sum() * jnp.real(a) + jnp.imag(a) ** 2, sigma=1.0, num_samples=16)

    def function(t):
        return smoothed(jax.random.key(0), jnp.ones(2), jax.lax.complex(t, 2 * t))

    np.testing.assert_allclose(jax.grad(jax.grad(function))(1.0), 8.0, rtol=1e-5)


def test_values_and_args_wider_than_x_keep_their_precision():
    with jax.enable_x64(True):
        smoothed = esjax.smooth(lambda x, a: 0 * x.astype(a.dtype) + a, sigma=1.0, num_samples=4)
        value = smoothed(jax.random.key(0), jnp.float32(0), jnp.float64(1 / 3))
        assert value.dtype == jnp.float64 and abs(float(value) - 1 / 3) < 1e-15


def test_the_value_is_the_same_with_and_without_a_gradient():
    for block, value in ((lambda x: jnp.where(x > 5, 0.0, -jnp.inf), -jnp.inf), (jnp.floor, None)):
        smoothed = esjax.smooth(block, sigma=1.0, num_samples=8)
        plain = smoothed(jax.random.key(0), 0.3)
        both, _ = jax.value_and_grad(smoothed, 1)(jax.random.key(0), 0.3)
        assert plain == both and (value is None or plain == value)


def test_rbg_keys_draw_the_same_whatever_the_chunks():
    key = jax.random.key(0, impl="rbg")
    values = [
        esjax.smooth(lambda x: x @ x, sigma=1.0, num_samples=24, sampler=esjax.samplers.iid, chunk_size=size)(
            key, jnp.ones(2)
        )
        for size in (None, 8, 5)
    ]
    np.testing.assert_allclose(values, values[0], rtol=1e-5)


def test_one_sound_group_still_has_a_gradient():
    """With nothing to compare with, b_n = 0."""
    smoothed = esjax.smooth(
        lambda x, fault: jnp.where(jnp.round(x[1]) == fault, 1.0, jnp.nan),
        sigma=jnp.array([1.0, 1e-9]),
        num_samples=4,
        sampler=esjax.samplers.iid,
        discard=lambda values: jnp.isnan(values),
    )
    gradient = jax.grad(smoothed, 1)(jax.random.key(0), jnp.zeros(2), 0.0)
    assert np.isfinite(gradient).all()
    kept = jnp.array([0.0, 1.0, 0.0, 0.0])
    problem = Problem(
        None,
        None,
        esjax.samplers.Groups(1, None),
        esjax.baselines.leave_one_out,
        jnp.isnan,
        4,
        4,
        4,
        2,
        1,
        None,
    )
    saved = _sums.Values(jnp.array([[0.0], [3.0], [0.0], [0.0]]), kept, jnp.zeros(1))
    np.testing.assert_allclose(_sums.weights(problem, saved)[:, 0], [0, 3, 0, 0])


def test_a_large_offset_does_not_spoil_a_control_variate():
    def block(x):
        return x.sum() + 1e4

    smoothed = esjax.smooth(block, sigma=1.0, num_samples=16, control=(block, lambda x, sigma: block(x)))
    gradients = jax.vmap(jax.grad(smoothed, 1), (0, None))(
        jax.random.split(jax.random.key(0), 50), jnp.ones(2)
    )
    assert gradients.std() < 0.02


def _three(key, dtype):
    return jax.random.normal(key, (3,), dtype)


def _control(value, mean):
    return (lambda x: value), (lambda x, sigma: mean)


@pytest.mark.parametrize(
    ("options", "x", "match"),
    [
        ({"fun": 3}, 1.0, "fun=3 is not callable"),
        ({"sigma": 0.0}, 1.0, "sigma=0.0"),
        ({"sigma": -1.0}, 1.0, "sigma=-1.0"),
        ({"sigma": float("nan")}, 1.0, "sigma=nan"),
        ({"sigma": float("inf")}, 1.0, "sigma=inf"),
        ({"sigma": "a"}, 1.0, "sigma='a' is not a number"),
        ({"sigma": None}, 1.0, "sigma=None is not a number"),
        ({"sigma": jnp.array([1.0, 0.0])}, jnp.ones(2), "sigma=0.0"),
        ({"sigma": {"a": -2.0}}, {"a": jnp.ones(2)}, r"sigma\['a'\]=-2.0"),
        ({"sigma": {"b": 1.0}}, {"a": jnp.ones(2)}, "sigma has structure"),
        ({"sigma": jnp.ones(3)}, jnp.ones(2), r"sigma has shape \(3,\), and x there has \(2,\)"),
        ({"num_samples": 0}, 1.0, "num_samples=0 must be"),
        ({"num_samples": 2.0}, 1.0, "num_samples=2.0 must be"),
        ({"num_samples": True}, 1.0, "num_samples=True must be"),
        ({"num_samples": 1}, 1.0, r"num_samples=1 .*num_samples >= 2"),
        ({"num_samples": 1, "baseline": esjax.baselines.centered_rank}, 1.0, r"num_samples=1 .*>= 2"),
        ({"num_samples": 3, "sampler": esjax.samplers.antithetic}, 1.0, "num_samples=3 is odd"),
        ({"num_samples": 2, "sampler": esjax.samplers.antithetic}, 1.0, "use num_samples >= 3"),
        ({"chunk_size": 0}, 1.0, "chunk_size=0 must be"),
        ({"discard": 1}, 1.0, "discard=1 is not callable"),
        ({"discard": jnp.abs}, 1.0, "discard turns values.*float32; return one bool"),
        ({"discard": lambda v: jnp.isnan(v).any()}, 1.0, r"discard turns values \(1,\) into \(\)"),
        ({"control": 1}, 1.0, "control=1 must be a pair"),
        ({"control": _control(jnp.ones(2), 1.0)}, 1.0, r"control\[0\] returns"),
        ({"control": _control(jnp.float32(1), jnp.ones(2))}, 1.0, r"control\[1\] returns"),
        ({"control": _control(1.0, 1.0), "num_samples": 6}, 1.0, "num_samples=6 must be a multiple of 4"),
        ({"control": _control(1.0, 1.0), "discard": jnp.isnan}, 1.0, "together with control"),
        ({"noise": "normal"}, 1.0, "noise='normal' is no Noise"),
        ({"sampler": "sobol"}, 1.0, "sampler='sobol' is not callable"),
        ({"baseline": "none"}, 1.0, "baseline='none' is no Baseline"),
        ({"sampler": lambda *_: esjax.samplers.Groups(0, None)}, 1.0, "sampler's groups=0 must be"),
        (
            {"sampler": lambda *_: esjax.samplers.Groups(2, _three)},
            1.0,
            r"draws float32\[3\] for a group of 2",
        ),
        ({"sigma": True}, 1.0, "sigma=True is not a number"),
        ({}, "a", "x='a' is no array"),
        ({}, 1, "x has dtype int32"),
        ({}, {"a": 1.0, "b": jnp.arange(2)}, r"x\['b'\] has dtype int32"),
        ({}, {}, "x has no arrays"),
        ({"fun": lambda x: x > 0}, 1.0, "value of fun has dtype bool"),
        ({"fun": lambda x: (x, jnp.int32(1))}, 1.0, r"value of fun\[1\] has dtype int32"),
        ({"fun": lambda x: None}, 1.0, "value of fun has no arrays"),
    ],
)
def test_wrong_arguments_name_themselves(options, x, match):
    options = {"fun": _step, "sigma": 1.0, "num_samples": 4} | options
    with pytest.raises(ValueError, match=match):
        esjax.smooth(options.pop("fun"), **options)(jax.random.key(0), x)


def test_an_argument_that_is_no_array_is_refused():
    smoothed = esjax.smooth(lambda x, how: getattr(x, how)(), sigma=1.0, num_samples=4)
    with pytest.raises(ValueError, match=r"args\[0\]='mean' is no array or number; let fun close over"):
        smoothed(jax.random.key(0), jnp.ones(2), "mean")


@pytest.mark.parametrize(
    "key", [0, None, jnp.float32(1), jnp.arange(3, dtype=jnp.uint32), jax.random.split(jax.random.key(0), 3)]
)
def test_a_wrong_key_says_what_to_pass(key):
    with pytest.raises(ValueError, match=r"key=.* is not one PRNG key; pass jax\.random\.key"):
        esjax.smooth(_step, sigma=1.0, num_samples=4)(key, 1.0)


def test_a_wrong_sigma_at_call_time_is_refused():
    with pytest.raises(ValueError, match=r"sigma=0\.0 must be"):
        esjax.smooth(_step, sigma=1.0, num_samples=4)(jax.random.key(0), 1.0, sigma=0.0)
