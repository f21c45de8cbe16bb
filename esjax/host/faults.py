"""What went wrong in calls of a Python function: faults, their count, and how they are reported."""

import copy
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from esjax.host.executors import described

_KEPT_FAULTS = 100
_SHOWN_LEAVES, _SHOWN_NUMBERS = 4, 8


class Fault(NamedTuple):
    """An evaluation that failed, with all that it takes to repeat it: `python_fun(*fault.args)`.

    Attributes:
        kind: "exception" of the function, "timeout", or "death" of the worker.
        sample: its index along the axes of `jax.vmap`, () outside.
        args: what the function was given, NumPy arrays.
        error: what was raised; a `RuntimeError` with its text where its class cannot be copied or sent.
    """

    kind: Literal["exception", "timeout", "death"]
    sample: tuple[int, ...]
    args: tuple[Any, ...]
    error: BaseException


@dataclass
class Log:
    """What happened in all calls so far.

    Attributes:
        evaluations: calls of the function whose outcome was awaited, repeated ones included.
        exceptions: of the function.
        timeouts: calls that were cut off.
        deaths: workers that died.
        retries: calls that were made again.
        substituted: values that `on_error` gave.
        hits: calls that were not made, since the value at the same arguments was known.
        faults: the last 100.
    """

    evaluations: int = 0
    exceptions: int = 0
    timeouts: int = 0
    deaths: int = 0
    retries: int = 0
    substituted: int = 0
    hits: int = 0
    faults: deque[Fault] = field(default_factory=lambda: deque(maxlen=_KEPT_FAULTS))


class Counter:
    """Counts into a log from several threads, one for each device that calls back."""

    _lock = threading.Lock()

    def __init__(self, log: Log) -> None:
        self._log = log

    def add(self, name: str, count: int = 1) -> None:
        """Adds to what the log counts under that name."""
        with self._lock:
            setattr(self._log, name, getattr(self._log, name) + count)

    def fault(self, fault: Fault) -> None:
        """Counts a fault, and keeps it without what would hold the batch in memory."""
        self.add({"exception": "exceptions", "timeout": "timeouts", "death": "deaths"}[fault.kind])
        kept = fault._replace(args=jax.tree.map(np.array, fault.args), error=_without_traceback(fault.error))
        with self._lock:
            self._log.faults.append(kept)


def _without_traceback(error: BaseException) -> BaseException:
    """Returns a copy: a traceback holds the whole batch. The RuntimeError raised from `error` keeps it."""
    try:
        return copy.copy(error).with_traceback(None)
    except Exception:  # its class takes arguments other than those that it passes on to Exception
        return RuntimeError(described(error))


def name_of(index: tuple[int, ...]) -> str:
    """Returns what a message calls the sample of this index."""
    return f"sample {', '.join(map(str, index))}" if index else "the only sample"


def shown(args: tuple[Any, ...]) -> str:
    """Returns a line with the first numbers of each array, and the shape of those that have more."""
    leaves = jax.tree_util.tree_leaves_with_path(args)
    parts = [f"args{jax.tree_util.keystr(path)}={_shown_leaf(leaf)}" for path, leaf in leaves[:_SHOWN_LEAVES]]
    if len(leaves) > _SHOWN_LEAVES:
        parts.append(f"and {len(leaves) - _SHOWN_LEAVES} more arrays")
    return ", ".join(parts)


def _shown_leaf(leaf: NDArray[Any]) -> str:
    if leaf.size <= _SHOWN_NUMBERS:
        return " ".join(np.array2string(leaf).split())
    first = np.array2string(leaf.reshape(-1), threshold=_SHOWN_NUMBERS, edgeitems=3)
    return f"{leaf.dtype}{list(leaf.shape)} {first}"
