"""The references, baselines and adapters that figures are measured with, and how they are reported."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esjax
from esjax.benchmarks import __main__ as command
from esjax.benchmarks import (
    black_boxes,
    defaults,
    local,
    measure,
    metric_peers,
    mnist,
    mnist_networks,
    peers,
    plots,
    problems,
    references,
    report,
    sorting,
    strategies,
)
from esjax.train import data

X = np.array([0.3, -0.6, 0.9], np.float32)


def _assert_mean_is(draws, wanted):
    error = draws.std(0, ddof=1) / len(draws) ** 0.5
    assert (np.abs(draws.mean(0) - wanted) < 4 * error + 1e-6).all()


def _draws(call, num_keys):
    """Returns what a function of a key gives, one key after the other, in one program."""
    keys = jax.random.split(jax.random.key(0), num_keys)
    return np.asarray(jax.jit(lambda keys: jax.lax.map(call, keys))(keys), float)


@pytest.mark.parametrize("noise", references.LAWS)
def test_jacobian_of_sort_is_the_chance_of_each_position(noise):
    eps = references.LAWS[noise].rvs(size=(20_000, 3), random_state=np.random.RandomState(0))
    positions = (X + 0.7 * eps).argsort(-1)
    hits = (positions[:, :, None] == np.arange(3)).astype(float)
    _assert_mean_is(hits, references.sort_jacobian(X.astype(float), 0.7, references.LAWS[noise]))


@pytest.mark.parametrize("noise", references.LAWS)
def test_jacobian_of_rank_is_the_slope_of_chances(noise):
    law = references.LAWS[noise]
    jacobian = references.rank_jacobian(X.astype(float), 0.7, law)
    u = law.ppf((np.arange(200_000) + 0.5) / 200_000)

    def chance_below(x, i, j):  # P(item j is below item i)
        return law.cdf(u + (x[i] - x[j]) / 0.7).mean()

    step = 1e-3
    for i in range(3):
        for j in set(range(3)) - {i}:
            up, down = X.astype(float), X.astype(float)
            up[j], down[j] = up[j] + step, down[j] - step
            slope = (chance_below(up, i, j) - chance_below(down, i, j)) / (2 * step)
            np.testing.assert_allclose(jacobian[i, j], slope, rtol=1e-4)
    np.testing.assert_allclose(jacobian.sum(1), 0, atol=1e-12)


def test_there_are_24_strategies_and_those_at_random_points_are_unbiased():
    assert len({strategy.name for strategy in strategies.ALL}) == 24
    exact = references.sort_jacobian(X.astype(float), 0.7, references.LAWS["normal"])
    at_random = [each for each in strategies.ALL if "rqmc" in each.name or each.name.startswith("mc")]
    unbiased = [  # elsewhere the baseline depends on points that depend on each other
        each for each in at_random if "leave-one-out" not in each.name or each.name == "mc, leave-one-out"
    ]
    assert len(unbiased) == 13
    normal = esjax.noise.normal
    compiled = normal._replace(icdf=jax.jit(normal.icdf), score=jax.jit(normal.score))
    for strategy in unbiased:
        random = np.random.default_rng(1)
        draws = [strategies.jacobian(strategy, np.sort, compiled, 0.7, 64, random, X) for _ in range(200)]
        _assert_mean_is(np.array(draws), exact)


@pytest.mark.parametrize("name", black_boxes.PEERS)
@pytest.mark.parametrize("make", [problems.rank_correlation, problems.rounding, problems.threshold_count])
def test_every_peer_estimates_the_gradient_of_the_reference(name, make):
    problem = make(10)
    call = black_boxes.PEERS[name](problem, 64)
    _assert_mean_is(_draws(lambda key: call(key, problem.x)[1], 400), np.asarray(problem.gradient))


LOCAL = {
    "median": lambda: local.median_count(7),
    "erosion": lambda: local.erosion(4),
    "stencil": lambda: local.stencil(8),
    "jpeg": lambda: local.jpeg(1, 2**13),
    "rollout": lambda: local.rollout(4, 2**14),
}


@pytest.mark.parametrize("name", LOCAL)
def test_gradients_of_what_reads_little_of_x_have_the_mean_of_their_reference(name):
    """Sampled without credit; the references are closed forms or, of the last two, long runs with it."""
    problem = LOCAL[name]().problem
    smoothed = esjax.smooth(
        problem.fun, sigma=problem.sigma, num_samples=64, credit=esjax.credit.none, chunk_size=64
    )
    gradient = jax.grad(lambda key, x: smoothed(key, x).sum(), 1)
    draws = _draws(lambda key: gradient(key, problem.x), 100 if name == "jpeg" else 400)
    _assert_mean_is(draws, np.asarray(problem.gradient))


@pytest.mark.parametrize(
    ("made", "reads"), [(local.median_count(20), 5), (local.erosion(8), 9), (local.stencil(20), 49)]
)
def test_credit_is_found_in_what_reads_little_of_x(made, reads):
    problem, _ = made
    _, report = esjax.smooth(problem.fun, sigma=0.5, num_samples=4).with_info(jax.random.key(0), problem.x)
    assert float(report.share_credited) == pytest.approx(reads / problem.x.size)


@pytest.mark.parametrize("noise", ["normal", "gumbel"])
@pytest.mark.parametrize("name", ["esjax_jacobian", "optax_jacobian", "jaxopt_jacobian"])
def test_every_peer_estimates_the_jacobian_of_the_reference(name, noise):
    call = getattr(peers, name)(jnp.sort, noise, 0.7, 64)
    draws = _draws(lambda key: call(key, jnp.asarray(X)), 300)
    _assert_mean_is(draws, references.sort_jacobian(X.astype(float), 0.7, references.LAWS[noise]))


def test_estimates_of_a_batch_have_the_mean_of_the_closed_form():
    batch = problems.labelled(4, 3)
    exact = problems.accuracy_gradient(batch)
    for peer in (
        metric_peers.accuracy_plain,
        metric_peers.accuracy_iid,
        metric_peers.accuracy_auto,
        metric_peers.accuracy_optax,
    ):
        call = peer(batch, 64)
        _assert_mean_is(_draws(lambda key, call=call: call(key, batch.logits)[1], 200), exact)


def test_estimates_of_ndcg_have_the_mean_of_the_enumeration():
    lists = problems.lists(num_lists=2, num_items=4, sigma=1.0, k=2)._replace(
        relevance=jnp.array([[0.0, 2.0, 1.0, 0.0], [1.0, 0.0, 0.0, 3.0]])
    )

    def of_order(order, relevance):
        return esjax.blocks.ndcg(-jnp.argsort(order), relevance, k=2)

    of_each = jax.vmap(
        jax.grad(
            esjax.smooth_decisions(
                of_order,
                decision=esjax.decisions.ranking,
                sigma=1.0,
                estimator=esjax.decisions.enumeration,
            ),
            argnums=1,
        ),
        (None, 0, 0),
    )
    exact = jax.jit(of_each)(jax.random.key(0), lists.scores, lists.relevance)
    for call in (
        metric_peers.ndcg_optax(lists, 64),
        metric_peers.ndcg_auto(lists, 64),
        metric_peers.ndcg_decided(lists, 64, None),
        metric_peers.ndcg_decided(lists, 64, 2),
    ):
        draws = _draws(lambda key, call=call: call(key, lists.scores)[1], 200)
        _assert_mean_is(draws, exact / 2)
    _, gradient = jax.jit(metric_peers.ndcg_exact(lists))(jax.random.key(0), lists.scores)
    np.testing.assert_allclose(gradient, exact / 2, atol=1e-6)


def test_dijkstra_finds_the_paths_of_the_reference():
    random = np.random.RandomState(0)
    for _ in range(20):
        true, predicted = (random.rand(5, 5).astype(np.float32) + 0.1 for _ in range(2))
        found = problems._dijkstra_cost(true, predicted.ravel())
        wanted = jax.jit(problems.path_cost)(jnp.asarray(predicted), jnp.asarray(true))
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_ranks_of_rows_are_those_of_vectors():
    rows = np.random.RandomState(0).randn(6, 4).astype(np.float32)
    for block in sorting.BLOCKS.values():
        np.testing.assert_array_equal(block.of_rows(rows), jax.vmap(block.fun)(rows))


@pytest.mark.parametrize("name", sorting.BLOCKS)
def test_errors_of_all_strategies_are_measured(name):
    block = sorting.BLOCKS[name]
    exact = block.jacobian(X.astype(float), 1.0, references.LAWS["gumbel"])
    found = sorting._errors_of_strategies(block, "gumbel", [X], [exact], 5)
    assert list(found) == [strategy.name for strategy in strategies.ALL]
    assert all(0 < mean < 0.5 and error < mean / 2 for mean, error in found.values())
    assert found["cartesian qmc, none"][1] == pytest.approx(0, abs=1e-12)  # a fixed grid


def test_claims_say_whether_they_are_met(tmp_path):
    claims = [
        report.Claim("a", 1.0, 2.0),
        report.Claim("b", 3.0, 2.0),
        report.Claim("c", 3.0, 2.0, at_most=False),
        report.Claim("d", float("nan"), 2.0),
    ]
    assert [claim.met for claim in claims] == [True, False, True, False]
    table = report.Table("T", [{"": "x", "ms": (1.25, 0.1), "n": 3}])
    curve = report.Curve("N", "ms", "esjax", [1.0, 1000.0], [2.0, 3.0])
    section = report.Section("S", [table], claims, [curve])
    text = report.markdown(section)
    assert "| x | 1.25 ± 0.1 | 3 |" in text
    assert "2 of 4 claims met" in text and "| red | d | nan | at most 2 |" in text
    report.save(tmp_path, [section])
    saved = json.loads((tmp_path / "benchmarks.json").read_text())
    assert saved["sections"][0]["claims"][0]["met"] is True
    assert jax.__version__ in (tmp_path / "benchmarks.md").read_text()
    plots.draw(tmp_path / "curves.png", [curve], "title")
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_exponents_and_errors_are_what_they_say():
    assert measure.exponent([1.0, 2.0, 8.0], [3.0, 12.0, 192.0]) == pytest.approx(2)
    errors = measure.relative_errors(lambda key: jnp.array([3.0, 8.0]), np.array([3.0, 4.0]), num_repeats=2)
    np.testing.assert_allclose(errors, [0.8, 0.8])


def test_costs_are_of_the_functions_that_were_given():
    effort = measure.Effort(1, 1, 0.0)
    found = measure.side_by_side(
        {"one": lambda key, x: (x.sum(), 2 * x)}, jnp.ones(3), np.ones(3), effort=effort, num_repeats=2
    )["one"]
    assert found.error == (1.0, 0.0)  # g = 2 x beside 1: every error is 1
    assert found.effort == found.cost.seconds > 0


def test_a_section_that_is_none_is_refused():
    with pytest.raises(SystemExit, match="--only speed is not a section; choose from batches"):
        command.main(command.Options(only=("speed",)))


def test_a_file_in_place_of_the_folder_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"--out .*file cannot be a folder: File exists; name another"):
        command.main(command.Options(out=tmp_path / "file"))


def test_images_are_learned_from_how_many_are_right(tmp_path, monkeypatch):
    """Images are white on one side, and half are right by chance; one of 20 in the test has a wrong label."""
    labels = np.arange(100, dtype=np.int32) % 2
    images = np.random.default_rng(0).uniform(0, 0.2, (100, 28, 28, 1)).astype(np.float32)
    images[labels == 0, :, :10] += 0.5
    images[labels == 1, :, 18:] += 0.5
    test_labels = labels[80:].copy()
    test_labels[0] = 1
    known = data.Dataset("sides", images[:80], labels[:80], images[80:], test_labels, 2)
    monkeypatch.setattr(data, "load", lambda name: known)
    options = mnist.Options(out=tmp_path, seconds=1e-9, num_samples=32, population=32, batch_size=20)
    found = mnist.main(options)
    assert list(found) == ["esjax", "evosax, OpenES"]
    for (reached,) in found.values():
        assert (reached.steps, reached.train, reached.test) == (options.turn, 1, pytest.approx(0.95))
    assert (tmp_path / "mnist-mlp.png").stat().st_size > 5000


@pytest.mark.parametrize(("size", "stride"), [(7, 4), (3, 2)])
def test_products_of_patches_are_convolutions(size, stride):
    x = jax.random.normal(jax.random.key(0), (2, 28, 7, 3))
    kernel = jax.random.normal(jax.random.key(1), (size, size, 3, 5))
    found = mnist_networks._patches(x, size, stride) @ kernel.reshape(-1, 5)
    wanted = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_study_of_defaults_trains_all_methods_and_its_table_is_of_rates_chosen_by_what_is_held_out():
    study = defaults.Study(
        epochs=2,
        seeds=2,
        sigmas=(1.0,),
        learning_rates=(1e-6, 3e-3),
        label_noise=(0.0,),
        scales=(1.0,),
        estimator="exact",
    )
    rows = list(defaults.trained(study))
    assert [row.method for row in rows[:3]] == ["1", "3.33333", "cross-entropy"] and len(rows) == 12
    cells = defaults._cells(rows)
    assert all(row.learning_rate == 3e-3 and row.test_accuracy > 0.7 for cell in cells for row in cell.rows)
    assert max(cell.points for cell in cells[:2]) == 0
    means = [np.mean([100 * row.test_accuracy for row in cell.rows]) for cell in cells]
    assert cells[1].over_cross_entropy[0] == pytest.approx(means[1] - means[2])
    assert defaults.markdown(rows).count("\n| 0% | 1 | ") == 3
