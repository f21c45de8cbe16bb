"""The task of assignments: answers by enumeration, data and losses by hand, and all from end to end."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esjax.tasks import TASKS, assignment
from esjax.train import cli

ORDERS = np.stack([np.eye(5)[list(order)].ravel() for order in itertools.permutations(range(5))])


def test_the_assignment_is_the_cheapest_of_all():
    rng = np.random.default_rng(0)
    for _ in range(20):
        costs = rng.normal(size=25)
        assert np.array_equal(assignment.cheapest(costs), ORDERS[(ORDERS @ costs).argmin()])


def test_costs_are_a_power_of_sums_of_features_times_noise(monkeypatch):
    first, second = assignment.make(np.random.default_rng(0), 4000, 50)
    assert [array.shape for array in second] == [(50, 5), (50, 25), (50, 25)]
    monkeypatch.setattr(assignment, "_NOISE", 0.0)
    plain, _ = assignment.make(np.random.default_rng(0), 4000, 50)
    factors = first.costs / plain.costs
    assert 0.5 <= factors.min() < 0.501 and 1.499 < factors.max() <= 1.5
    assert factors.mean() == pytest.approx(1, abs=4 * 12**-0.5 / 1e5**0.5)
    sums = (plain.costs.astype(np.float64) * 3.5**6 - 1) ** (1 / 6)  # 3 + ⟨b, x⟩ / √5, where that is > 0
    rows = (sums > 1).all(1) & (plain.features @ np.ones(5) > -3)
    mixed = np.linalg.lstsq(plain.features[rows].astype(np.float64), sums[rows] - 3, rcond=None)[0] * 5**0.5
    np.testing.assert_allclose(mixed, np.round(mixed), atol=0.02)
    assert set(np.round(mixed).ravel()) == {0, 1}


def _problem(seed=0):
    """A model, and data of one example, of which a batch holds copies."""
    rng = np.random.default_rng(seed)
    (one,) = assignment.make(rng, 1)
    linear, offset = rng.normal(size=(5, 25)) / 3, rng.normal(size=25) + 1
    params = {"linear": jnp.asarray(linear, jnp.float32), "offset": jnp.asarray(offset, jnp.float32)}
    predicted = one.features[0] @ linear + offset
    return params, tuple(map(jnp.asarray, one)), predicted, one.costs[0].astype(float), one.best[0]


@pytest.mark.parametrize("seed", range(4))
def test_spo_plus_and_its_gradient_are_those_of_enumeration(seed):
    params, data, predicted, costs, best = _problem(seed)
    value, gradient = jax.value_and_grad(assignment._spo_plus)(params, jax.random.key(0), data)
    worst = ORDERS[(ORDERS @ (costs - 2 * predicted)).argmax()]
    expected = (ORDERS @ (costs - 2 * predicted)).max() + 2 * predicted @ best - costs @ best
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient["offset"], 2 * (best - worst), atol=1e-5)
    chosen = ORDERS[(ORDERS @ predicted).argmin()]
    assert value >= costs @ (chosen - best) - 1e-4  # it bounds the regret


def test_the_gradient_of_the_black_box_interpolates_between_two_answers():
    params, data, predicted, costs, _ = _problem()
    for step in (0.5, 20.0):
        gradient = jax.grad(assignment._black_box(step))(params, jax.random.key(0), data)
        answer, moved = (ORDERS[(ORDERS @ each).argmin()] for each in (predicted, predicted + step * costs))
        np.testing.assert_allclose(gradient["offset"], (moved - answer) / step, atol=1e-5)
        np.testing.assert_allclose(
            gradient["linear"], np.outer(data[0][0], (moved - answer) / step), rtol=1e-4, atol=1e-5
        )
    assert (moved != answer).any()


def test_the_fenchel_young_loss_and_its_gradient_are_those_of_enumeration():
    params, data, predicted, _, best = _problem()
    loss = jax.jit(jax.value_and_grad(assignment._fenchel_young(0.5)))
    found = [
        loss(params, key, data) for key in jax.random.split(jax.random.key(0), 40)
    ]  # 32 copies of 8 samples
    values, slopes = np.array([value for value, _ in found]), np.stack([each["offset"] for _, each in found])
    draws = predicted + 0.5 * np.random.default_rng(1).normal(size=(200_000, 25))
    least = (draws @ ORDERS.T).argmin(1)
    chances = np.bincount(least, minlength=len(ORDERS)) / len(draws)
    expected = predicted @ best - (draws * ORDERS[least]).sum(1).mean()
    assert abs(values.mean() - expected) < 5 * values.std() / 40**0.5
    assert (np.abs(slopes.mean(0) - (best - chances @ ORDERS)) < 5 * slopes.std(0) / 40**0.5 + 2e-3).all()


def test_least_squares_are_those_of_the_normal_equations():
    (examples,) = assignment.make(np.random.default_rng(0), 200)
    params = assignment.least_squares(examples)
    left = examples.costs - examples.features @ np.asarray(params["linear"]) - np.asarray(params["offset"])
    np.testing.assert_allclose(left.T @ examples.features, 0, atol=0.05)
    np.testing.assert_allclose(left.sum(0), 0, atol=0.05)


def test_all_that_see_the_solver_beat_least_squares_on_new_examples(monkeypatch):
    for name in ("_SPO_PLUS", "_BLACK_BOX", "_FENCHEL_YOUNG"):
        monkeypatch.setattr(assignment, name, getattr(assignment, name)[-1:])
    monkeypatch.setattr(assignment, "_NUM_STEPS", 150)
    monkeypatch.setattr(assignment, "_NUM_TEST", 2000)
    least_squares, *others = TASKS["assignment"](None).compare(0).values()
    assert all(0 <= regret < 0.9 * least_squares for regret in others)


def test_wrong_input_is_said_in_one_line(tmp_path, capsys):
    assert cli.main(["task", "assignment", "--data", str(tmp_path), "--out", str(tmp_path / "new")]) == 2
    assert "ship in a package" in capsys.readouterr().err
