"""A run's folder: its options, its log (a JSON line for each epoch), and the names of the rest."""

import dataclasses
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import filelock

from esjax.train import interrupts
from esjax.train.config import Config, RLConfig, TrainConfig, from_json
from esjax.train.loop import Epoch

CHECKPOINTS = "checkpoints"
CONFIG = "config.json"
CONFUSION = "confusion.png"
CURVES = "curves.png"
LOCK = ".lock"
LOG = "log.jsonl"

_MAY_BE_NONE = ("held_out_accuracy", "held_out_score", "signal_to_noise")
_PART = ".part"
"""Ends the name of what is being written."""


def check_new(path: Path) -> None:
    """Checks, before any work, that `new` can make the folder `path`; leaves nothing behind.

    Raises:
        FileExistsError: something is there already: nothing is ever overwritten.
        OSError: it cannot be made.
    """
    if path.exists():
        raise FileExistsError(
            f"{path}: exists already; give another --out, or go on with a run by --resume {path}"
        )
    parents = path.absolute().parents
    with _making(path):
        _part(path, next(parent for parent in parents if parent.exists())).rmdir()


@contextmanager
def new(path: Path) -> Iterator[Path]:
    """Yields a folder to fill, which becomes `path` if all goes well, and is removed if not.

    Raises:
        FileExistsError: `path` is there already; if it appeared meanwhile, the filled folder stays beside it.
        OSError: it cannot be made.
    """
    check_new(path)
    with _making(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _part(path, path.parent)
    remove = partial(shutil.rmtree, part, ignore_errors=True)
    try:
        with interrupts.undoing(remove):
            yield part
        part.chmod(0o777 & ~_umask())
    except BaseException:
        remove()
        raise
    try:
        part.rename(path)
    except OSError as error:
        raise FileExistsError(
            f"{path}: was made by something else meanwhile; the results are in {part}"
        ) from error


@contextmanager
def _making(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f"{path}: cannot be made: {error}; give another --out") from error


def _part(path: Path, parent: Path) -> Path:
    """Makes the folder that becomes `path`."""
    return Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_PART, dir=parent))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other processes out of the run in the folder `path`, until it ends or this process does.

    Raises:
        OSError: another process is at work in it, or it cannot be written to.
    """
    lock = filelock.FileLock(path / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise OSError(
            f"{path}: another process is at work in this folder; wait until it ends, or stop it"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_config(path: Path, config: TrainConfig | RLConfig) -> None:
    """Writes the options of the run in the folder `path`, replacing any that are there."""
    part = path / (CONFIG + _PART)
    part.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n", "utf-8")
    part.replace(path / CONFIG)


def read_config(path: Path) -> TrainConfig:
    """Reads the options of the training run; raises as `read_options` does."""
    return read_options(path, TrainConfig)


def read_options(path: Path, kind: type[Config]) -> Config:
    """Reads the options of a run of one kind.

    Raises:
        FileNotFoundError: the folder is not that of a run.
        ValueError: the file is damaged, or of another version.
    """
    file = path / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{path}: holds no run: there is no {CONFIG} in it; give a run's folder")
    try:
        values = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not sound JSON: {error}; restore the file, or start a new run") from error
    return from_json(values, file, kind)


def append(path: Path, values: Mapping[str, Any]) -> None:
    """Adds a line to the log."""
    with (path / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(values, allow_nan=False) + "\n")


def num_logged(path: Path) -> int:
    """Returns the number of lines in the log."""
    return len(lines(path))


def read_log(path: Path, num_epochs: int) -> list[Epoch]:
    """Reads the first `num_epochs` lines of the log.

    Raises:
        ValueError: there are fewer sound ones.
    """
    file = path / LOG
    try:
        epochs = [_epoch(line) for line in lines(path)[:num_epochs]]
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{file}: not a sound log: {error}; restore the file, or start a new run") from error
    if [epoch.epoch for epoch in epochs] != list(range(1, num_epochs + 1)):
        raise ValueError(
            f"{file}: has {len(epochs)} epochs in order, and the checkpoint is of epoch {num_epochs}; "
            "restore the file, or start a new run"
        )
    return epochs


def lines(path: Path) -> list[str]:
    """Returns the lines of the log."""
    file = path / LOG
    return file.read_text("utf-8", errors="replace").splitlines() if file.is_file() else []


def _epoch(line: str) -> Epoch:
    """Returns the epoch of a line; raises one of several errors where it is damaged."""
    epoch = Epoch(**json.loads(line))
    for name, value in epoch._asdict().items():
        of_classes = name in ("recall", "class_gradients")
        if of_classes and len(value) != len(epoch.recall):
            raise ValueError(f"{name} has {len(value)} classes, and recall {len(epoch.recall)}")
        for number in value if of_classes else [value]:
            if number is None and (of_classes or name in _MAY_BE_NONE):
                continue
            if type(number) is not (int if name in ("epoch", "kept") else float) or not math.isfinite(number):
                raise ValueError(f"{name} holds {number!r}")
    if not 1 <= epoch.kept <= epoch.epoch:
        raise ValueError(f"kept holds {epoch.kept!r}")
    return epoch


def cut_log(path: Path, epochs: list[Epoch]) -> None:
    """Leaves only these epochs in the log: those after the checkpoint will come again."""
    _write_log(path, [json.dumps(epoch._asdict(), allow_nan=False) for epoch in epochs])


def keep_lines(path: Path, num_lines: int) -> None:
    """Leaves only the first lines of the log.

    Raises:
        ValueError: there are fewer.
    """
    found = lines(path)
    if len(found) < num_lines:
        raise ValueError(
            f"{path / LOG}: has {len(found)} lines of {num_lines}; restore it, or start a new run"
        )
    _write_log(path, found[:num_lines])


def _write_log(path: Path, kept: list[str]) -> None:
    part = path / (LOG + _PART)
    part.write_text("".join(line + "\n" for line in kept), "utf-8")
    part.replace(path / LOG)
