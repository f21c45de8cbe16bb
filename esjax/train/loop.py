"""Epochs of training as a stream: the loop that every command drives, and that touches no file."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from esjax.train import held_out
from esjax.train import step as steps
from esjax.train.checks import require_at_least
from esjax.train.data import Dataset, batch_indices
from esjax.train.step import Metrics, State, Trainer

_VANISHED = 0.01
"""A class whose gradient is below this share of the mean class's learns nothing more."""


class Epoch(NamedTuple):
    """What a person wants to see of an epoch; plain numbers, as they are logged.

    Attributes:
        epoch: epochs done, from 1 on.
        loss: mean of the objective over the steps.
        train_accuracy: share of the training labels, wrong ones included, that the network gets right, each
            batch before the step that uses it.
        test_accuracy: share of the test set that the network gets right, with the weights that the epoch
            offers (`State.offered`): their mean over a twentieth of the epochs, if anything is held out, or
            else the newest.
        held_out_accuracy: share of the held-out labels, wrong ones included, that it gets right with them;
            None if nothing is held out.
        held_out_score: that share, smoothed a little (`held_out.score`), by which weights are kept; None if
            nothing is held out.
        kept: the epoch, this one or earlier, whose weights are kept so far; this one if nothing is held out.
        recall: for each class the share of its test examples that the network gets right; None
            for a class without any.
        gradient_norm: mean over the steps.
        signal_to_noise: of the gradient in a batch's logits, median over the steps where it is finite;
            None if there is no such step, as without samples.
        class_gradients: for each class the mean over its examples of ‖∂loss/∂logits_b‖ times the batch's
            size; None for a class without any.
        seconds_per_step: of training alone, without evaluation.
    """

    epoch: int
    loss: float
    train_accuracy: float
    test_accuracy: float
    held_out_accuracy: float | None
    held_out_score: float | None
    kept: int
    recall: list[float | None]
    gradient_norm: float
    signal_to_noise: float | None
    class_gradients: list[float | None]
    seconds_per_step: float

    @property
    def lost_classes(self) -> list[int]:
        """Classes of which the network gets no test example right."""
        return [label for label, recall in enumerate(self.recall) if recall == 0]

    @property
    def vanished_classes(self) -> list[int]:
        """Lost classes whose gradient is less than 1 % of the mean class's: they will stay lost."""
        norms = [norm for norm in self.class_gradients if norm is not None]
        limit = _VANISHED * sum(norms) / max(len(norms), 1)
        found = [(label, self.class_gradients[label]) for label in self.lost_classes]
        return [label for label, norm in found if norm is not None and norm <= limit]


def kept(epochs: Sequence[Epoch]) -> Epoch:
    """Returns the record of the epoch whose weights a run has kept."""
    return epochs[epochs[-1].kept - 1]


def epochs(
    trainer: Trainer,
    state: State,
    data: Dataset,
    *,
    num_epochs: int,
    batch_size: int,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> Iterator[tuple[State, Epoch]]:
    """Trains, and yields the state and a record after each epoch.

    If the data have held-out examples, the state keeps the mean weights that do best on them
    (`State.chosen`).
    Batches and keys are functions of `seed` and the number of steps taken, so a run that goes on from
    any yielded state ends with the very same parameters.

    Args:
        trainer: from `esjax.train.step.make_trainer`.
        state: at the beginning of an epoch.
        data: the training and the test set, and what is held out.
        num_epochs: the last epoch, counted from the first step of the run.
        batch_size: in [1, number of training examples].
        seed: of the batches and of the objective's keys, >= 0.
        on_step: called after each step has been dispatched.

    Raises:
        ValueError: a number is out of range, or the network's logits do not fit the labels.
        FloatingPointError: the loss of an epoch, or its gradient, is not finite.
    """
    require_at_least("num_epochs", num_epochs, 1)
    require_at_least("batch_size", batch_size, 1)
    require_at_least("seed", seed, 0)
    first = _epochs_done(state, data, batch_size)
    state = keeping(state, data)
    _check_logits(trainer, state, data)

    def stream(state: State) -> Iterator[tuple[State, Epoch]]:
        for epoch in range(first, num_epochs):
            state, metrics, seconds = _train_epoch(trainer, state, data, batch_size, seed, epoch, on_step)
            loss, train_accuracy, gradient_norm = (float(np.mean(values)) for values in metrics[:3])
            if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
                raise FloatingPointError(
                    f"epoch {epoch + 1}: the loss is {loss} and its gradient's norm {gradient_norm}; "
                    "lower learning_rate, or look for a block that returns NaN"
                )
            state, held_accuracy, held_score = _judged(trainer, state, data, epoch + 1, num_epochs)
            counts = steps.confusion(trainer, state.offered, data.test_images, data.test_labels)
            recall = _shares(counts.diagonal().tolist(), counts.sum(1).tolist())
            yield (
                state,
                Epoch(
                    epoch=epoch + 1,
                    loss=loss,
                    train_accuracy=train_accuracy,
                    test_accuracy=float(counts.trace() / counts.sum()),
                    held_out_accuracy=held_accuracy,
                    held_out_score=held_score,
                    kept=epoch + 1 if state.kept is None else int(state.kept.epoch),
                    recall=recall,
                    gradient_norm=gradient_norm,
                    signal_to_noise=_median(metrics.signal_to_noise),
                    class_gradients=_shares(
                        metrics.class_gradients.sum(0).tolist(), metrics.class_counts.sum(0).tolist()
                    ),
                    seconds_per_step=seconds,
                ),
            )

    return stream(state)


def keeping(state: State, data: Dataset) -> State:
    """Returns a state that keeps weights if anything is held out: the form in which checkpoints have it."""
    if data.held_labels is None or state.kept is not None:
        return state
    return state._replace(kept=held_out.begin(state.weights))


def _judged(
    trainer: Trainer, state: State, data: Dataset, epoch: int, num_epochs: int
) -> tuple[State, float | None, float | None]:
    """Returns the state with the weights to keep, and what those offered do on the held-out examples."""
    if state.kept is None:
        return state, None, None
    kept = held_out.with_mean(state.kept, state.weights, epoch, num_epochs)
    logits = steps.logits_of(trainer, state._replace(kept=kept).offered, data.held_images)
    score = held_out.score(logits, data.held_labels)
    accuracy = float(np.mean(np.asarray(logits).argmax(-1) == data.held_labels))
    return state._replace(kept=held_out.with_score(kept, epoch, score)), accuracy, float(score)


def _epochs_done(state: State, data: Dataset, batch_size: int) -> int:
    num_examples = len(data.train_labels)
    if batch_size > num_examples:
        raise ValueError(f"batch_size={batch_size} must be in [1, {num_examples}], the number of examples")
    done, rest = divmod(int(state.step), num_examples // batch_size)
    if rest:
        raise ValueError(
            f"state.step={int(state.step)} is within an epoch of {num_examples // batch_size} steps; "
            "go on from the state at the end of an epoch, with the same data and batch_size"
        )
    return done


def _check_logits(trainer: Trainer, state: State, data: Dataset) -> None:
    shape = jax.eval_shape(trainer.logits, state, data.test_images[:1]).shape
    if len(shape) != 2 or shape[0] != 1 or shape[1] < data.num_classes:
        raise ValueError(
            f"the network turns 1 image into logits of shape {shape}, and the labels of {data.name} are 0 to "
            f"{data.num_classes - 1}; use a network with logits (1, {data.num_classes})"
        )


def _shares(parts: list[float], totals: list[float]) -> list[float | None]:
    return [part / total if total else None for part, total in zip(parts, totals, strict=True)]


def _median(values: Any) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else None


def _train_epoch(
    trainer: Trainer,
    state: State,
    data: Dataset,
    batch_size: int,
    seed: int,
    epoch: int,
    on_step: Callable[[], None],
) -> tuple[State, Metrics, float]:
    """Returns the new state, the metrics of all steps, and the seconds a step took."""
    batches = batch_indices(len(data.train_labels), batch_size, seed=seed, epoch=epoch)
    key, history = jax.random.key(seed), []
    start = time.perf_counter()
    for number, indices in enumerate(batches, start=epoch * len(batches)):
        batch = data.train_images[indices], data.train_labels[indices]
        state, metrics = trainer.step(state, batch, jax.random.fold_in(key, number))
        history.append(metrics)
        on_step()
    state.step.block_until_ready()
    seconds = (time.perf_counter() - start) / len(batches)
    return state, jax.tree.map(lambda *values: np.array(values), *history), seconds
