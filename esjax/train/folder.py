"""A run's folder: its options, its log (a JSON line for each epoch), and the names of what else is in it."""

import dataclasses
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esjax.train.config import TrainConfig, from_json
from esjax.train.loop import Epoch

CHECKPOINTS = "checkpoints"
CONFIG = "config.json"
CONFUSION = "confusion.png"
CURVES = "curves.png"
LOG = "log.jsonl"


def check_new(path: Path) -> None:
    """Raises `FileExistsError` where there is something already: nothing is ever overwritten."""
    if path.exists():
        raise FileExistsError(
            f"{path}: exists already; give another --out, or go on with a training run by --resume {path}"
        )


@contextmanager
def new(path: Path) -> Iterator[Path]:
    """Gives a folder to fill, which becomes `path` if all goes well, and is gone if not.

    Raises:
        FileExistsError: `path` is there already.
        OSError: it cannot be made.
    """
    check_new(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        yield part
        part.chmod(0o777 & ~_umask())
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def create(path: Path, config: TrainConfig) -> None:
    """Makes the folder of a new run with its options in it, or nothing; see `new`."""
    with new(path) as part:
        (part / CONFIG).write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n", "utf-8")


def read_config(path: Path) -> TrainConfig:
    """Reads the options of the run.

    Raises:
        FileNotFoundError: the folder is not that of a run.
        ValueError: the file is damaged, or of another version.
    """
    file = path / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{path}: holds no run, for there is no {CONFIG} in it; give a run's folder")
    try:
        values = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not sound JSON: {error}; restore the file, or start a new run") from error
    return from_json(values, file)


def append_epoch(path: Path, epoch: Epoch) -> None:
    """Adds a line to the log."""
    with (path / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(epoch._asdict(), allow_nan=False) + "\n")


def num_logged(path: Path) -> int:
    """Returns the number of lines in the log."""
    return len(_lines(path))


def read_log(path: Path, num_epochs: int) -> list[Epoch]:
    """Reads the first `num_epochs` lines of the log.

    Raises:
        ValueError: there are fewer sound ones.
    """
    file = path / LOG
    try:
        epochs = [_epoch(line) for line in _lines(path)[:num_epochs]]
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{file}: not a sound log: {error}; restore the file, or start a new run") from error
    if [epoch.epoch for epoch in epochs] != list(range(1, num_epochs + 1)):
        raise ValueError(
            f"{file}: has {len(epochs)} epochs in order, and the checkpoint is of epoch {num_epochs}; "
            "restore the file, or start a new run"
        )
    return epochs


def _lines(path: Path) -> list[str]:
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
            if number is None and (of_classes or name == "signal_to_noise"):
                continue
            if type(number) is not (int if name == "epoch" else float) or not math.isfinite(number):
                raise ValueError(f"{name} holds {number!r}")
    return epoch


def cut_log(path: Path, epochs: list[Epoch]) -> None:
    """Leaves only these epochs in the log: those after the checkpoint will come again."""
    lines = [json.dumps(epoch._asdict(), allow_nan=False) + "\n" for epoch in epochs]
    part = path / (LOG + ".part")
    part.write_text("".join(lines), "utf-8")
    part.replace(path / LOG)
