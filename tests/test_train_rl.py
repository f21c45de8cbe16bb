"""CartPole: the equations against gymnasium's, and policies that learn from returns alone."""

import json
import re
import subprocess
import sys
from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esjax
from esjax.train import cartpole, cli, folder, rl
from esjax.train.config import RLConfig


def _policy(seed):
    params = cartpole.init_policy(jax.random.key(seed))
    return params | {"last": jax.random.normal(jax.random.key(seed + 1), (16, 2))}


def test_a_step_is_that_of_gymnasium():
    environment = gymnasium.make("CartPole-v1").unwrapped
    rng = np.random.default_rng(0)
    for _ in range(50):
        state = rng.uniform(-0.15, 0.15, 4)
        action = int(rng.integers(2))
        environment.reset()
        environment.state = tuple(state)
        wanted, *_ = environment.step(action)
        np.testing.assert_allclose(cartpole.step(jnp.asarray(state, jnp.float32), action), wanted, atol=1e-6)


def test_episodes_last_as_long_as_gymnasiums_from_the_same_state():
    for seed in range(5):
        params = _policy(seed)
        found = cartpole.episode(params, jax.random.key(seed))
        environment = gymnasium.make("CartPole-v1")
        environment.reset()
        state = jax.random.uniform(jax.random.key(seed), (4,), jnp.float32, -0.05, 0.05)
        environment.unwrapped.state = tuple(np.asarray(state, float))
        state, steps, ended, cut = np.asarray(state), 0, False, False
        while not (ended or cut):
            state, _, ended, cut, _ = environment.step(
                int(cartpole.act(jax.tree.map(np.asarray, params), state))
            )
            steps += 1
        assert abs(found - steps) <= 1  # float32 may pass a limit one step sooner or later


def test_an_episode_on_the_host_is_gymnasiums_from_its_seed():
    for seed in (1, 2):
        params = jax.tree.map(np.asarray, _policy(seed))
        environment = gymnasium.make("CartPole-v1")
        (state, _), rewards = environment.reset(seed=seed + 5), [0.0]
        ended = cut = False
        while not (ended or cut):
            state, reward, ended, cut, _ = environment.step(int(cartpole.act(params, state)))
            rewards.append(reward)
        assert cartpole.episode_on_host(params, seed + 5) == sum(rewards) > 1


@pytest.mark.parametrize("baseline", ["rank", "leave-one-out"])
def test_a_policy_is_learned_in_jax(baseline):
    *_, last = rl.train(RLConfig(environment="jax", baseline=baseline))
    assert last.test_return >= rl.SOLVED and last.episodes <= 2000
    again = jax.vmap(partial(cartpole.episode, last.params))(jax.random.split(jax.random.key(99), 100))
    assert again.mean() > 400  # on episodes that played no part in stopping


def test_gymnasium_on_workers_gives_the_returns_of_one_process():
    with esjax.host.ProcessPool(2) as pool:
        both = [rl.returns("gymnasium", executor) for executor in (None, pool)]
        keys = jax.random.split(jax.random.PRNGKey(0), 6)
        alone, shared = (jax.jit(jax.vmap(block, (None, 0)))(_policy(1), keys) for block in both)
    np.testing.assert_array_equal(alone, shared)
    assert len(set(alone.tolist())) > 1  # each key another episode


_WORKERS = """
import os, signal
from esjax.host import ProcessPool

if __name__ != "__main__":  # in a worker, which is starting
    os.killpg(0, signal.SIGINT)
else:
    signal.signal(signal.SIGINT, lambda *_: None)
    with ProcessPool(1) as pool:
        print(pool.submit(abs, -1).result())
        os.killpg(0, signal.SIGINT)  # as the worker waits
        print(repr(pool.submit(signal.raise_signal, signal.SIGINT).exception()))
        print(pool.submit(abs, -2).result())
"""


def test_control_c_reaches_calls_in_workers_and_no_worker_that_starts_or_waits(tmp_path):
    (tmp_path / "script.py").write_text(_WORKERS)
    command = [sys.executable, tmp_path / "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    assert (done.stdout, done.stderr) == ("1\nKeyboardInterrupt()\n2\n", "")


def begin_and_interrupt(config, path, *, after):
    """Leaves a run in the folder `path` that Ctrl-C has ended after some generations."""
    rl.begin(config, path)

    def stop(generation):
        if generation.number == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rl.finish(config, rl.restore(config, path), path, on_generation=stop)


def test_a_policy_is_gone_on_with_bit_for_bit_and_kept(tmp_path, capsys):
    config = RLConfig(environment="jax", population=4, generations=4, seed=3)
    *_, whole = rl.train(config)
    begin_and_interrupt(config, tmp_path / "cut", after=2)
    with (tmp_path / "cut" / folder.LOG).open("a") as file:
        file.write('{"number": 3')  # the line that a kill cuts short
    with folder.locked(tmp_path / "cut"):
        assert cli.main(["rl", "--resume", str(tmp_path / "cut")]) == 2
    assert "another process is at work" in capsys.readouterr().err
    assert cli.main(["rl", "--resume", str(tmp_path / "cut")]) == 0
    policy = np.load(tmp_path / "cut" / rl.POLICY)
    for name, array in whole.params.items():
        np.testing.assert_array_equal(policy[name], array)
    assert [json.loads(line)["number"] for line in folder.lines(tmp_path / "cut")] == [1, 2, 3, 4]


def test_the_command_says_how_it_went(tmp_path, capsys):
    arguments = ["rl", "--generations", "2", "--population", "4", "--workers", "1"]
    assert cli.main([*arguments, "--out", str(tmp_path / "rl")]) == 0
    first, _, last, *_ = capsys.readouterr().out.splitlines()
    assert re.match(
        r"generation 1, 4 episodes: mean return of the population [\d.]+, of the policy [\d.]+", first
    )
    assert re.match(r"not solved: try more --generations: mean return [\d.]+ over 100 episodes", last)
    assert cli.main(["rl", "--population", "3"]) == 2
    assert "population=3 must be a whole number >= 4" in capsys.readouterr().err
