"""Training end to end on small images: what it learns, what it leaves on disk, how it goes on."""

import itertools
import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import kill_and_resume
import numpy as np
import optax
import pytest
from flax import nnx
from scipy import stats
from sklearn import metrics

import esjax
from esjax.train import checkpoint, cli, config, folder, loop, models, objectives, run, step
from esjax.train.data import Dataset


def _blobs(seed=0, num_classes=3, size=4):
    """Images of one bright corner each, which tells the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(120, dtype=np.int32) % num_classes
    images = rng.uniform(0, 0.3, (120, size, size, 1)).astype(np.float32)
    images[np.arange(120), labels // 2 * (size - 1), labels % 2 * (size - 1), 0] += 0.7
    return Dataset("blobs", images[:90], labels[:90], images[90:], labels[90:], num_classes)


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "blobs.npz"
    data = _blobs()
    arrays = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(path, **{name: getattr(data, name) for name in arrays})
    return path


def _options(npz, **options):
    small = {"network": "mlp", "epochs": 4, "batch_size": 30, "num_samples": 8, "checkpoint_every": 2}
    return config.TrainConfig(**{"data": str(npz)} | small | options)


def _leaves(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def _train(options, path, stop_after=None):
    """Trains in a new folder; `stop_after` epochs the process dies, as far as the files can tell."""
    prepared = run.set_up(options)
    run.begin(prepared, path)

    def on_epoch(epoch):
        if epoch.epoch == stop_after:
            raise KeyboardInterrupt

    return run.finish(prepared, path, on_epoch=on_epoch)


@pytest.fixture(scope="module")
def whole(npz, tmp_path_factory):
    """A run that was never stopped, and its folder."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return _train(_options(npz), path), path


@pytest.mark.parametrize(
    ("network", "objective", "estimator"),
    [
        ("mlp", "accuracy", "es"),
        ("cnn", "accuracy", "es"),
        ("mlp", "accuracy", "exact"),
        ("cnn", "macro-f1", "es"),
        ("mlp", "macro-f1", "exact"),
        ("cnn", "cross-entropy", "es"),
        ("mlp", "label-smoothing", "es"),
        ("mlp", "generalised-cross-entropy", "es"),
    ],
)
def test_each_objective_learns_separable_images(npz, tmp_path, network, objective, estimator):
    named = {"network": network, "objective": objective, "estimator": estimator}
    options = _options(npz, **named, epochs=40, num_samples=32, checkpoint_every=40)
    result = _train(options, tmp_path / "run")
    assert result.epochs[-1].test_accuracy == 1.0
    assert result.confusion.tolist() == np.diag([10, 10, 10]).tolist()


def test_top_k_brings_labels_among_the_k_largest_and_no_further(npz):
    prepared = run.set_up(_options(npz, objective="top-k", estimator="exact", k=2, epochs=20, sigma=0.5))
    *_, (state, epoch) = run.stream(prepared)
    logits = prepared.trainer.logits(state, prepared.data.test_images)
    two = np.asarray(logits).argsort(1)[:, 1:]
    assert (two == prepared.data.test_labels[:, None]).any(1).all() and epoch.loss < -0.95


def _smoothed_metrics(logits, labels, sigma):
    """−accuracy, −top-2 accuracy and −macro-F1 of two examples, smoothed, by all pairs of rankings."""
    values = np.zeros(3)
    orders = [_order_chances(row / sigma) for row in np.asarray(logits, np.float64)]
    for one, two in itertools.product(*orders):
        chance = orders[0][one] * orders[1][two]
        first, places = [one[0], two[0]], [one.index(labels[0]), two.index(labels[1])]
        f1 = metrics.f1_score(labels, first, labels=range(3), average="macro", zero_division=0)
        values -= chance * np.array([np.equal(places, 0).mean(), np.less(places, 2).mean(), f1])
    return values


def _order_chances(scores):
    """P(u_a > u_b > u_c) of three normal variables, by nested quadrature."""
    u = np.linspace(-9, 9, 1801)
    pdf, step = np.exp(-u * u / 2) / np.sqrt(2 * np.pi), u[1] - u[0]
    chances = {}
    for a, b, c in itertools.permutations(range(3)):
        at_b = u + scores[b]
        below = stats.norm.cdf(at_b - scores[c]) * stats.norm.sf(at_b - scores[a])
        chances[a, b, c] = (pdf * below).sum() * step
    return chances


@pytest.mark.parametrize("names", objectives.SMOOTHED)
def test_the_gradient_that_reaches_the_network_is_that_of_the_smoothed_metric(names):
    """Against central differences of the metric over all rankings of a linear network's logits."""
    images, labels = jnp.array([[0.5, -0.2], [0.1, 0.9]]), jnp.array([2, 1])
    sigma, weights = 0.7, jnp.array([[0.3, -0.1, 0.2], [0.2, 0.4, -0.3]])
    index = ["accuracy", "top-k", "macro-f1"].index(names[0])
    objective = objectives.SMOOTHED[names](sigma, config.TrainConfig(num_samples=16, k=2))

    def exact(weights):
        return _smoothed_metrics(np.asarray(images) @ weights.reshape(2, 3), [2, 1], sigma)[index]

    flat = np.asarray(weights, np.float64).ravel()
    truth = [(exact(flat + axis) - exact(flat - axis)) / 2e-4 for axis in np.eye(6) * 1e-4]

    def estimated(key):
        return jax.grad(lambda w: objective(key, images @ w, labels)[0])(weights)

    keys = jax.random.split(jax.random.key(3), 8000 if names[1] == "es" else 2)
    draws = np.asarray(jax.jit(jax.vmap(estimated))(keys), np.float64).reshape(len(keys), 6)
    error = np.maximum(draws.std(0) / len(draws) ** 0.5, 1e-6)
    assert np.abs((draws.mean(0) - truth) / error).max() < 4


@pytest.mark.parametrize("estimator", ["es", "exact"])
def test_signal_to_noise_is_logged_where_samples_made_the_gradient(npz, tmp_path, estimator):
    result = _train(_options(npz, estimator=estimator, num_samples=32), tmp_path / "run")
    logged = [json.loads(line) for line in (tmp_path / "run" / folder.LOG).read_text().splitlines()]
    for epoch, line in zip(result.epochs, logged, strict=True):
        assert line["signal_to_noise"] == epoch.signal_to_noise
        assert (epoch.signal_to_noise is None) == (estimator == "exact")
        assert epoch.signal_to_noise is None or 0 < epoch.signal_to_noise < 100
        assert len(epoch.class_gradients) == 3 and all(norm > 0 for norm in epoch.class_gradients)


def test_the_gradient_of_each_class_is_that_of_its_examples():
    network = models.MLP((4, 4, 1), 3, rngs=nnx.Rngs(0))
    trainer, state = step.make_trainer(
        network, objectives.in_closed_form(partial(esjax.exact.accuracy, sigma=0.5)), optax.sgd(0.0)
    )
    images, labels = _blobs().train_images[:30], _blobs().train_labels[:30] % 2  # no example of class 2
    _, metrics = trainer.step(state, (images, labels), jax.random.key(0))
    logits = nnx.clone(network)(images)
    of_one = jax.vmap(jax.grad(lambda x, label: esjax.exact.accuracy(x, label, 0.5)))(logits, labels)
    norms = np.linalg.norm(of_one, axis=1)
    np.testing.assert_array_equal(metrics.class_counts, [20, 10, 0])
    truth = [norms[labels == 0].sum(), norms[labels == 1].sum(), 0]
    np.testing.assert_allclose(metrics.class_gradients, truth, rtol=1e-4)


def test_a_class_that_is_lost_for_good_is_told_from_one_that_may_come_back(npz, tmp_path, capsys):
    arguments = ["train", "--data", str(npz), "--network", "mlp", "--epochs", "2", "--batch-size", "30"]
    arguments += ["--estimator", "exact", "--sigma", "1e-3", "--learning-rate", "10"]
    assert cli.main([*arguments, "--out", str(tmp_path / "run")]) == 0
    last = json.loads((tmp_path / "run" / folder.LOG).read_text().splitlines()[-1])
    lost = [label for label, recall in enumerate(last["recall"]) if recall == 0]
    assert f"never right for classes {lost}\n" in capsys.readouterr().out and lost
    epoch = loop.Epoch(**last | {"recall": [1.0, 0.0, 0.0], "class_gradients": [2.0, 0.001, 1.0]})
    assert (epoch.lost_classes, epoch.vanished_classes) == ([1, 2], [1])


def test_a_network_and_a_block_of_ones_own_train_in_a_few_lines():
    class Linear(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(16, rngs=rngs)
            self.dropout = nnx.Dropout(0.1, rngs=rngs)
            self.logits = nnx.Linear(16, 3, rngs=rngs)

        def __call__(self, images):
            return self.logits(self.dropout(self.norm(images.reshape(len(images), -1))))

    def top_two(logits, label):
        return jnp.isin(label, jnp.argsort(logits)[-2:]).astype(logits.dtype)

    objective = objectives.per_example(esjax.smooth(top_two, sigma=1.0, num_samples=16))
    trainer, state = step.make_trainer(Linear(nnx.Rngs(0)), objective, optax.adam(0.1))
    before = state.variables["norm"]["mean"].get_value()
    epochs = list(loop.epochs(trainer, state, _blobs(), num_epochs=10, batch_size=30, seed=0))
    state, last = epochs[-1]
    assert last.loss < -0.95 and int(state.step) == 30
    assert np.any(before != state.variables["norm"]["mean"].get_value())
    once, again = (trainer.logits(state, _blobs().test_images) for _ in range(2))
    np.testing.assert_array_equal(once, again)  # no dropout in evaluation


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_run_that_goes_on_ends_bit_for_bit_like_one_that_was_never_stopped(
    npz, whole, tmp_path, stop_after
):
    with pytest.raises(KeyboardInterrupt):
        _train(_options(npz), tmp_path / "cut", stop_after=stop_after)
    with (tmp_path / "cut" / folder.LOG).open("a") as file:
        file.write('{"epoch": 9, "lo')  # the line that a kill cuts short
    resumed = run.finish(run.resume(tmp_path / "cut"), tmp_path / "cut")
    result, _ = whole
    for a, b in zip(_leaves(result.state), _leaves(resumed.state), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [e._replace(seconds_per_step=0) for e in result.epochs] == (
        [e._replace(seconds_per_step=0) for e in resumed.epochs]
    )
    lines = (tmp_path / "cut" / folder.LOG).read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


def test_a_process_killed_while_it_writes_a_checkpoint_is_gone_on_with(npz, tmp_path):
    """Once; `python tests/kill_and_resume.py` kills more often."""
    options = kill_and_resume.options(npz, epochs=20)
    state = kill_and_resume.never_killed(options, tmp_path / "whole")
    ((_, epochs, unfinished),) = kill_and_resume.killed(options, tmp_path / "killed", ["checkpoint"], seed=0)
    assert epochs > 0 and unfinished
    kill_and_resume.assert_same(state, tmp_path / "killed")


def test_the_chosen_sigma_is_written_down_and_used_again(npz, tmp_path):
    _train(_options(npz, logits="raw", held_out=0), tmp_path / "run")
    network = models.MLP((4, 4, 1), 3, rngs=nnx.Rngs(run._init_key(0)))
    logits = np.asarray(network(_blobs().train_images), np.float64)
    expected = 10 * np.sqrt(np.mean((logits - logits.mean(1, keepdims=True)) ** 2))
    written = json.loads((tmp_path / "run" / folder.CONFIG).read_text())["sigma"]
    assert written == pytest.approx(expected, rel=1e-5)
    assert run.resume(tmp_path / "run").config.sigma == written


def test_a_checkpoint_of_another_network_says_so(npz, whole):
    other = run.set_up(_options(npz, network="cnn")).state
    with pytest.raises(
        ValueError, match=r"another network.*it has nothing as .*conv1.*, and this one has float32"
    ):
        checkpoint.restore(whole[1] / folder.CHECKPOINTS, other)


def test_a_damaged_checkpoint_says_so_and_the_one_before_it_can_be_used(whole, tmp_path):
    copied = shutil.copytree(whole[1], tmp_path / "run")
    checkpoints = copied / folder.CHECKPOINTS
    for file in (checkpoints / "4").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"not a sound checkpoint.*remove that folder"):
        run.resume(copied)
    for file in sorted((checkpoints / "4").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    (checkpoints / "4").rmdir()
    assert int(run.resume(copied).state.step) == 4


def test_random_keys_in_a_network_are_saved_too(tmp_path):
    state = {"rng": jax.random.key(3), "count": jnp.int32(1)}
    assert checkpoint.restore(tmp_path / "none", state) is None
    checkpoint.save(tmp_path / "c", 1, state)
    restored = checkpoint.restore(tmp_path / "c", {"rng": jax.random.key(0), "count": jnp.int32(0)})
    assert jax.random.uniform(restored["rng"]) == jax.random.uniform(state["rng"])


def test_a_block_that_returns_several_numbers_is_no_objective():
    objective = objectives.per_example(esjax.smooth(lambda x, label: x, sigma=1.0, num_samples=4))
    with pytest.raises(ValueError, match=r"shape \(5, 3\) instead of \(5,\); return one number"):
        objective(jax.random.key(0), jnp.zeros((5, 3)), jnp.zeros(5, jnp.int32))


def test_a_loss_that_is_not_finite_stops_training():
    trainer, state = step.make_trainer(
        models.MLP((4, 4, 1), 3, rngs=nnx.Rngs(0)),
        lambda key, logits, labels: (logits.sum() * jnp.nan, None),
        optax.adam(0.1),
    )
    with pytest.raises(FloatingPointError, match="epoch 1: the loss is nan"):
        list(loop.epochs(trainer, state, _blobs(), num_epochs=1, batch_size=30, seed=0))


def test_an_objective_without_its_report_is_refused():
    network = models.MLP((4, 4, 1), 3, rngs=nnx.Rngs(0))
    trainer, state = step.make_trainer(network, lambda key, logits, labels: logits.sum(), optax.adam(0.1))
    batch = _blobs().train_images[:4], _blobs().train_labels[:4]
    with pytest.raises(ValueError, match=r"objective returns \(\); return \(loss, report\)"):
        trainer.step(state, batch, jax.random.key(0))


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 7), (1, 2)])
def test_halving_is_max_pooling_with_padded_edges(height, width):
    x = jax.random.uniform(jax.random.key(0), (2, height, width, 3))
    pooled = nnx.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")
    np.testing.assert_array_equal(models._halve(x), pooled)


def test_logits_are_centred_by_their_batch_and_in_evaluation_by_the_batches_before():
    centred = models.Centred(3)
    centred.offset[...] = jnp.array([1.0, 0.0, -1.0])
    batches = np.random.default_rng(0).normal(size=(4, 20, 3)).astype(np.float32) + np.arange(3)
    for logits in batches.astype(np.float32):
        expected = logits - logits.mean(0) + np.array([1, 0, -1])
        np.testing.assert_allclose(centred(jnp.asarray(logits)), expected, atol=1e-5)
    centred.eval()
    one = jnp.array([[2.0, 3.0, 5.0]])
    expected = one - batches.mean((0, 1)) + np.array([1, 0, -1])  # of fewer than 50: the plain mean
    np.testing.assert_allclose(centred(one), expected, atol=1e-5)
    np.testing.assert_array_equal(centred(one), centred(one))


def test_a_drift_of_all_examples_gets_no_gradient_but_by_the_offset():
    def loss(shift):
        logits = models.Centred(3)(jnp.eye(3) + shift)
        return esjax.exact.accuracy(logits, jnp.arange(3), 1.0).mean()

    np.testing.assert_allclose(jax.grad(loss)(jnp.array([3.0, 0.0, -2.0])), 0, atol=1e-6)


def test_robust_losses_are_their_formulas():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 4)).astype(np.float32), rng.integers(0, 4, 6)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    mine = p[np.arange(6), labels]
    found, _ = objectives.generalised_cross_entropy(None, jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(found, np.mean((1 - mine**0.7) / 0.7), rtol=1e-5)
    found, _ = objectives.label_smoothing(None, jnp.asarray(logits), jnp.asarray(labels))
    wanted = np.mean(-0.9 * np.log(mine) - 0.1 * np.log(p).mean(1))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_survival_model_learns_from_the_concordance_of_all_its_examples():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)).astype(np.float32)
    times, events = np.exp(x[:, 0] - x[:, 1]), rng.uniform(size=60) < 0.7
    objective = objectives.of_batch_in_closed_form(partial(esjax.exact.concordance, sigma=1.0))
    weights = jnp.zeros(3)
    loss = jax.jit(jax.value_and_grad(lambda w: objective(None, x @ w, times, events)[0]))
    np.testing.assert_allclose(loss(weights)[0], -0.5, atol=1e-6)
    for _ in range(30):
        weights = weights - 20 * loss(weights)[1]
    assert esjax.blocks.concordance(x @ weights, times, events) > 0.97
