"""The command `esjax task`, which keeps finished splits in its folder as it goes."""

import json
import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from esjax.train import folder, interrupts
from esjax.train.screen import Screen, Work, new_path, progress

if TYPE_CHECKING:
    from esjax.tasks.frame import Task  # of another extra

SETTINGS = "task.json"

TaskName = Literal[
    "assignment",
    "codec",
    "noisy-0",
    "noisy-20",
    "noisy-40",
    "noisy-60",
    "noisy-flips",
    "ranking",
    "shortest-path",
    "survival",
    "yeast",
]
"""The names of `esjax.tasks.TASKS`, which is an extra that may not be installed."""


def do_task(
    name: tyro.conf.Positional[TaskName],
    *,
    data: Path | None = None,
    seeds: int | None = None,
    out: Path | None = None,
    resume: Path | None = None,
) -> Work:
    """Train on a metric that people report, on real data, beside an honest baseline.

    Args:
        name: assignment (regret where costs are predicted), codec (accuracy through JPEG), noisy (accuracy on
            Fashion-MNIST, that percentage of its training labels random, or 40 % flipped), ranking (NDCG@10
            on MSLR), shortest-path (regret of routes across hills), survival (concordance on GBSG2) or yeast
            (macro-F1 of 14 labels).
        data: Where the data are, if no package ships them. None: where the task looks by default.
        seeds: Splits of the data, at least 2. None: as many as it takes to tell the methods apart.
        out: New folder for table, numbers and picture. None: one in runs/, named after the time.
        resume: Folder of an interrupted task, whose finished splits stay; give the same name and data.
    """
    from esjax.tasks import TASKS

    if seeds is not None and seeds < 2:
        raise ValueError(f"seeds={seeds} must be >= 2, for a standard error")
    if resume is not None and (out is not None or seeds is not None):
        raise ValueError(
            f"--resume {resume} goes on in that folder with its seeds; leave out --out and --seeds"
        )
    path = resume or out or new_path(name)
    if resume is None:
        folder.check_new(path)
    task = TASKS[name](data)
    settings: dict[str, Any] = {"task": name, "seeds": seeds or task.seeds, "checksum": task.checksum}
    if resume is None:
        with folder.new(path) as part:
            (part / SETTINGS).write_text(json.dumps(settings) + "\n", "utf-8")
    else:
        settings = _settings(path, settings)
    with ExitStack() as held:
        held.enter_context(folder.locked(path))
        finished = _finished(path)
        return partial(_do_task, name, task, settings["seeds"], finished, path, held.pop_all())


def _settings(path: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of the task in the folder, which must be those wanted but for the seeds."""
    file = path / SETTINGS
    if not file.is_file():
        raise FileNotFoundError(f"{path}: holds no task: there is no {SETTINGS} in it; give a task's folder")
    try:
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
        name, checksum, _ = found["task"], found["checksum"], range(found["seeds"])
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise ValueError(f"{file}: not sound: {error}; restore the file, or start anew") from error
    if name != wanted["task"]:
        raise ValueError(
            f"{path}: holds the task {name}, not {wanted['task']}; give that name, or another folder"
        )
    if checksum != wanted["checksum"]:
        raise ValueError(f"{path}: was begun with other data; give those as --data, or start anew")
    return found


def _finished(path: Path) -> list[dict[str, float]]:
    """Returns the results of finished splits, and removes everything else from the log."""
    results: list[dict[str, float]] = []
    for line in folder.lines(path):
        try:
            results.append(json.loads(line))
        except ValueError:
            break  # a line that was cut short
    folder.keep_lines(path, len(results))
    return results


def _do_task(
    name: str, task: "Task", seeds: int, results: list[dict[str, float]], path: Path, held: ExitStack
) -> None:
    from esjax.tasks import frame

    screen = Screen()
    if results:
        screen.say(f"{len(results)} of {seeds} splits are finished already")
    again = f"Stopped. Go on with: esjax task {name} --resume {shlex.quote(str(path))}"
    with held, interrupts.saying(again):
        with progress(screen, seeds * task.fits, len(results) * task.fits) as advance:
            for seed in range(len(results), seeds):
                advance(f"{task.title}, split {seed + 1} of {seeds}", steps=0)
                results.append(task.compare(seed, advance))
                folder.append(path, results[-1])
        frame.write(path, task, results)
    rows = frame.summarise(task, results)
    screen.say(f"\n{frame.markdown(task, rows)}\n{frame.verdict(task, results)}")
    for file in (frame.TABLE, frame.PICTURE, frame.RESULTS):
        screen.say(f"{path / file}")
