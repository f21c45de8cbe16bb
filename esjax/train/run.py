"""One training run: from options to a trained network, in a folder from which it can be resumed.

`set_up` finds whatever can be wrong with the options and the data, and writes nothing; then
`begin` or `resume` open the run's folder, which `folder.locked` keeps to one process, and `finish` trains.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray

import esjax
from esjax.train import checkpoint, folder, loop, models, objectives, plot, record, step
from esjax.train.config import Logits, TrainConfig
from esjax.train.data import Dataset, absolute, hold_out, load, with_label_noise
from esjax.train.loop import Epoch
from esjax.train.models import Network
from esjax.train.step import State, Trainer

_SPREAD_EXAMPLES = 1000
"""Training images whose logits and features, before training, determine σ."""


class Run(NamedTuple):
    """A run that can begin or go on.

    Attributes:
        config: its options, with σ chosen.
        data: what it trains and tests on.
        trainer: the network's functions.
        state: where it stands.
        epochs: what was logged so far.
    """

    config: TrainConfig
    data: Dataset
    trainer: Trainer
    state: State
    epochs: list[Epoch]


class Result(NamedTuple):
    """What a run ended with.

    Attributes:
        state: the newest weights, and those kept: see `State.chosen`.
        epochs: one record for each epoch.
        confusion: (K, K) test examples by label (row) and class predicted by the chosen weights (column).
    """

    state: State
    epochs: list[Epoch]
    confusion: NDArray[np.int64]


def set_up(config: TrainConfig) -> Run:
    """Loads the data, and makes the network and its objective; writes nothing.

    Raises:
        FileNotFoundError: the data are not there.
        ModuleNotFoundError: the package that ships them is not installed.
        ValueError: the data are damaged or do not fit the options.
    """
    return prepare(config, _load(config))


def _load(config: TrainConfig) -> Dataset:
    noisy = with_label_noise(load(config.data), config.label_noise, seed=config.seed)
    return hold_out(noisy, config.held_out, seed=config.seed)


def prepare(config: TrainConfig, data: Dataset) -> Run:
    """Makes the network and its objective for loaded data; raises `ValueError` as `set_up` does."""
    models.require_batch(config.batch_size)
    config = dataclasses.replace(config, data=absolute(config.data))
    image_shape = data.train_images.shape[1:]
    network = models.NETWORKS[config.network](
        image_shape, data.num_classes, rngs=nnx.Rngs(_init_key(config.seed))
    )
    config, objective = _choose_objective(config, network, data)
    trainer, state = step.make_trainer(network, objective, optimizer(config, len(data.train_labels)))
    run = Run(config, data, trainer, loop.keeping(state, data), [])
    stream(run)  # for its checks
    return run


def _init_key(seed: int) -> Any:
    """Returns a key like that of a step whose number no run reaches."""
    return jax.random.fold_in(jax.random.key(seed), 2**32 - 1)


def _choose_objective(
    config: TrainConfig, network: Network, data: Dataset
) -> tuple[TrainConfig, objectives.Objective]:
    """Returns the objective, and the options with σ and the logits that it is of."""
    if config.objective in objectives.PLAIN:
        return config, objectives.PLAIN[config.objective]
    config = dataclasses.replace(config, logits=_logits(config, data))
    if config.objective == "top-k" and config.k > data.num_classes:
        raise ValueError(f"k={config.k} is more than the {data.num_classes} classes of {data.name}; lower it")
    are_standardised = config.logits == "standardised"
    sigma = config.sigma
    if sigma is None and are_standardised:
        sigma = esjax.sigma.for_standardised(data.num_classes)
    elif sigma is None:
        sigma = float(initial_sigma(network, data))
    config = dataclasses.replace(config, sigma=sigma)
    objective = objectives.SMOOTHED[config.objective, config.estimator](sigma, config)
    return config, objectives.standardised(objective) if are_standardised else objective


def _logits(config: TrainConfig, data: Dataset) -> Logits:
    can_be_standardised = data.num_classes > 2
    if config.logits == "standardised" and not can_be_standardised:
        raise ValueError(
            f"logits='standardised', but {data.name} has {data.num_classes} classes, whose standardised "
            "logits are 1 and −1 whatever the network says; use raw"
        )
    return config.logits or ("standardised" if can_be_standardised else "raw")


def initial_sigma(network: Network, data: Dataset) -> Any:
    """Returns σ () from 1000 images and the untrained network, left unchanged; see `sigma.from_logits`."""
    images = jnp.asarray(data.train_images[:_SPREAD_EXAMPLES])
    logits = models.logits_of(nnx.clone(network), images)
    return esjax.sigma.from_logits(logits, features=network.features(images))


def optimizer(config: TrainConfig, num_examples: int) -> optax.GradientTransformation:
    """Adam, warming up over the first tenth of the steps, then decaying to 0 along a cosine.

    Without the warm-up, Adam's first steps throw the logits beyond σ, where whole classes get no gradient.
    """
    steps = config.epochs * max(num_examples // config.batch_size, 1)
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, steps // 10, steps)
    return optax.adam(schedule)


def stream(run: Run, *, on_step: Callable[[], None] = lambda: None) -> Iterator[tuple[State, Epoch]]:
    """Trains as `loop.epochs` does, from where the run stands; raises `ValueError` and more as it does."""
    config = run.config
    return loop.epochs(
        run.trainer,
        run.state,
        run.data,
        num_epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        on_step=on_step,
    )


def begin(run: Run, path: Path) -> None:
    """Makes the folder of a new run with its options in it, or nothing.

    Raises:
        OSError: the folder cannot be made; see `folder.new`.
    """
    with folder.new(path) as part:
        folder.write_config(part, run.config)
        record.write(part, run.data)


def restore(path: Path, *, data: str | None = None) -> tuple[Run, bool]:
    """Returns the run in the folder `path` at its newest checkpoint, and whether there is one yet.

    Args:
        path: of the run.
        data: where its data are now. None: where they were.

    Raises:
        FileNotFoundError: there is no run in the folder, or its data are gone.
        ValueError: the data, or the checkpoint's network, are not the run's; or a file is damaged.
    """
    config = folder.read_config(path)
    if data is not None:
        config = dataclasses.replace(config, data=data)
    try:
        found = _load(config)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; --resume {path} --data NEW goes on with data that moved"
        ) from error
    record.check(path, found)
    run = prepare(config, found)
    state = checkpoint.restore(path / folder.CHECKPOINTS, run.state)
    return (run, False) if state is None else (run._replace(state=state), True)


def resume(path: Path, *, data: str | None = None) -> Run:
    """Takes up the run in the folder `path`, and cuts its log off at the checkpoint.

    Args:
        path: of the run, which the caller has locked.
        data: where its data are now, which is recorded. None: where they were.

    Raises:
        FileNotFoundError: as for `restore`.
        ValueError: as for `restore`; or the log does not fit the checkpoint.
    """
    run, is_saved = restore(path, data=data)
    logged = folder.num_logged(path)
    if not is_saved and logged > run.config.checkpoint_every:
        raise ValueError(
            f"{path / folder.CHECKPOINTS}: no checkpoint, though the log has {logged} epochs; "
            "restore that folder, or start a new run"
        )
    epochs = folder.read_log(path, int(run.state.step) // num_batches(run))
    folder.cut_log(path, epochs)
    record.write(path, run.data)
    if data is not None:
        folder.write_config(path, run.config)
    return run._replace(epochs=epochs)


def num_batches(run: Run) -> int:
    """Returns the number of steps in an epoch."""
    return len(run.data.train_labels) // run.config.batch_size


def finish(
    run: Run,
    path: Path,
    *,
    on_step: Callable[[], None] = lambda: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Result:
    """Trains to the last epoch, and leaves log, checkpoints and pictures in the folder `path`.

    Raises:
        FloatingPointError: the loss is not finite; the last checkpoint stays.
        OSError: the folder cannot be written to.
    """
    state, epochs = run.state, list(run.epochs)
    for state, epoch in stream(run, on_step=on_step):
        epochs.append(epoch)
        folder.append(path, epoch._asdict())  # before the checkpoint, which must not be ahead of the log
        if epoch.epoch % run.config.checkpoint_every == 0 or epoch.epoch == run.config.epochs:
            checkpoint.save(path / folder.CHECKPOINTS, epoch.epoch, state)
        on_epoch(epoch)
    counts = step.confusion(run.trainer, state.chosen, run.data.test_images, run.data.test_labels)
    plot.training(path / folder.CURVES, epochs, run.data.name)
    plot.confusion(path / folder.CONFUSION, counts, run.data.name)
    return Result(state, epochs, counts)
