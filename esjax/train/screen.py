"""What the command line prints, and where it puts what it makes."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Work = Callable[[], None]
"""What remains of a command once its input is known to be right."""


class Screen(Console):
    """A console that falls silent when nobody reads it any more; the work goes on."""

    def on_broken_pipe(self) -> None:
        """Called by rich when a `BrokenPipeError` was raised."""
        self.quiet = True
        silence()

    def say(self, text: str) -> None:
        """Prints the text as it is: paths are not broken up, and brackets are not markup."""
        self.print(text, markup=False, highlight=False, soft_wrap=True)


_UNREAD = 128 + 13
"""The status of a process that SIGPIPE ends."""


def silence() -> None:
    """Discards what is still to be printed: Python would complain on exit that nobody reads it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def quiet_when_unread() -> Iterator[None]:
    """Ends the process silently if the block fails because nobody reads what it prints."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        silence()
        sys.exit(_UNREAD)


def fail(error: BaseException, *, status: int) -> int:
    """Prints the error as one line; returns the exit status."""
    Screen(stderr=True).print(f"esjax: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    return status


def new_path(name: str) -> Path:
    """Returns the folder for output where the user names none."""
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


@contextmanager
def progress(screen: Screen, total: int, done: int) -> Iterator[Callable[..., None]]:
    """Shows a progress bar; yields `advance(description=None, steps=1)`."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=screen) as bar:
        task = bar.add_task("starting", total=total, completed=done)

        def advance(description: str | None = None, steps: int = 1) -> None:
            bar.update(task, advance=steps, description=description)

        yield advance
