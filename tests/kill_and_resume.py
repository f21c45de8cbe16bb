"""Kills a training run at random moments, some while it writes a checkpoint, and goes on with it each time.

`python tests/kill_and_resume.py --kills 10 --seed 0` says when it was killed, and compares the parameters
that it ends with, bit for bit, with those of a run that was never killed. Both train in processes of their
own, so that the same programs were compiled in the same way.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from esjax.train import checkpoint, config, folder, run

WAIT = 180.0  # seconds for a process to get to where it is killed


def write_images(path):
    """Writes images of one bright corner each, which tells the class."""
    rng = np.random.default_rng(0)
    labels = np.arange(120, dtype=np.int32) % 3
    images = rng.uniform(0, 0.3, (120, 4, 4)).astype(np.float32)
    images[np.arange(120), labels // 2 * 3, labels % 2 * 3] += 0.7
    np.savez(path, x_train=images[:90], y_train=labels[:90], x_test=images[90:], y_test=labels[90:])


def options(data, epochs):
    """Returns the options of a run with a checkpoint after every epoch, that never comes to an optimum."""
    small = {"network": "mlp", "batch_size": 30, "num_samples": 8, "label_noise": 0.5, "learning_rate": 1e-4}
    return config.TrainConfig(data=str(data), epochs=epochs, checkpoint_every=1, **small)


def _command(path):
    return [sys.executable, "-m", "esjax", "train", "--resume", str(path)]


def never_killed(options, path):
    """Trains to the end in a process of its own; returns the state."""
    prepared = run.set_up(options)
    run.begin(prepared, path)
    subprocess.run(_command(path), check=True, stdout=subprocess.DEVNULL)
    epochs = [json.loads(line) for line in (path / folder.LOG).read_text("utf-8").splitlines()]
    if len(epochs) != options.epochs or not all(epoch["gradient_norm"] > 0 for epoch in epochs):
        raise RuntimeError("where there is no gradient, any draws end with the same parameters")
    return checkpoint.restore(path / folder.CHECKPOINTS, prepared.state)


def train_and_kill(path, moment, rng):
    """Starts or goes on with training in a process, and kills it.

    Args:
        path: folder of the run.
        moment: "start", some time after the process began; "epoch", after some epochs; or "checkpoint",
            while a checkpoint is being written after some epochs.
        rng: what "some" is.

    Returns:
        How many epochs it had logged since it began, and whether it left a checkpoint unfinished.
    """
    logged, wanted = folder.num_logged(path), int(rng.integers(1, 12))
    process = subprocess.Popen(_command(path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    end = time.monotonic() + (rng.uniform(0.5, 8) if moment == "start" else WAIT)
    while time.monotonic() < end and process.poll() is None:
        if moment != "start" and folder.num_logged(path) - logged >= wanted:
            time.sleep(rng.uniform(0, 0.02) if moment == "epoch" else 0)
            if moment == "epoch" or list((path / folder.CHECKPOINTS).glob("*.part")):
                break
        time.sleep(0.0005)
    os.kill(process.pid, signal.SIGKILL)
    _, errors = process.communicate()
    if process.returncode != -signal.SIGKILL:
        raise RuntimeError(f"it ended by itself, with status {process.returncode}: {errors.decode()}")
    if moment != "start" and time.monotonic() > end:
        raise RuntimeError(f"it came to no {moment} within {WAIT} s")
    unfinished = moment != "start" and bool(list((path / folder.CHECKPOINTS).glob("*.part")))
    return max(folder.num_logged(path) - logged, 0), unfinished


def killed(options, path, moments, seed):
    """Trains with a kill at each of the moments, then to the end; yields what happened at each."""
    rng = np.random.default_rng(seed)
    run.begin(run.set_up(options), path)
    for moment in moments:
        yield moment, *train_and_kill(path, moment, rng)
    subprocess.run(_command(path), check=True, stdout=subprocess.DEVNULL)


def assert_same(state, path):
    """That the newest checkpoint in the folder is that state, bit for bit."""
    found = checkpoint.restore(path / folder.CHECKPOINTS, state)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(a, b)


def main():
    """Kills as often as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    others = np.random.default_rng([arguments.seed, 1]).choice(
        ["start", "epoch", "checkpoint"], arguments.kills
    )
    moments = ["checkpoint", *map(str, others[1:])]
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary)
        write_images(path / "images.npz")
        chosen = options(path / "images.npz", epochs=40 * arguments.kills)
        state = never_killed(chosen, path / "whole")
        for moment, epochs, unfinished in killed(chosen, path / "killed", moments, arguments.seed):
            left = "a checkpoint unfinished" if unfinished else "no checkpoint unfinished"
            print(f"{moment}: killed after {epochs} epochs, {left}", flush=True)
        assert_same(state, path / "killed")
    print(f"{arguments.kills} kills: parameters and optimiser state bit-equal to those of a run never killed")


if __name__ == "__main__":
    main()
