"""Ctrl-C: the process ends at once, with status 130 and a message, and leaves nothing half-made behind.

A `KeyboardInterrupt` would be raised wherever Python happens to be, even within JAX's callbacks or its
compiler, and only once a compiled program, which may run for minutes, has ended; an interpreter that is shut
down while XLA works can crash. Instead, a thread waits for the signal and ends the process as a kill would,
which runs are made to survive.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STATUS = 130

_GRACE = 1.0
"""Seconds for what must be done before the end."""

_messages = ["esjax: stopped, nothing was written"]
_undoing: list[Callable[[], None]] = []


@contextmanager
def saying(message: str) -> Iterator[None]:
    """Within the block, Ctrl-C ends with this message on standard error."""
    _messages.append(message)
    try:
        yield
    except KeyboardInterrupt:  # outside of `watched`
        print(message, file=sys.stderr)
        raise SystemExit(STATUS) from None
    finally:
        _messages.remove(message)


@contextmanager
def undoing(action: Callable[[], None]) -> Iterator[None]:
    """Within the block, Ctrl-C runs this action first; outside of `watched`, the block cleans up itself."""
    _undoing.append(action)
    try:
        yield
    finally:
        _undoing.remove(action)


@contextmanager
def watched() -> Iterator[None]:
    """Within the block, which the main thread runs, Ctrl-C ends the process as described above."""
    sys.warnoptions.append("ignore:resource_tracker")  # in child processes, of what the end leaves behind
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    threading.Thread(target=_wait, args=(reader,), daemon=True).start()
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    handler = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.set_wakeup_fd(before)
        writer.close()  # which ends the thread


def _wait(reader: socket.socket) -> None:
    while received := reader.recv(1):
        if received[0] == signal.SIGINT:
            _end()


def _end() -> None:
    late = threading.Timer(_GRACE, os._exit, [STATUS])
    late.daemon = True
    late.start()
    try:
        for action in reversed(_undoing):
            with contextlib.suppress(Exception):
                action()
        for process in multiprocessing.active_children():
            process.kill()
        if sys.stdout.isatty():
            print("\033[?25h")  # the cursor, which a progress bar hides
        print(_messages[-1], file=sys.stderr)
        sys.stdout.flush()
    finally:
        os._exit(STATUS)
