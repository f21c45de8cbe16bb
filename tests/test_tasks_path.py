"""The task of shortest paths: routes by enumeration, costs and splits by hand, and all from end to end."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esjax.tasks import TASKS, frame, models, shortest_path, terrain
from esjax.train import cli


def cheapest(costs):
    """The cheapest of all routes across a grid of 3 × 3 that visit no cell twice, by enumeration."""
    best = (np.inf, None)
    for length in range(3, 8):
        for middle in itertools.permutations(range(1, 8), length):
            cells = [0, *middle, 8]
            steps = itertools.pairwise(cells)
            if all(abs(a // 3 - b // 3) + abs(a % 3 - b % 3) == 1 for a, b in steps):
                best = min(best, (costs[cells].sum(), cells))
    return np.isin(np.arange(9), best[1])


def test_the_route_is_the_cheapest_of_all():
    rng = np.random.default_rng(0)
    for _ in range(20):
        costs = np.exp(2 * rng.normal(size=9)).astype(np.float32)
        assert np.array_equal(terrain.shortest_route(costs), cheapest(costs))


def test_a_route_may_lead_back():
    valley = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    costs = np.where(valley, 1, 100).astype(np.float32).ravel()
    assert np.array_equal(terrain.shortest_route(costs), valley.ravel())


def test_costs_are_those_of_the_slope(monkeypatch):
    plane = np.full((60, 60), 0.5, np.float32)
    plane[:, 30:] = 0.1
    monkeypatch.setattr(terrain, "load", lambda: (np.zeros((60, 60), np.float32), plane))
    tiles = terrain.cut(np.array([[0, 15]]))  # cells begin at column 19
    assert tiles.shade.shape == (1, 28, 28) and tiles.costs.shape == (1, 100)
    steep, flat = 0.01 + 20 * 0.125, 0.01 + 20 * 0.001
    expected = [steep] * 5 + [(steep + flat) / 2] + [flat] * 4
    np.testing.assert_allclose(tiles.costs.reshape(10, 10), [expected] * 10, rtol=1e-6)
    np.testing.assert_allclose(tiles.best, 5 * steep + (steep + flat) / 2 + 13 * flat, rtol=1e-5)


def test_slope_is_that_of_the_elevation_model():
    shade, slope = terrain.load()
    assert shade.shape == slope.shape == (344, 403)
    height = np.load(terrain.cbook._get_data_path("sample_data/jacksboro_fault_dem.npz"))["elevation"]
    north = (height[101].astype(float) - height[99])[200] / (2 * 111200 / 1200)
    east = float(height[100, 201] - height[100, 199]) / (2 * 111200 / 1200 * np.cos(np.radians(36.59)))
    assert slope[100, 200] == pytest.approx(np.hypot(north, east), rel=2e-3)


@pytest.mark.parametrize("seed", [0, 3, 5, 9])
def test_no_pixel_is_in_two_parts(seed):
    areas = terrain.strips(seed)
    counts = {}
    for name, parts in areas.items():
        seen = np.zeros(terrain.load()[0].shape, int)
        for rows, columns in parts:
            grown = (slice(max(s.start - 1, 0), s.stop + 1) for s in (rows, columns))
            seen[tuple(grown)] = 1  # a pixel's slope and shade look at its neighbours, too
        counts[name] = seen
    assert sum(counts.values()).max() == 1
    assert counts["training"].sum() > 2.5 * counts["test"].sum()


def test_tiles_lie_in_their_area_with_all_that_the_network_sees(monkeypatch):
    pixels = np.arange(344 * 403, dtype=np.float32).reshape(344, 403)
    monkeypatch.setattr(terrain, "load", lambda: (pixels, pixels))
    rows, columns = slice(3, 60), slice(100, 150)
    seen = terrain.cut(terrain.corners([(rows, columns)], step=3)).shade
    assert np.isin(seen, pixels[rows, columns]).all() and len(seen) == 10 * 8


def test_each_cell_sees_the_patch_around_itself():
    params = models.init(jax.random.key(0), 100, 1, hidden=0)
    shade = jax.random.normal(jax.random.key(1), (28, 28))
    weights = jax.random.normal(jax.random.key(2), (10, 10)) / 10
    costs = shortest_path.predict(params | {"linear": weights.reshape(-1, 1)}, shade).reshape(10, 10)
    expected = np.exp((shade[6:16, 14:24] * weights).sum())  # of cell (3, 7): its pixels begin at 6 + 4
    assert costs[3, 7] == pytest.approx(expected, rel=1e-4)


def test_the_smoothed_cost_and_its_gradient_are_those_of_one_number_by_quadrature():
    rng = np.random.default_rng(0)
    true = np.exp(rng.normal(size=100)).astype(np.float32)
    predicted = (true * rng.uniform(0.6, 2.6, 100)).astype(np.float32)  # above 0 wherever h > -0.6
    sigma, nodes = 0.1, np.linspace(-5, 5, 4001)
    weights = np.exp(-(nodes**2) / 2) / np.exp(-(nodes**2) / 2).sum()
    routes = np.stack([terrain.shortest_route(predicted + sigma * node * true) for node in nodes])
    value, gradient = weights @ routes @ true, (weights * nodes) @ routes / sigma
    smoothed = jax.value_and_grad(shortest_path.smooth_cost(sigma, num_samples=8), argnums=1)
    keys = jax.random.split(jax.random.key(0), 400)
    found, gradients = jax.jit(jax.vmap(smoothed, (0, None, None)))(keys, predicted, jnp.asarray(true))
    assert abs(found.mean() - value) < 4 * found.std() / 20
    error = np.abs(gradients.mean(0) - gradient)
    assert np.linalg.norm(gradient) > 1 and (error <= 4.5 * gradients.std(0) / 20 + 1e-4).all()


def test_the_loss_of_routes_is_what_they_lose_where_costs_are_multiplied_by_noise():
    (tile,) = terrain.cut(terrain.corners(terrain.strips(0)["test"], 60)[:1]).costs
    shade = np.random.default_rng(0).normal(size=(1, 28, 28)).astype(np.float32)
    params = models.init(jax.random.key(0), 100, 1, hidden=0)
    params = params | {"linear": jax.random.normal(jax.random.key(1), (100, 1)) / 10}
    best = terrain.shortest_route(tile)
    data = tuple(map(jnp.asarray, (shade, tile[None], (best @ tile)[None])))
    loss = jax.jit(shortest_path._routes_loss(sigma=0.3, share=0.0))
    found = [loss(params, key, data) for key in jax.random.split(jax.random.key(2), 16)]
    predicted = np.asarray(shortest_path.predict(params, shade[0]), float)
    predicted *= tile.mean() / predicted.mean()
    noise = np.random.default_rng(1).normal(size=(4000, 100))
    draws = predicted * np.exp(0.3 * noise - 0.3**2 / 2)
    lost = [each @ (best - terrain.shortest_route(each)) / (best @ tile) for each in draws]
    error = np.std(lost) / len(lost) ** 0.5 + np.std(found) / len(found) ** 0.5
    assert abs(np.mean(found) - np.mean(lost)) < 4 * error and np.mean(lost) > 10 * error


def test_a_best_route_is_looked_for_once():
    costs = jnp.asarray(np.random.default_rng(5).uniform(1, 2, (3, 100)), jnp.float32)
    log = shortest_path._best_route.log
    before = log.evaluations, log.hits
    for _ in range(4):
        found = jax.jit(jax.vmap(shortest_path._best_route))(costs)
    assert np.array_equal(found[2], terrain.shortest_route(np.asarray(costs[2])))
    assert (log.evaluations, log.hits) == (before[0] + 3, before[1] + 9)


def test_training_lowers_the_regret_of_a_strip_never_seen(monkeypatch):
    small = {"num_steps": (200,), "rate": (0.01,)}
    monkeypatch.setattr(shortest_path, "_TWO_STAGE", frame.grid(**small))
    monkeypatch.setattr(shortest_path, "_REGRET", frame.grid(share=(0.1,), sigma=(0.05,)))
    monkeypatch.setattr(shortest_path, "_ROUTES", frame.grid(share=(0.1,), sigma=(0.1,)))
    monkeypatch.setattr(shortest_path, "_REGRET_STEPS", 20)
    monkeypatch.setattr(shortest_path, "_NUM_TILES", 300)
    monkeypatch.setattr(shortest_path, "_STEP", 12)
    found = TASKS["shortest-path"](None).compare(0)
    assert list(found) == ["two-stage, costs", "two-stage, logarithms", "regret itself", "Fenchel–Young"]
    test = terrain.cut(terrain.corners(terrain.strips(0)["test"], 12))
    untrained = shortest_path.regret(models.init(jax.random.key(0), 100, 1, 4), test)
    assert all(0 <= regret < 0.8 * untrained for regret in found.values())


def test_wrong_input_is_said_in_one_line(tmp_path, capsys):
    with pytest.raises(ValueError, match="no room for a tile of 28 pixels"):
        terrain.corners([(slice(0, 27), slice(0, 100))], step=1)
    with pytest.raises(ValueError, match=r"n² costs"):
        terrain.shortest_route(np.ones(8, np.float32))
    assert cli.main(["task", "shortest-path", "--data", str(tmp_path), "--out", str(tmp_path / "new")]) == 2
    assert "ship in a package" in capsys.readouterr().err
