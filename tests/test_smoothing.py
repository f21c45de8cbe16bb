"""`smooth` against the algorithm written out as a loop, closed forms, and wrong arguments."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import esjax
from esjax._core import chunks


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


@functools.cache
def _in_chunks(size):
    smoothed = esjax.smooth(_sort_sum, sigma=1.0, num_samples=10, chunk_size=size)
    return jax.jit(jax.value_and_grad(smoothed, 1))(jax.random.PRNGKey(0), jnp.arange(3.0))


@pytest.mark.parametrize("chunk_size", [1, 3, 10, 64])
def test_chunks_do_not_change_the_draws(chunk_size):
    for a, b in zip(_in_chunks(None), _in_chunks(chunk_size), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize(("device", "at_once"), [("cpu", 512), ("gpu", 4096), ("tpu", 4096)])
def test_by_default_an_accelerator_works_on_more_samples_at_once(monkeypatch, device, at_once):
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    assert chunks.at_once(4096, 1000) == at_once


def test_chunks_smaller_than_a_group_and_left_over_groups_change_nothing():
    key, x = jax.random.PRNGKey(0), jnp.arange(3.0)

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

    def block(x, limit):
        return {"sum": jnp.floor(x["a"]).sum(0), "rest": jnp.where(x["b"][0] > limit, 1.0, -1.0)}

    smoothed = esjax.smooth(block, sigma=0.5, num_samples=8)
    value, vjp = jax.vjp(lambda x: smoothed(jax.random.key(0), x, 100), x)
    assert jax.tree.map(jnp.shape, value) == {"sum": (3,), "rest": ()}
    assert (value["sum"].dtype, value["rest"].dtype) == (dtype, jnp.float32)
    assert value["rest"] == -1 and smoothed(jax.random.key(0), x, -100)["rest"] == 1
    (gradient,) = vjp(jax.tree.map(jnp.ones_like, value))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), gradient) == (
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), x)
    )


def test_sigma_for_each_coordinate_is_that_of_scaled_coordinates():
    key, x = jax.random.PRNGKey(0), {"a": jnp.array([0.1, -0.4]), "b": jnp.float32(0.2)}
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
    plain_in_sigma = jax.grad(lambda s: plain(key, u, sigma=s))(jax.tree.map(jnp.ones_like, x))
    for leaf, like, scale in zip(*map(jax.tree.leaves, (in_sigma, plain_in_sigma, scales)), strict=True):
        np.testing.assert_allclose(leaf, like / scale, rtol=1e-4)


def test_the_gradient_in_one_shared_sigma_is_the_sum_over_coordinates():
    key, x = jax.random.PRNGKey(0), jnp.array([0.1, -0.4])
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


def _noted_floor(traces, x):
    traces.append(1)
    return jnp.floor(x).sum()


def test_it_is_traced_once_and_works_in_scan_and_checkpoint():
    traces = []
    smoothed = esjax.smooth(functools.partial(_noted_floor, traces), sigma=1.0, num_samples=4)

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


def test_outside_jit_it_is_compiled_once():
    traces = []
    smoothed = esjax.smooth(functools.partial(_noted_floor, traces), sigma=1.0, num_samples=4)
    calls = [
        jax.value_and_grad(smoothed, argnums=1),
        functools.partial(jax.value_and_grad(smoothed.with_info, argnums=1, has_aux=True), sigma=2.0),
        jax.vmap(smoothed, (None, 0)),
    ]
    for call in calls:
        call(jax.random.key(0), jnp.ones(3))
    count = len(traces)
    for seed, call in enumerate(calls):
        call(jax.random.key(seed), seed * jnp.ones(3))
    assert len(traces) == count
    calls[0](jax.random.key(0), jnp.ones(4))
    assert len(traces) > count


def test_it_can_be_pickled_where_its_block_can():
    smoothed = esjax.smooth(esjax.blocks.accuracy, sigma=2.0, num_samples=8)
    again = pickle.loads(pickle.dumps(smoothed))
    gradients = [jax.grad(each, 1)(jax.random.key(0), jnp.arange(3.0), 1) for each in (smoothed, again)]
    np.testing.assert_array_equal(*gradients)
    assert again.num_samples == 8 and np.abs(gradients[0]).max() > 0


def test_a_block_may_close_over_traced_values():
    @jax.jit
    def gradient(x, shift):
        smoothed = esjax.smooth(lambda x: jnp.floor(x + shift).sum(), sigma=1.0, num_samples=4)
        return jax.grad(smoothed, 1)(jax.random.key(0), x)

    moved = esjax.smooth(lambda x: jnp.floor(x).sum(), sigma=1.0, num_samples=4)
    expected = jax.grad(moved, 1)(jax.random.key(0), jnp.ones(3) + 0.25)
    np.testing.assert_allclose(gradient(jnp.ones(3), 0.25), expected, rtol=1e-5, atol=1e-6)


def _vmapped(function):
    return lambda x, label: jax.vmap(function, (0, None))(x[None], label)


def _smoothed_by(label):
    key = jax.random.key(7)
    return esjax.smooth(
        lambda z: jnp.floor(z[label] - jax.random.normal(key)) * jnp.ones(2),
        sigma=1.0,
        num_samples=16,
        discard=lambda values: values >= label.astype(values.dtype),
    )


def _sum_by(x, label):
    return _smoothed_by(label)(jax.random.key(0), x).sum()


@pytest.fixture(scope="module")
def by_a_known_label():
    """The gradient, and how many samples are discarded."""
    x, label = jnp.array([0.1, 0.2, 0.3]), np.int32(1)
    _, report = _smoothed_by(label).with_info(jax.random.key(0), x)
    return jax.jit(jax.grad(lambda x: _sum_by(x, label)))(x), report.num_discarded


@pytest.mark.parametrize("transform", [jax.jit, jax.checkpoint, _vmapped])
def test_a_block_may_close_over_traced_integers_and_keys(transform, by_a_known_label):
    """Against one that closes over what is not traced."""
    x, (wanted, num_discarded) = jnp.array([0.1, 0.2, 0.3]), by_a_known_label
    gradient = jax.grad(lambda x: transform(_sum_by)(x, jnp.int32(1)).sum())(x)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-6)
    assert 0 < num_discarded < 16 and np.abs(gradient).min() > 0


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
            jax.random.clone(key), jnp.ones(2)
        )
        for size in (None, 8, 5)
    ]
    np.testing.assert_allclose(values, values[0], rtol=1e-5)


def test_numpy_integers_count_as_numbers():
    for sampler in (esjax.samplers.auto, esjax.samplers.sobol):
        smoothed = esjax.smooth(jnp.sum, sigma=1.0, num_samples=np.int64(64), sampler=sampler)
        same = esjax.smooth(jnp.sum, sigma=1.0, num_samples=64, sampler=sampler)
        assert smoothed(jax.random.key(0), jnp.ones(3)) == same(jax.random.key(0), jnp.ones(3))


def test_arrays_of_numpy_may_be_mapped_over_inside_jit():
    smoothed = esjax.smooth(esjax.blocks.accuracy, sigma=1.0, num_samples=8)
    keys = np.asarray(jax.random.split(jax.random.PRNGKey(0), 4))
    xs, labels, sigmas = np.eye(4, dtype=np.float32), np.arange(4, dtype=np.int32), np.ones(4, np.float32)

    def value(offset, *, mapped):
        return jax.vmap(lambda key, x, label, s: smoothed(key, x, label, sigma=s))(*mapped).sum() + offset

    ours = jax.jit(jax.value_and_grad(functools.partial(value, mapped=(keys, xs, labels, sigmas))))(1.0)
    wanted = value(1.0, mapped=jax.tree.map(jnp.asarray, (keys, xs, labels, sigmas)))
    np.testing.assert_array_equal(ours[0], wanted)


# --- options that close over traced values, and are sent to other processes -------------------------


def _student(freedom):
    """Student's noise, whose density and draws close over its degrees of freedom."""
    return esjax.noise.normal._replace(
        sample=lambda key, shape, dtype: jax.random.t(key, freedom, shape, dtype),
        score=lambda eps: (freedom + 1) * eps / (freedom + eps * eps),
        icdf=None,
    )


def _mixed(share):
    """A share of the mean of the others, the rest of f(x)."""
    one_out = esjax.baselines.leave_one_out
    return one_out._replace(
        coefficients=lambda in_group, in_all: tuple(
            (1 - share) * each for each in one_out.coefficients(in_group, in_all)
        ),
        at_input=share,
    )


def _clipping(bound):
    return esjax.baselines.centered_rank._replace(transform=lambda values, kept: jnp.clip(values, 0, bound))


TRACED = {
    "noise": lambda t: {"noise": _student(t), "sampler": esjax.samplers.iid},
    "sampler": lambda t: {
        "sampler": lambda num_samples, dim, noise: esjax.samplers.Groups(
            1, lambda key, dtype: jnp.sign(t) * noise.sample(key, (1, dim), dtype)
        )
    },
    "baseline": lambda t: {"baseline": _mixed(t / 8)},
    "transform": lambda t: {"baseline": _clipping(t)},
    "discard": lambda t: {"discard": lambda values: values > t},
    "control": lambda t: {
        "control": (lambda x: t * x.sum() * jnp.ones(1), lambda x, sigma: t * x.sum() * jnp.ones(1))
    },
}


@pytest.mark.parametrize("name", TRACED)
def test_options_may_close_over_traced_values(name):
    def value_and_gradients(t):
        smoothed = esjax.smooth(
            lambda x: jnp.floor(3 * x).sum()[None], sigma=0.5, num_samples=16, **TRACED[name](t)
        )

        def function(x, sigma):
            return smoothed(jax.random.PRNGKey(0), x, sigma=sigma).sum()

        at = jnp.array([0.2, 0.6]), 0.5
        return jax.value_and_grad(function, (0, 1))(*at), jax.hessian(function)(*at)

    traced = jax.jit(jax.vmap(value_and_gradients))(jnp.array([2.0, 4.0]))
    known = [jax.jit(functools.partial(value_and_gradients, t))() for t in (2.0, 4.0)]
    for found, *wanted in zip(*map(jax.tree.leaves, (traced, *known)), strict=True):
        np.testing.assert_allclose(found, np.stack(wanted), rtol=1e-4, atol=1e-5)


CONSTANT = {name: TRACED[name] for name in ("noise", "sampler", "discard", "transform")}


@pytest.mark.parametrize("name", CONSTANT)
def test_a_gradient_in_what_an_option_closes_over_is_refused_and_not_0(name):
    def value(t, x):
        smoothed = esjax.smooth(
            lambda x: jnp.floor(3 * x).sum(), sigma=0.5, num_samples=16, **CONSTANT[name](t)
        )
        return smoothed(jax.random.PRNGKey(0), jnp.full(2, x))

    for function in (value, jax.jit(value), jax.grad(value, 1)):
        with pytest.raises(ValueError, match=r"closes over a value that is differentiated.*stop_gradient"):
            jax.grad(function)(4.0, 0.3)
    stopped = jax.grad(lambda t, x: value(jax.lax.stop_gradient(t), x), (0, 1))(4.0, 0.3)
    assert stopped[0] == 0 and np.isfinite(stopped[1])


def test_a_collective_over_an_axis_of_vmap_has_a_value_and_no_gradient():
    """It would miss other examples' values; a gradient in args had one cotangent for all of them."""
    smoothed = esjax.smooth(lambda x, a: jnp.where(x > 0, jax.lax.psum(a, "i"), 0), sigma=0.5, num_samples=8)
    keys, xs = jax.random.split(jax.random.PRNGKey(0), 3), jnp.array([0.1, 0.3, -0.2])

    def values(xs, args):
        return jax.vmap(smoothed, axis_name="i")(keys, xs, args)

    alone = jax.vmap(smoothed, (0, 0, None), axis_name="i")(keys, xs, 1.0)
    np.testing.assert_allclose(values(xs, jnp.array([1.0, 2.0, 3.0])), 6 / 3 * alone, rtol=1e-6)
    for argnums in (0, 1):
        with pytest.raises(ValueError, match=r"collective over the axis 'i' of jax\.vmap.*out of fun"):
            jax.grad(lambda *inputs: values(*inputs).sum(), argnums)(xs, jnp.ones(3))


def test_the_default_generator_of_keys_may_change():
    smoothed = esjax.smooth(jnp.floor, sigma=0.5, num_samples=8)
    smoothed(jax.random.PRNGKey(0), 0.1)
    with jax.default_prng_impl("rbg"):
        key = jax.random.PRNGKey(0)
        assert key.shape == (4,)
        found = smoothed(key, 0.1)
    assert found == smoothed(jax.random.key(0, impl="rbg"), 0.1)
    with pytest.raises(ValueError, match="is not one PRNG key"):
        smoothed(key, 0.1)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_x_is_perturbed_in_float32(dtype):
    """Of two equal logits each wins half of the time; bfloat16 would round many a sum to the other's."""
    logits = jnp.full(2, 100, dtype)
    smoothed = esjax.smooth(esjax.blocks.accuracy, sigma=0.5, num_samples=4096)
    value, gradient = jax.value_and_grad(smoothed, 1)(jax.random.key(0), logits, 1)
    assert value.dtype == gradient.dtype == dtype
    exact = norm.pdf(0.0) / (0.5 * 2**0.5)
    assert abs(float(value) - 0.5) < 4 * 0.5 / 64
    np.testing.assert_allclose(gradient.astype(jnp.float32), [-exact, exact], atol=4 * 0.5 / 64 / 0.5)


@pytest.mark.parametrize("name", ["iid", "antithetic", "orthogonal", "latin_hypercube", "sobol", "auto"])
def test_x_may_have_no_coordinates(name):
    sampler = getattr(esjax.samplers, name)
    smoothed = esjax.smooth(lambda x, a: a + x.sum(), sigma=1.0, num_samples=8, sampler=sampler)
    value, gradients = jax.value_and_grad(smoothed, (1, 2))(jax.random.key(0), jnp.zeros(0), 2.0)
    assert value == 2 and gradients[0].shape == (0,) and gradients[1] == 1
