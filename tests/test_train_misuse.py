"""Misuse of training in one table: the error's type, the argument that it names, and the remedy."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from esjax.tasks import TASKS, frame
from esjax.train import (
    checkpoint,
    config,
    data,
    diagnosis,
    files,
    folder,
    loop,
    models,
    objectives,
    rl,
    run,
    step,
)

KEY = jax.random.key(0)
LOGITS, ZEROS = jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32)
NAN = float("nan")


def _but(options, *names):
    return {name: value for name, value in options.items() if name not in names}


IMAGES = np.random.default_rng(0).uniform(size=(12, 2, 2, 1)).astype(np.float32)
LABELS = (np.arange(12) % 3).astype(np.int32)
DATA = data.Dataset("dots", IMAGES, LABELS, IMAGES, LABELS, 3)
NOWHERE = Path("/nowhere/at all")


def _total(*_):
    return jnp.float32(1)


def _network(num_classes=3):
    return models.MLP((2, 2, 1), num_classes, rngs=nnx.Rngs(0), hidden=2)


def _trainer(**changes):
    parts = {
        "network": _network(),
        "objective": objectives.cross_entropy,
        "optimizer": optax.sgd(0.1),
    } | changes
    return step.make_trainer(*parts.values())


def _epochs(**changes):
    def call():
        trainer, state = _trainer(network=_network(changes.get("num_classes", 3)))
        state = state._replace(step=changes.get("step", state.step))
        numbers = {"num_epochs": 1, "batch_size": 4, "seed": 0} | _but(changes, "num_classes", "step")
        return loop.epochs(trainer, state, DATA, **numbers)

    return call


def _prepare(**options):
    small = {"data": "dots", "network": "mlp", "batch_size": 4, "num_samples": 4}
    return run.prepare(config.TrainConfig(**small | options), DATA)


def _options(**options):
    return lambda: config.TrainConfig(**options)


def _noisy(**options):
    return lambda: data.with_label_noise(DATA, **{"share": 0.5, "seed": 0} | options)


def _held_out(**options):
    return lambda: data.hold_out(DATA, **{"share": 0.5, "seed": 0} | options)


def _batches(**options):
    return lambda: data.batch_indices(10, **{"batch_size": 3, "seed": 0, "epoch": 0} | options)


def _twice(tmp_path):
    checkpoint.save(tmp_path / "twice", 2, {"a": jnp.ones(2)})
    checkpoint.save(tmp_path / "twice", 2, {"a": jnp.ones(2)})


TRAIN = {
    "source a number": (lambda: data.load(3), "source=3 is neither text nor a path", "give 'mnist-5k'"),
    "held-out share": (_held_out(share=1.5), "share=1.5", r"in \[0, 1\]"),
    "held-out all": (
        _held_out(share=1),
        "share=1 holds 12 of 12 training examples out",
        "another share, or 0",
    ),
    "held-out seed": (_held_out(seed=-1), "seed=-1", ">= 0"),
    "share negative": (_noisy(share=-0.1), r"share=-0\.1", r"in \[0, 1\]"),
    "share above 1": (_noisy(share=1.1), r"share=1\.1", r"in \[0, 1\]"),
    "share NaN": (_noisy(share=NAN), "share=nan", r"in \[0, 1\]"),
    "share text": (_noisy(share="0.5"), r"share='0\.5'", r"in \[0, 1\]"),
    "share bool": (_noisy(share=True), "share=True", r"in \[0, 1\]"),
    "noise seed": (_noisy(seed=-1), "seed=-1", "whole number >= 0"),
    "noise seed float": (_noisy(seed=0.5), r"seed=0\.5", "whole number >= 0"),
    "batch zero": (_batches(batch_size=0), "batch_size=0", "whole number >= 1"),
    "batch too large": (_batches(batch_size=11), "batch_size=11", r"in \[1, num_examples=10\]"),
    "batch float": (_batches(batch_size=2.5), r"batch_size=2\.5", "whole number >= 1"),
    "batch seed": (_batches(seed=-1), "seed=-1", "whole number >= 0"),
    "batch epoch": (_batches(epoch=-1), "epoch=-1", "whole number >= 0"),
    "config network": (_options(network="vit"), "network='vit'", "must be one of mlp, cnn"),
    "config objective": (_options(objective="f1"), "objective='f1'", "must be one of accuracy"),
    "config estimator": (_options(estimator="pg"), "estimator='pg'", "must be one of es, exact"),
    "config label_noise": (_options(label_noise="0.4"), r"label_noise='0\.4'", r"in \[0, 1\]"),
    "config data": (_options(data=3), "data=3", "name or a path, as text"),
    "config logits": (_options(logits="centred"), "logits='centred'", "must be one of raw, standardised"),
    "config logits of two classes": (
        lambda: run.prepare(config.TrainConfig(logits="standardised"), DATA._replace(num_classes=2)),
        "logits='standardised', but .* has 2 classes",
        "use raw",
    ),
    "standardised logits of two classes": (
        lambda: objectives.standardised(objectives.cross_entropy)(KEY, jnp.zeros((4, 2)), jnp.zeros(4, int)),
        r"logits has shape \(4, 2\)",
        "leave them as they are",
    ),
    "config sigma": (_options(sigma=0), "sigma=0", "finite number > 0"),
    "config epochs": (_options(epochs=True), "epochs=True", "whole number >= 1"),
    "config num_samples": (_options(num_samples=5), "num_samples=5 is odd", "use 6"),
    "config k": (_options(k=0), "k=0", "whole number >= 1"),
    "config batch_size": (_options(batch_size=0), "batch_size=0", "whole number >= 1"),
    "config learning_rate": (_options(learning_rate=NAN), "learning_rate=nan", "finite number > 0"),
    "config seed": (_options(seed=2**32), "seed=4294967296", r"below 2\*\*31"),
    "config checkpoint_every": (_options(checkpoint_every=0), "checkpoint_every=0", "whole number >= 1"),
    "compare seeds": (lambda: config.CompareConfig(seeds=1), "seeds=1", "whole number >= 2"),
    "compare one name": (
        lambda: config.CompareConfig(objectives="accuracy"),
        "objectives='accuracy'",
        r"tuple, such as \('accuracy',\)",
    ),
    "compare twice": (
        lambda: config.CompareConfig(objectives=("accuracy", "accuracy")),
        "objectives=",
        "each only once",
    ),
    "sigma factors": (lambda: config.SigmaConfig(factors=(3.0, 1.0)), "factors=", "ascending"),
    "sigma one factor": (lambda: config.SigmaConfig(factors=1.0), r"factors=1\.0", "must be a tuple"),
    "rl population": (lambda: config.RLConfig(population=3), "population=3", "whole number >= 4"),
    "rl environment": (lambda: rl.returns("atari", None), "environment='atari'", "one of gymnasium, jax"),
    "objective block": (lambda: objectives.sampled(3, 1.0, 4), "fun=3 is not callable", "pass the function"),
    "objective reward": (
        lambda: objectives.per_example(3),
        "smoothed=3 is not callable",
        r"pass esjax\.smooth",
    ),
    "objective rewards": (
        lambda: objectives.in_closed_form(3),
        "rewards=3 is not callable",
        "pass a function",
    ),
    "objective summed": (
        lambda: objectives.in_closed_form(_total)(KEY, LOGITS, ZEROS),
        r"rewards of a batch have shape \(\) instead of \(2,\)",
        "return one number for each",
    ),
    "objective metric": (
        lambda: objectives.of_batch_in_closed_form(3),
        "metric=3 is not callable",
        "pass a function",
    ),
    "objective of examples": (
        lambda: objectives.of_batch_in_closed_form(lambda x, y: x)(KEY, LOGITS, ZEROS),
        r"metric of a batch has shape \(2, \d+\) instead of \(\)",
        "return one number, or use in_closed_form",
    ),
    "objective f1": (lambda: objectives.macro_f1(1.0, "a"), "num_samples='a'", "whole number >= 1"),
    "objective f1 sigma": (
        lambda: objectives.macro_f1(0.0, 4)(KEY, LOGITS, ZEROS),
        r"sigma=0\.0",
        "number > 0",
    ),
    "trainer network": (lambda: _trainer(network=3), r"network=3 is not a flax\.nnx\.Module", "pass one"),
    "trainer objective": (lambda: _trainer(objective=3), "objective=3 is not callable", "train.objectives"),
    "trainer optimizer": (
        lambda: _trainer(optimizer=0.1),
        r"optimizer=0\.1 is not an optimiser of Optax",
        "optax.adam",
    ),
    "epochs none": (_epochs(num_epochs=0), "num_epochs=0", "whole number >= 1"),
    "epochs batch": (_epochs(batch_size=13), "batch_size=13", r"in \[1, 12\]"),
    "epochs batch float": (_epochs(batch_size=2.5), r"batch_size=2\.5", "whole number >= 1"),
    "epochs seed": (_epochs(seed=-1), "seed=-1", "whole number >= 0"),
    "epochs step": (_epochs(step=jnp.int32(1)), r"state\.step=1 is within an epoch", "same data and batch"),
    "epochs logits": (
        _epochs(num_classes=2),
        r"logits of shape \(1, 2\), and the labels of dots are 0 to 2",
        r"use a network with logits \(1, 3\)",
    ),
    "run k": (lambda: _prepare(objective="top-k", k=4), "k=4 is more than the 3 classes of dots", "lower it"),
    "batch of one": (lambda: models.require_batch(1), "batch_size=1: the mean over", "use at least 2"),
    "centred one": (lambda: _network()(IMAGES[:1]), "batch_size=1: the mean over", "use at least 2"),
    "run batch": (lambda: _prepare(batch_size=13), "batch_size=13", r"in \[1, 12\]"),
    "diagnosis none": (
        lambda: diagnosis.diagnose(_prepare(), num_examples=0),
        "num_examples=0",
        "number >= 1",
    ),
    "diagnosis seed": (
        lambda: diagnosis.diagnose(_prepare(), num_examples=1, seed=-1),
        "seed=-1",
        "number >= 0",
    ),
    "diagnosis objective": (
        lambda: diagnosis.diagnose(_prepare(objective="cross-entropy"), num_examples=1),
        "objective='cross-entropy'",
        "diagnose a run of accuracy or top-k",
    ),
    "checkpoint step": (lambda: checkpoint.save(NOWHERE, -1, {}), "step=-1", "whole number >= 0"),
    "folds one": (lambda: frame.folds(5, seed=0, num_folds=1), "num_folds=1", "whole number >= 2"),
    "folds many": (lambda: frame.folds(5, seed=0, num_folds=6), "num_folds=6", "at most 5"),
    "folds seed": (lambda: frame.folds(5, seed=-1), "seed=-1", "whole number >= 0"),
    "no candidates": (lambda: frame.best_by_folds([], max, 5, seed=0), "candidates is empty", "at least one"),
    "task data": (lambda: TASKS["yeast"](NOWHERE), "nowhere/at all", "ship in a package"),
}

FILES = {
    "IDX file": (lambda path: files.read_idx(path / "none"), FileNotFoundError, "none", "No such file"),
    "NPZ file": (lambda path: files.read_npz(f"{path}/none", []), FileNotFoundError, "none", "No such file"),
    "source": (lambda path: data.load(path / "none"), FileNotFoundError, "none: no such", "give 'mnist-5k'"),
    "new folder": (lambda path: folder.check_new(path), FileExistsError, "exists already", "another --out"),
    "resume": (lambda path: run.resume(path), FileNotFoundError, "holds no run", "give a run's folder"),
    "checkpoint again": (_twice, ValueError, "step=2", "above 2, that of the newest checkpoint"),
}


@pytest.mark.parametrize("name", TRAIN)
def test_misuse_names_the_argument_and_the_remedy(name):
    call, argument, remedy = TRAIN[name]
    with pytest.raises(ValueError) as caught:
        call()
    caught.match(argument)
    caught.match(remedy)


@pytest.mark.parametrize("name", FILES)
def test_misuse_of_files_names_the_path_and_the_remedy(tmp_path, name):
    call, error, argument, remedy = FILES[name]
    with pytest.raises(error) as caught:
        call(tmp_path)
    caught.match(argument)
    caught.match(remedy)
