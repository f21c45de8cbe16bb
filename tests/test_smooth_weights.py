"""`smooth_weights`: against the same noise as matrices, on models of other libraries, and what is refused."""

import contextlib
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esjax
from esjax.diagnostics import Report
from esjax.smoothing import _networks


def _key():
    return jax.random.key(0)  # anew, as each may be used once


X, LABELS = jax.random.normal(_key(), (5, 6)), np.arange(5) % 3


def _params(*sizes):
    keys = jax.random.split(_key(), len(sizes))
    return {
        f"layer {i}": {"w": jax.random.normal(keys[i], (m, k)) / m**0.5, "b": jnp.full(k, 0.1)}
        for i, (m, k) in enumerate(pairwise(sizes))
    }


PARAMS = _params(6, 8, 7, 3)


def _logits(params, x):
    for i in range(len(params)):
        layer = params[f"layer {i}"]
        x = (jax.nn.relu(x) if i else x) @ layer["w"] + layer["b"][None]
    return x


def likelihood(params, x, labels):
    return jnp.take_along_axis(jax.nn.log_softmax(_logits(params, x)), labels[:, None], 1).mean()


def accuracy(params, x, labels):
    return jnp.mean(_logits(params, x).argmax(-1) == labels)


@contextlib.contextmanager
def _relaxed():
    """What other libraries ask for."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def _flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


# --- the same noise, as matrices ---------------------------------------------------------------------


def _report_and_noise(monkeypatch, smoothed, rank, params, *args):
    """Returns the report, without its numbers, and E_n of all samples, from the factors drawn.

    E_n are params's structure of arrays (N, *shape).
    """
    seen, num_samples = {}, smoothed.num_samples
    low_rank = _networks._low_rank.low_rank

    def spy(layout, draw_odd, group_size):
        seen["layout"] = layout
        return low_rank(layout, draw_odd, group_size)

    monkeypatch.setattr(_networks._low_rank, "low_rank", spy)
    _, report = jax.eval_shape(smoothed.with_info, _key(), params, *args)
    monkeypatch.undo()
    layout = seen["layout"]
    groups = esjax.samplers.antithetic(num_samples, layout.dim_odd, esjax.noise.normal)
    odd, even = [], []
    for j in range(num_samples // 2):
        odd_key, even_key = jax.random.split(jax.random.fold_in(_key(), j))
        odd.append(groups.draw(odd_key, jnp.float32))
        even += [jax.random.normal(even_key, (layout.dim_even,))] * 2
    odd, even = np.concatenate(odd), np.stack(even)
    leaves = []
    for leaf in layout.leaves:
        if leaf.order is None:
            leaves.append(odd[:, leaf.odd : leaf.odd + leaf.size].reshape(-1, *leaf.shape))
            continue
        batch, rows, columns = leaf.sizes
        a = odd[:, leaf.odd :][:, : batch * rows * rank].reshape(-1, batch, rows, rank)
        b = even[:, leaf.even :][:, : batch * columns * rank].reshape(-1, batch, columns, rank)
        whole = (a @ b.swapaxes(-1, -2) / rank**0.5).reshape(-1, *(leaf.shape[axis] for axis in leaf.order))
        leaves.append(whole.transpose(0, *(1 + np.argsort(leaf.order))))
    return report, jax.tree.unflatten(jax.tree.structure(params), leaves)


def _assert_is_the_dense_estimate(
    monkeypatch, fun, params, *args, num_samples=6, sigma=0.3, rank=1, **options
):
    """Compares with f_n at W + σ E_n, and weights of leave-one-out: pairs are compared with the others."""
    smoothed = esjax.smooth_weights(fun, sigma=sigma, num_samples=num_samples, rank=rank, **options)
    report, noise = _report_and_noise(monkeypatch, smoothed, rank, params, *args)
    value, gradient = jax.value_and_grad(smoothed, 1)(_key(), params, *args)
    moved = jax.tree.map(lambda leaf, eps: leaf[None] + sigma * eps, params, noise)
    values = np.asarray(jax.jit(jax.vmap(lambda params: fun(params, *args)))(moved), np.float64)
    pairs = values.reshape(-1, 2).sum(1).repeat(2)
    weights = values - (values.sum() - pairs) / (num_samples - 2)
    np.testing.assert_allclose(value, values.mean(), rtol=1e-4)
    for (path, found), eps in zip(
        jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(noise), strict=True
    ):
        wanted = np.tensordot(weights, np.asarray(eps, np.float64), 1) / (num_samples * sigma)
        scale = np.abs(wanted).max() + 1e-6
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-3 * scale, err_msg=str(path))
    return report


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_an_mlp_has_the_estimate_of_its_noise_as_matrices(monkeypatch, rank, chunk_size):
    for fun in (likelihood, accuracy):
        report = _assert_is_the_dense_estimate(
            monkeypatch, fun, PARAMS, X, LABELS, rank=rank, chunk_size=chunk_size, num_samples=10
        )
        assert report.matrices == ()


def test_linen_cnn_with_pooling_and_batch_statistics(monkeypatch):
    linen = pytest.importorskip("flax.linen")

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            x = linen.BatchNorm(use_running_average=not train)(linen.Conv(4, (3, 3))(x))
            x = linen.max_pool(linen.relu(x), (2, 2), (2, 2))
            x = linen.avg_pool(linen.relu(linen.Conv(6, (3, 3), strides=2)(x)), (2, 2))
            return linen.Dense(3)(x.reshape(x.shape[0], -1))

    net, x = Net(), jax.random.normal(_key(), (5, 8, 8, 2))
    with _relaxed():
        variables = jax.jit(net.init, static_argnums=2)(_key(), x, True)

    def fun(params, x, statistics):
        logits, _ = net.apply({"params": params, "batch_stats": statistics}, x, True, mutable=["batch_stats"])
        return jax.nn.log_softmax(logits)[:, 0].mean()

    args = x, variables["batch_stats"]
    with _relaxed():
        report = _assert_is_the_dense_estimate(monkeypatch, fun, variables["params"], *args, sigma=0.1)
    assert report.matrices == ()


def test_linen_transformer_scanned_over_layers_with_a_tied_output(monkeypatch):
    linen = pytest.importorskip("flax.linen")

    class Layer(linen.Module):
        @linen.compact
        def __call__(self, h, _):
            h = h + linen.MultiHeadDotProductAttention(2)(linen.LayerNorm()(h))
            return h + linen.Dense(8)(linen.gelu(linen.Dense(16)(linen.LayerNorm()(h)))), None

    class Net(linen.Module):
        @linen.compact
        def __call__(self, tokens):
            table = linen.Embed(12, 8)
            layers = linen.scan(
                linen.remat(Layer), variable_axes={"params": 0}, split_rngs={"params": True}, length=2
            )
            h, _ = layers()(table(tokens), None)
            return table.attend(linen.LayerNorm()(h))

    _check_language_model(monkeypatch, Net())


def _check_language_model(monkeypatch, net):
    tokens = jax.random.randint(_key(), (2, 6), 0, 12)

    def fun(params, tokens):
        logits = jax.nn.log_softmax(net.apply(params, tokens[:, :-1]))
        return jnp.take_along_axis(logits, tokens[:, 1:, None], -1).mean()

    with _relaxed():
        params = jax.jit(net.init)(_key(), tokens)
        report = _assert_is_the_dense_estimate(monkeypatch, fun, params, tokens, sigma=0.1)
    assert all("bias" in line or "scale" in line for line in report.matrices)


def test_nnx_transformer(monkeypatch):
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.table = nnx.Embed(12, 8, rngs=rngs)
            self.places = nnx.Param(jax.random.normal(rngs.params(), (6, 8)))
            self.norm = nnx.LayerNorm(8, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
            self.up, self.down = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 8, rngs=rngs)

        def __call__(self, tokens):
            h = self.table(tokens) + self.places[...][None, : tokens.shape[1]]
            h = h + self.attention(self.norm(h), mask=nnx.make_causal_mask(tokens))
            return self.table.attend(h + self.down(jax.nn.gelu(self.up(h))))

    graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    tokens = jax.random.randint(_key(), (2, 6), 0, 12)

    def fun(params, tokens):
        logits = jax.nn.log_softmax(nnx.merge(graph, params, rest)(tokens[:, :-1]))
        return jnp.take_along_axis(logits, tokens[:, 1:, None], -1).mean()

    with _relaxed():
        report = _assert_is_the_dense_estimate(monkeypatch, fun, params, tokens, sigma=0.1)
    assert sum("places" in line for line in report.matrices) == 1
    assert all("bias" in line or "places" in line for line in report.matrices)


def test_equinox_mlp_cnn_and_attention(monkeypatch):
    eqx = pytest.importorskip("equinox")
    one, two, three, *more = jax.random.split(_key(), 7)
    convolutions = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(2, 4, 3, padding=1, key=one),
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Conv2d(4, 3, 3, key=two),
            eqx.nn.Lambda(jnp.ravel),
        ]
    )
    attention = eqx.nn.MultiheadAttention(2, 8, key=three)
    cases = [
        (eqx.nn.MLP(6, 3, 8, 2, key=more[0]), lambda model, x: jax.vmap(model)(x), X),
        (convolutions, lambda model, x: jax.vmap(model)(x), jax.random.normal(more[1], (3, 2, 8, 8))),
        (
            attention,
            lambda model, x: jax.vmap(lambda x: model(x, x, x))(x),
            jax.random.normal(more[2], (2, 5, 8)),
        ),
    ]
    for model, call, x in cases:
        params, static = eqx.partition(model, eqx.is_inexact_array)

        def fun(params, x, call=call, static=static):
            return jnp.tanh(call(eqx.combine(params, static), x)).mean()

        with _relaxed():
            report = _assert_is_the_dense_estimate(monkeypatch, fun, params, x)
        assert report.matrices == ()


# --- what it estimates -------------------------------------------------------------------------------


def _mean_and_error(estimate, num_keys):
    draws = np.asarray(jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(7), num_keys)), np.float64)
    return draws.mean(0), draws.std(0) / num_keys**0.5


@pytest.mark.parametrize("rank", [1, 2])
def test_at_small_sigma_the_gradient_is_that_of_fun(rank):
    smoothed = esjax.smooth_weights(likelihood, sigma=1e-2, num_samples=32, rank=rank)
    mean, error = _mean_and_error(
        lambda key: jax.flatten_util.ravel_pytree(jax.grad(smoothed, 1)(key, PARAMS, X, LABELS))[0], 500
    )
    exact = _flat(jax.jit(jax.grad(likelihood))(PARAMS, X, LABELS))
    z = (mean - exact) / error
    assert np.abs(z).max() < 5 and (z**2).mean() < 1.4


@pytest.mark.parametrize("rank", [1, 2])
def test_the_bias_is_what_the_moments_of_the_noise_say(rank):
    """f = ‖W‖⁴ on W (m, k): E[f E]/σ = 4 ‖W‖² W + 4σ² (m k + 2 + 2 c) W, c = (m + k + 1)/r, 0 as r → ∞.

    With S = ‖E‖², T = ⟨W, E⟩: f = (‖W‖² + 2σT + σ²S)², and E[f T]/σ = 4 ‖W‖² E[T²] + 4σ² E[S T²], where
    E[T²] = ‖W‖² and E[S T²] = ‖W‖² (m k + 2 + 2 (m + k + 1)/r): fourth moments of a Wishart matrix.
    """
    w = jax.random.normal(_key(), (5, 6))
    params, (m, k), square, sigma = {"w": w}, w.shape, float((w**2).sum()), 0.4

    def fun(params):
        return ((params["w"] @ jnp.eye(6)) ** 2).sum() ** 2

    smoothed = esjax.smooth_weights(fun, sigma=sigma, num_samples=32, rank=rank)
    mean, error = _mean_and_error(lambda key: (jax.grad(smoothed, 1)(key, params)["w"] * w).sum(), 16_000)
    normal = 4 * square**2 + 4 * sigma**2 * (m * k + 2) * square
    excess = 4 * sigma**2 * 2 * (m + k + 1) / rank * square
    assert abs(mean - normal - excess) < 4 * error and excess > 8 * error


def test_sigma_has_an_unbiased_gradient_shared_and_by_leaf():
    """f = ‖W‖² + a·v: E f = ‖W‖² + σ²mk, with slope 2σmk; v adds none."""
    params = {"w": jnp.ones((2, 5)), "v": jnp.ones(3)}

    def fun(params):
        return ((params["w"] @ jnp.eye(5)) ** 2).sum() + params["v"].sum() + (params["v"] ** 2).sum()

    smoothed = esjax.smooth_weights(fun, sigma=1.0, num_samples=64)
    for sigma, wanted in (
        (0.5, [2 * 0.5 * (10 + 3)]),
        ({"w": 0.5, "v": 0.25}, [2 * 0.25 * 3, 2 * 0.5 * 10]),
    ):
        sigma = jax.tree.map(jnp.float32, sigma)
        mean, error = _mean_and_error(
            lambda key, sigma=sigma: jnp.stack(
                jax.tree.leaves(jax.grad(lambda s: smoothed(key, params, sigma=s))(sigma))
            ),
            2000,
        )
        assert (np.abs(mean - np.array(wanted)) < 4 * error).all()


def test_gradients_in_args_are_pathwise():
    smoothed = esjax.smooth_weights(likelihood, sigma=1e-4, num_samples=8, chunk_size=4)
    found = jax.grad(smoothed, 2)(_key(), PARAMS, X, LABELS)
    exact = jax.jit(jax.grad(likelihood, 1))(PARAMS, X, LABELS)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-4)
    both = jax.grad(smoothed, (1, 2))(_key(), PARAMS, X, LABELS)
    alone = jax.grad(smoothed, 1)(_key(), PARAMS, X, LABELS)
    np.testing.assert_allclose(both[1], found, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(_flat(both[0]), _flat(alone), rtol=1e-2, atol=1e-2)


# --- transformations ---------------------------------------------------------------------------------


def test_vmap_jit_and_scan_give_what_single_calls_do():
    smoothed = esjax.smooth_weights(likelihood, sigma=0.2, num_samples=8)
    xs = jnp.stack([X, 2 * X, -X])
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf, -leaf]), PARAMS)
    gradient = jax.value_and_grad(smoothed, 1)
    alone = [
        gradient(key, jax.tree.map(lambda leaf, i=i: leaf[i], many), xs[i], LABELS)
        for i, key in enumerate(jax.random.split(_key(), 3))
    ]
    mapped = jax.jit(jax.vmap(gradient, (0, 0, 0, None)))(jax.random.split(_key(), 3), many, xs, LABELS)

    def step(carry, each):
        key, params, x = each
        return carry, gradient(key, params, x, LABELS)

    _, scanned = jax.lax.scan(step, None, (jax.random.split(_key(), 3), many, xs))
    for i in range(3):
        for found in (mapped, scanned):
            np.testing.assert_allclose(
                _flat(jax.tree.map(lambda leaf, i=i: leaf[i], found)), _flat(alone[i]), rtol=1e-4, atol=1e-4
            )


def test_chunks_do_not_change_what_is_drawn():
    found = [
        jax.value_and_grad(esjax.smooth_weights(likelihood, sigma=0.2, num_samples=22, chunk_size=size), 1)(
            _key(), PARAMS, X, LABELS
        )
        for size in (None, 2, 8)
    ]
    for other in found[1:]:
        np.testing.assert_allclose(_flat(other), _flat(found[0]), rtol=1e-4, atol=1e-5)


def test_eight_devices_share_the_samples_and_reduce_once():
    script = Path(__file__).parent / "sharded_weights.py"
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    given = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, script], env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.splitlines()[-1])
    alone = np.concatenate(results["found"].pop("0"))
    assert len(results["found"]) == 2
    for leaves in results["found"].values():
        np.testing.assert_allclose(np.concatenate(leaves), alone, rtol=0, atol=1e-5 * np.abs(alone).max())
    transfer = r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(-start)?\("
    sizes = [
        int(np.prod([int(number) for number in shape.split(",") if number]))
        for types, *_ in re.findall(transfer, results["hlo"])
        for shape in re.findall(r"\w+\[([\d,]*)\]", types)
    ]
    num_weights = 40 * 50 + 50 * 3 + 3
    assert sizes.count(num_weights) == 1 and sum(sizes) < num_weights + 10  # the rest are single numbers


def test_the_report_says_what_it_says_of_smooth_and_where_weights_became_matrices():
    def fun(params, x):
        return jnp.tanh(x @ (params["w"] @ params["w"].T)).mean() + params["table"].sum() * 0.1

    params = {"w": jax.random.normal(_key(), (6, 9)), "table": jnp.ones((4, 5))}
    smoothed = esjax.smooth_weights(fun, sigma=0.1, num_samples=64)
    value, report = jax.jit(smoothed.with_info)(_key(), params, X)
    np.testing.assert_allclose(value, smoothed(_key(), params, X), rtol=1e-5)
    assert isinstance(report, Report) and report.num_samples == 64
    *products, table = report.matrices
    assert table == "params['table'] [4, 5] in full: no product takes it"
    assert len(products) == 2 and all(
        re.match(r"params\['w'\] \[\d, \d\] in dot_general, .*test_smooth_weights.py:\d+", line)
        for line in products
    )
    assert "weights that became matrices" in str(report) and table in str(report)
    gradients = jax.vmap(jax.grad(smoothed, 1), (0, None, None))(jax.random.split(_key(), 400), params, X)
    spread = np.sqrt(sum(np.var(leaf, axis=0).sum() for leaf in jax.tree.leaves(gradients)))
    reports = jax.vmap(smoothed.with_info, (0, None, None))(jax.random.split(_key(), 400), params, X)[1]
    typical = np.sqrt(np.mean(np.square(reports.gradient_error)))
    assert abs(typical / spread - 1) < 0.05


# --- refusals ----------------------------------------------------------------------------------------


def _called(fun=likelihood, params=PARAMS, args=(X, LABELS), **options):
    options = {"sigma": 0.1, "num_samples": 4} | options
    return esjax.smooth_weights(fun, **options)(_key(), params, *args)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rank": 0}, r"rank=0 must be a whole number >= 1"),
        ({"rank": 9}, r"rank=9 is above that of every matrix in params \(the largest is 7, .*use rank<=7"),
        ({"num_samples": 5}, r"num_samples=5 is odd, .*use num_samples=6"),
        ({"num_samples": 2}, r"makes 1 independent group"),
        ({"sigma": -1.0}, r"sigma=-1.0 must be a finite number > 0"),
        ({"sigma": {"w": 1.0}}, r"sigma has structure"),
        (
            {"sigma": jax.tree.map(jnp.ones_like, PARAMS)},
            r"sigma\['layer 0'\]\['b'\] has shape \(8,\).*one number",
        ),
        (
            {"params": {"b": jnp.ones(3)}, "fun": lambda p, *_: p["b"].sum()},
            r"only vectors .*use esjax.smooth",
        ),
        ({"params": PARAMS | {"n": np.arange(3)}}, r"params\['n'\] has dtype int32, .*pass it in args"),
        ({"params": PARAMS | {"f": jnp.tanh}}, r"params\['f'\]=.* is not an array.*eqx.partition"),
        ({"params": {}}, r"params has no arrays in it"),
        ({"fun": lambda *_: jnp.arange(3)}, r"the value of fun has dtype int32"),
        ({"fun": lambda *_: ()}, r"the value of fun has no arrays in it"),
        ({"fun": 3}, r"fun=3 is not callable"),
    ],
)
def test_what_is_wrong_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        _called(**changed)


def test_second_derivatives_and_forward_mode_are_refused():
    smoothed = esjax.smooth_weights(likelihood, sigma=0.1, num_samples=4)

    def slope(params):
        return _square_sum(jax.grad(smoothed, 1)(_key(), params, X, LABELS))

    with pytest.raises(ValueError, match="first derivatives only"):
        jax.grad(slope)(PARAMS)
    with pytest.raises(TypeError, match="no forward mode"):
        jax.jvp(lambda params: smoothed(_key(), params, X, LABELS), (PARAMS,), (PARAMS,))


def _square_sum(tree):
    return sum((leaf**2).sum() for leaf in jax.tree.leaves(tree))


def test_a_gradient_in_args_through_a_derivative_rule_that_takes_a_weight_is_refused():
    @jax.custom_vjp
    def product(x, w):
        return x @ w

    product.defvjp(lambda x, w: (x @ w, w), lambda w, g: (2 * g @ w.T, None))
    smoothed = esjax.smooth_weights(lambda p, x: product(x, p["w"]).sum(), sigma=0.1, num_samples=4)
    params = {"w": jnp.ones((6, 7))}
    assert jax.grad(smoothed, 1)(_key(), params, X)["w"].shape == (6, 7)
    with pytest.raises(ValueError, match="a derivative rule of its own"):
        jax.grad(smoothed, 2)(_key(), params, X)


def test_leaves_narrower_than_float32_and_other_dtypes_of_activations():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)

    seen = []

    def fun(params, x, labels):
        seen.append(params["layer 0"]["w"].dtype)
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
        return likelihood(half, x.astype(jnp.bfloat16), labels).astype(jnp.float32)

    value, gradient = jax.value_and_grad(esjax.smooth_weights(fun, sigma=0.1, num_samples=64), 1)(
        _key(), params, X, LABELS
    )
    assert seen[0] == jnp.float32 and gradient["layer 0"]["w"].dtype == jnp.bfloat16
    exact = esjax.smooth_weights(likelihood, sigma=0.1, num_samples=64)(_key(), PARAMS, X, LABELS)
    np.testing.assert_allclose(value, exact, rtol=0.02)


@pytest.mark.parametrize(
    "sampler", [esjax.samplers.iid, esjax.samplers.antithetic, esjax.samplers.orthogonal]
)
def test_samplers_baselines_and_several_values(sampler):
    def fun(params, x):
        return jax.nn.softmax(_logits(params, x)).mean(0)

    exact = jax.jit(jax.jacrev(fun))(PARAMS, X)
    for baseline in (esjax.baselines.leave_one_out, esjax.baselines.at_input):
        smoothed = esjax.smooth_weights(fun, sigma=1e-2, num_samples=16, sampler=sampler, baseline=baseline)
        mean, error = _mean_and_error(
            lambda key, smoothed=smoothed: jnp.concatenate(
                [jnp.ravel(leaf) for leaf in jax.tree.leaves(jax.jacrev(smoothed, 1)(key, PARAMS, X))]
            ),
            400,
        )
        z = (mean - _flat(exact)) / error
        assert np.abs(z).max() < 5 and (z**2).mean() < 1.4


def test_devices_that_have_their_own_examples_add_up_their_gradients():
    """With one device: what `shard_map` says of types is there for one as for many."""
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec

    def mean(params, key, x):
        closed_over = esjax.smooth_weights(lambda p: likelihood(p, x, LABELS), sigma=0.1, num_samples=8)
        return jax.lax.pmean(closed_over(key, params), "d")

    spread = jax.shard_map(mean, mesh=mesh, in_specs=(spec(), spec(), spec("d")), out_specs=spec())
    found = jax.jit(jax.grad(spread))(PARAMS, _key(), X)
    alone = jax.grad(esjax.smooth_weights(likelihood, sigma=0.1, num_samples=8), 1)(_key(), PARAMS, X, LABELS)
    np.testing.assert_allclose(_flat(found), _flat(alone), rtol=1e-4, atol=1e-5)
