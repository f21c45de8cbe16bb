"""`esjax rl` on Gymnasium's environments: episodes, normalised observations, workers, and what is refused."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import gymnasium
import jax
import numpy as np
import pytest
import rl_environments
from gymnasium import spaces
from test_train_rl import begin_and_interrupt

from esjax.train import checkpoint, cli, control, environments, episodes, folder, moments, policies, rl
from esjax.train.config import RLConfig

AIM = "rl_environments:Aim-v0"


def _policy(num_inputs, num_outputs, hidden):
    params = policies.init(jax.random.key(0), num_inputs, num_outputs, hidden)
    last = jax.random.normal(jax.random.key(1), params["last"].shape)
    return jax.tree.map(np.asarray, params | {"last": last})


def _by_hand(name, params, mean, scale, seed):
    """Returns an episode's return, and all observations that were acted on (T, D)."""
    world, seen, total, ended, cut = gymnasium.make(name), [], 0.0, False, False
    x, _ = world.reset(seed=seed)
    while not (ended or cut):
        seen.append(x)
        h = (x.astype(float) - mean) / scale
        if "first" in params:
            h = np.tanh(h @ params["first"] + params["bias"])
        found = h @ params["last"] + params.get("last_bias", 0)
        action = int(np.argmax(found))
        if isinstance(world.action_space, spaces.Box):
            high = world.action_space.high  # of bounds that are symmetric
            action = np.clip(high * found, -high, high).astype(np.float32)
        x, reward, ended, cut, _ = world.step(action)
        total += float(reward)
    return total, np.array(seen, float)


def _check_episode(name, num_inputs, num_outputs, hidden):
    params = _policy(num_inputs, num_outputs, hidden)
    mean, scale = np.linspace(-0.2, 0.3, num_inputs), np.linspace(0.5, 2.0, num_inputs)
    mean, scale = mean.astype(np.float32), scale.astype(np.float32)
    sums = []
    for seed in (3, 4):
        total, seen = _by_hand(name, params, mean, scale, seed)
        found = episodes.play(name, params, mean, scale, np.int32(seed))
        np.testing.assert_allclose(found.total, total, rtol=1e-6)
        assert found.count == len(seen)
        np.testing.assert_allclose(found.sums, (seen - mean).sum(0), rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(found.squares, ((seen - mean) ** 2).sum(0), rtol=1e-5, atol=1e-4)
        sums.append(found.sums)
    assert (sums[0] != sums[1]).any()  # each seed another episode


@pytest.mark.parametrize(
    "name, num_inputs, num_outputs, hidden",
    [("Pendulum-v1", 3, 1, 0), ("Pendulum-v1", 3, 1, 5), ("CartPole-v1", 4, 2, 0), ("Acrobot-v1", 6, 3, 5)],
)
def test_an_episode_is_that_of_a_loop_over_gymnasiums_own_steps(name, num_inputs, num_outputs, hidden):
    assert environments.look_at(name)[:2] == (num_inputs, num_outputs)
    _check_episode(name, num_inputs, num_outputs, hidden)


def test_an_episode_of_mujoco_is_that_of_a_loop_too():
    pytest.importorskip("mujoco")
    _check_episode("Swimmer-v5", 8, 2, 0)


def test_actions_fill_their_bounds_and_stay_within():
    low, high = np.array([-3.0, 0.0, -np.inf, -np.inf]), np.array([1.0, np.inf, 2.0, np.inf])
    act = episodes.action_of(spaces.Box(low.astype(np.float32), high.astype(np.float32)))
    np.testing.assert_array_equal(act(np.full(4, -1.0)), [-3, 0, -1, -1])
    np.testing.assert_array_equal(act(np.full(4, 0.5)), [0, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(act(np.full(4, 9.0)), [1, 9, 2, 9])
    assert act(np.zeros(4)).dtype == np.float32
    assert episodes.action_of(spaces.Box(-1, 1, (2, 1), np.float64))(np.zeros(2)).shape == (2, 1)
    assert episodes.action_of(spaces.Discrete(3, start=5))(np.array([0.0, 2.0, 1.0])) == 6


def test_moments_merged_over_episodes_are_those_of_all_observations():
    rng = np.random.default_rng(0)
    seen = [rng.normal([1e4, 0.0, 5.0], [1.0, 1e-3, 0.0], (count, 3)) for count in (1, 400, 20, 1000)]
    found = moments.initial(np.float32(seen[0][0]))
    np.testing.assert_array_equal(moments.scale(found), 1)  # nothing is known yet
    for batch in (seen[:1], seen[1:3], seen[3:]):
        offsets = [each - np.asarray(found.mean, float) for each in batch]
        sums = [(len(each), each.sum(0), (each**2).sum(0)) for each in offsets]
        mean = (np.float32(np.mean([each[part] for each in sums], 0)) for part in range(3))
        found = moments.merged(found, episodes.Played(None, *mean), len(batch))
    every = np.concatenate(seen)
    assert found.count == len(every)
    np.testing.assert_allclose(found.mean, every.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(moments.scale(found)[:2], every.std(0)[:2], rtol=1e-3)
    assert moments.scale(found)[2] == np.inf  # what never changes says nothing


def _alone(config, since=None):
    """Returns all generations, played in this process."""
    problem = control.problem(config, None)
    return list(rl.generations(config, problem, since or rl.initial(config)))


def _aim(**options):
    defaults = {"hidden": 0, "sigma": 0.1, "learning_rate": 0.05, "test_episodes": 20, "population": 8}
    return RLConfig(environment=AIM, **defaults | options)


def test_a_generation_shares_its_episode_and_counts_all_that_it_saw(monkeypatch):
    seeds, seen, play = [], [], episodes.play

    def recorded(name, params, mean, scale, seed):
        seeds.append(int(seed))
        seen.append(_by_hand(name, params, mean, scale, int(seed))[1])
        return play(name, params, mean, scale, seed)

    monkeypatch.setattr(episodes, "play", recorded)
    generations = _alone(_aim(generations=2, test_every=2))
    first, second, tests = seeds[:8], seeds[8:16], seeds[16:]
    assert len(set(first)) == len(set(second)) == 1 and first[0] != second[0]
    assert len(set(tests)) == 20 and not {first[0], second[0]} & set(tests)
    for each, count in zip(generations, (8, 16), strict=True):
        trained = np.concatenate(seen[:count])  # tests count for nothing
        assert each.moments.count == len(trained) == 3 * count
        np.testing.assert_allclose(each.moments.mean, trained.mean(0), rtol=1e-5)
        np.testing.assert_allclose(each.moments.variance, trained.var(0), rtol=1e-2, atol=1e-9)
    assert np.isnan(generations[0].test_return) and generations[1].test_return < 0


def test_a_policy_learns_what_is_wanted_from_observations_in_any_units():
    *_, last = _alone(_aim(generations=80, test_every=80))
    assert last.test_return > -0.15  # of −1.7 for no action
    np.testing.assert_allclose(last.params["last"][:2], rl_environments.WANTED[:2], atol=0.12)
    *_, blind = _alone(_aim(generations=80, test_every=80, normalise=False))
    assert blind.test_return < -1


def test_training_ends_at_the_target():
    *_, last = _alone(_aim(generations=3, test_every=1, target=-1e9))
    assert last.number == 1


def test_a_run_on_workers_is_gone_on_with_bit_for_bit_and_kept(tmp_path):
    config = _aim(generations=4, test_every=3, workers=1, hidden=2)
    whole = _alone(config)
    begin_and_interrupt(config, tmp_path / "cut", after=2)
    assert cli.main(["rl", "--resume", str(tmp_path / "cut")]) == 0
    assert not multiprocessing.active_children()
    found = checkpoint.restore(tmp_path / "cut" / folder.CHECKPOINTS, rl.initial(config))
    jax.tree.map(np.testing.assert_array_equal, found, whole[-1])
    rows = [json.loads(line) for line in folder.lines(tmp_path / "cut")]
    assert [row["population_return"] for row in rows] == [each.population_return for each in whole]
    assert [row["test_return"] is None for row in rows] == [True, True, False, False]
    policy = dict(np.load(tmp_path / "cut" / rl.POLICY))
    mean, scale = policy.pop("mean"), policy.pop("scale")
    np.testing.assert_array_equal(mean, whole[-1].moments.mean)
    result = json.loads((tmp_path / "cut" / rl.RESULT).read_text())
    assert len(set(result["returns"])) == 20 and result["training_episodes"] == 32
    by_hand = [_by_hand(AIM, policy, mean, scale, seed)[0] for seed in _seeds_of_result(config)]
    np.testing.assert_allclose(result["returns"], by_hand, rtol=1e-5)
    np.testing.assert_allclose(result["mean_return"], np.mean(by_hand), rtol=1e-5)
    assert (tmp_path / "cut" / folder.CURVES).stat().st_size > 5000


def _seeds_of_result(config):
    keys = jax.random.split(jax.random.split(jax.random.key(config.seed), 4)[3], config.test_episodes)
    return [int(jax.random.randint(key, (), 0, 2**31 - 1)) for key in keys]


@pytest.mark.parametrize(
    "name, status, said",
    [
        ("Dying-v0", 1, "a worker died twice in the same episode (esjax.host.executors.WorkerDied: process"),
        ("Raising-v0", 1, "failed in an episode: ArithmeticError: a joint broke; correct it"),
        ("Infinite-v0", 1, "generation 1: a return of rl_environments:Infinite-v0 is not finite"),
    ],
)
def test_a_fault_in_an_episode_is_one_line_and_leaves_no_process(tmp_path, capsys, name, status, said):
    arguments = ["--environment", f"rl_environments:{name}", "--population", "4", "--hidden", "0"]
    assert cli.main(["rl", *arguments, "--workers", "1", "--out", str(tmp_path / "run")]) == status
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert not multiprocessing.active_children()


_ENDLESS = """
from esjax.host import ProcessPool
from esjax.train import episodes

if __name__ == "__main__":
    with ProcessPool(1) as pool:
        nothing = [0.0] * 3
        name, params = "rl_environments:Endless-v0", {"last": [[0.0] * 2] * 3}
        pool.submit(episodes.play_in_worker, name, params, nothing, 1.0, 0)
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(_ENDLESS)
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    command = [sys.executable, str(tmp_path / "script.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
        try:
            for _ in range(100):
                if not _lives(worker):
                    break
                time.sleep(0.1)
            assert not _lives(worker)
        finally:
            if _lives(worker):
                os.kill(worker, signal.SIGKILL)


def _lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


MISUSE = {
    "Swimer-v5": (ValueError, "not known to Gymnasium.*Give an id such as Pendulum-v1"),
    "atari": (ValueError, "for CartPole gymnasium or jax"),
    "no_such_module:X-v0": (ModuleNotFoundError, "needs a package that is not installed.*no_such_module"),
    "rl_environments:Missing-v0": (ModuleNotFoundError, "pip install physics`; for MuJoCo, .*'esjax.rl.'"),
    "rl_environments:Unfinished-v0": (ValueError, "cannot be made.*xml"),
    "rl_environments:Dictionary-v0": (ValueError, "observations Dict.*wrapped by .*FlattenObservation"),
    "rl_environments:Tuple-v0": (ValueError, "observations Tuple.*FlattenObservation"),
    "rl_environments:Image-v0": (ValueError, r"observations Box.*\(8, 8, 3\).*images.*FlattenObservation"),
    "rl_environments:Table-v0": (ValueError, r"observations Discrete\(5\).*FlattenObservation"),
    "rl_environments:Choices-v0": (ValueError, "actions MultiDiscrete.*TransformAction"),
    "rl_environments:Whole-v0": (ValueError, r"actions Box.*int64.*\(Box of floats\)"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_what_cannot_be_learned_is_refused_with_a_remedy(name):
    kind, said = MISUSE[name]
    with pytest.raises(kind, match=said) as caught:
        environments.look_at(name)
    assert f"environment={name!r}" in str(caught.value) and "\n" not in str(caught.value)


def test_a_refused_environment_leaves_nothing_behind(tmp_path, capsys):
    assert cli.main(["rl", "--environment", "Swimer-v5", "--out", str(tmp_path / "run")]) == 2
    assert "environment='Swimer-v5'" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, said",
    [
        ({"hidden": -1}, "hidden=-1 must be a whole number >= 0"),
        ({"environment": 3}, "environment=3 must be gymnasium, jax or an id"),
        ({"target": float("nan")}, "target=nan must be a finite number"),
        ({"test_every": 0}, "test_every=0 must be a whole number >= 1"),
        ({"test_episodes": 1}, "test_episodes=1 must be a whole number >= 2"),
        ({"normalise": True}, "normalise=True is not for environment='gymnasium'; use .*'CartPole-v1'"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        RLConfig(**options)
