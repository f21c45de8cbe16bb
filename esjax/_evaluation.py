"""Evaluating a Python function at many inputs, in NumPy alone: executors and faults."""

import copy
import pickle
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from esjax._check import check_positive
from esjax._executors import CallTimedOut, CannotLoad, ProcessPool, RayExecutor, described

Leaves = list[NDArray[Any]]

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
        evaluations: calls of the function whose outcome was awaited, repeated ones too.
        exceptions: of the function.
        timeouts: calls that were cut off.
        deaths: workers that died.
        retries: calls that were made again.
        substituted: values that `on_error` gave.
        faults: the last 100.
    """

    evaluations: int = 0
    exceptions: int = 0
    timeouts: int = 0
    deaths: int = 0
    retries: int = 0
    substituted: int = 0
    faults: deque[Fault] = field(default_factory=lambda: deque(maxlen=_KEPT_FAULTS))


class Turn:
    """Held while the thread that called back calls the user's functions.

    Several devices, or threads of the user's, may call back at the same time, and a simulator has one buffer.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self) -> Any:  # a wrapped function can be copied and pickled, a lock cannot
        return Turn, ()


class Task(NamedTuple):
    """What to evaluate, and how; see `esjax.host.wrap`."""

    fun: Callable[..., Any]
    result: Any
    executor: Executor | None
    timeout: float | None
    on_error: Callable[..., Any] | None
    retries: int
    turn: Turn


def evaluate(
    task: Task, log: Log, samples: Sequence[tuple[tuple[int, ...], tuple[Any, ...]]]
) -> list[Leaves]:
    """Returns the leaves of the function's value at each sample.

    Args:
        task: the function and its options.
        log: where calls and faults are counted.
        samples: for each its index and arguments.

    Raises:
        ValueError: a value does not fit the declared result; or the executor is closed.
        RuntimeError: an evaluation failed, with all retries, and there is no `on_error`; or the executor
            broke.
    """
    counter = _Counter(log)
    futures: list[Future[Any]] = []
    try:
        for _, args in samples:
            futures.append(_start(task, counter, args))
        return [
            _finish(task, counter, index, args, future)
            for (index, args), future in zip(samples, futures, strict=True)
        ]
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _start(task: Task, counter: "_Counter", args: tuple[Any, ...]) -> Future[Any]:
    executor: Any = task.executor
    if executor is None:
        return _Later(task, args)
    # These pickle a value before the next call; a worker of Dask's holds it until it is fetched.
    pickles = isinstance(executor, ProcessPool | ProcessPoolExecutor | RayExecutor)
    fun = task.fun if pickles else partial(_copied, task.fun)
    try:
        if task.timeout is None:
            return executor.submit(fun, *args)
        return executor.submit_within(task.timeout, fun, *args)
    except BrokenExecutor as error:
        raise _broken(task.executor) from error
    except RuntimeError as error:
        raise ValueError(
            f"executor={task.executor!r} takes no more work ({error}): it is closed; call within its `with` "
            "block, or wrap the function again with a new one"
        ) from error


class _Later(Future[Any]):
    """A call that is made when its result is asked for."""

    def __init__(self, task: Task, args: tuple[Any, ...]) -> None:
        super().__init__()
        self._task, self._args = task, args

    def result(self, timeout: float | None = None) -> Any:
        with self._task.turn:
            return _copied(self._task.fun, *self._args)


def _copied(fun: Callable[..., Any], *args: Any) -> Any:
    """Returns a copy of the function's value, which may be memory that it fills again at its next call."""
    return jax.tree.map(_copied_leaf, fun(*args))


def _copied_leaf(leaf: Any) -> Any:
    try:
        return np.array(leaf, subok=True)  # a mask is looked at later
    except Exception:  # no array: `_checked_leaf` says so
        return leaf


def _finish(
    task: Task, counter: "_Counter", index: tuple[int, ...], args: tuple[Any, ...], future: Future[Any]
) -> Leaves:
    """Waits for a value; makes calls again whose worker failed, and lets `on_error` answer at last."""
    for again in range(task.retries + 1):
        if again:
            counter.add("retries")
            future = _start(task, counter, args)
        counter.add("evaluations")
        kind, value = _outcome(task, future)
        if kind is None:
            return _checked(task, value, f"the value of {_name(index)}")
        counter.fault(Fault(kind, index, args, value))
        if kind == "exception":  # the function would raise it again
            break
    if task.on_error is None:
        raise RuntimeError(
            f"{_name(index)}: {described(value)}; its input {_shown(args)} is kept in "
            "log.faults[-1].args, and on_error may substitute a value"
        ) from value
    counter.add("substituted")
    with task.turn:
        substitute = _copied(task.on_error, value, *args)
    return _checked(task, substitute, f"what on_error gave for {_name(index)}")


def _name(index: tuple[int, ...]) -> str:
    return f"sample {', '.join(map(str, index))}" if index else "the only sample"


def _shown(args: tuple[Any, ...]) -> str:
    """Returns a line with the first numbers of each array, and the shape of those that have more."""
    leaves = jax.tree_util.tree_leaves_with_path(args)
    shown = [f"args{jax.tree_util.keystr(path)}={_shown_leaf(leaf)}" for path, leaf in leaves[:_SHOWN_LEAVES]]
    if len(leaves) > _SHOWN_LEAVES:
        shown.append(f"and {len(leaves) - _SHOWN_LEAVES} more arrays")
    return ", ".join(shown)


def _shown_leaf(leaf: NDArray[Any]) -> str:
    if leaf.size <= _SHOWN_NUMBERS:
        return " ".join(np.array2string(leaf).split())
    first = np.array2string(leaf.reshape(-1), threshold=_SHOWN_NUMBERS, edgeitems=3)
    return f"{leaf.dtype}{list(leaf.shape)} {first}"


def _outcome(task: Task, future: Future[Any]) -> tuple[Literal["exception", "timeout", "death"] | None, Any]:
    try:
        return None, future.result()
    except BrokenExecutor as error:
        raise _broken(task.executor) from error
    except CannotLoad as error:
        raise ValueError(str(error)) from error
    except CallTimedOut as error:
        return "timeout", error
    except CancelledError as error:
        raise RuntimeError(f"executor={task.executor!r} was shut down during the call") from error
    except (Exception, SystemExit) as error:
        return ("death", error) if isinstance(error, _deaths()) else ("exception", _own(error))


def _deaths() -> tuple[type[BaseException], ...]:
    """Returns what executors raise for a worker that died, of those that are loaded."""
    names = (
        ("esjax._executors", "WorkerDied"),
        ("distributed.scheduler", "KilledWorker"),
        ("ray.exceptions", "WorkerCrashedError"),
    )
    return tuple(getattr(sys.modules[module], name) for module, name in names if module in sys.modules)


def _own(error: BaseException) -> BaseException:
    """Returns the exception of `python_fun` itself; Ray puts the worker's traceback before its text."""
    ray = sys.modules.get("ray.exceptions")
    if ray is None or not isinstance(error, ray.RayTaskError):
        return error
    own: BaseException = error.cause
    own.__cause__ = error
    return own


def _broken(executor: Any) -> RuntimeError:
    return RuntimeError(
        f"executor={executor!r} is broken: a worker died, and it does not replace it; use "
        "esjax.host.ProcessPool, which does"
    )


def _checked(task: Task, value: Any, what: str) -> Leaves:
    """Returns the leaves as arrays of the declared shapes and dtypes."""
    found, wanted = str(jax.tree.structure(value)), str(jax.tree.structure(task.result))
    if found != wanted:
        raise ValueError(
            f"{what} has structure {found} instead of {wanted}; correct result, or what the function returns"
        )
    return [
        _checked_leaf(leaf, like, what)
        for leaf, like in zip(jax.tree.leaves(value), jax.tree.leaves(task.result), strict=True)
    ]


def _checked_leaf(leaf: Any, like: Any, what: str) -> NDArray[Any]:
    if np.ma.is_masked(leaf):
        raise ValueError(f"{what} has masked numbers; fill them, such as by value.filled(np.nan)")
    try:
        found = np.asarray(leaf)
    except Exception as error:  # whatever an __array__ raises, such as that of a tensor on a GPU
        raise ValueError(
            f"{what} has {leaf!r} in it, of which NumPy makes no array ({error}); return NumPy arrays"
        ) from error
    if found.shape != like.shape or not np.can_cast(found.dtype, like.dtype, "same_kind"):
        raise ValueError(
            f"{what} is {found.dtype}{list(found.shape)} instead of {like.dtype}{list(like.shape)}; correct "
            "result, or what the function returns"
        )
    return found.astype(like.dtype, copy=False)


class _Counter:
    """Counts into a log from several threads, one for each device that calls back."""

    _lock = threading.Lock()

    def __init__(self, log: Log) -> None:
        self._log = log

    def add(self, name: str) -> None:
        with self._lock:
            setattr(self._log, name, getattr(self._log, name) + 1)

    def fault(self, fault: Fault) -> None:
        self.add({"exception": "exceptions", "timeout": "timeouts", "death": "deaths"}[fault.kind])
        kept = fault._replace(args=jax.tree.map(np.array, fault.args), error=_without_traceback(fault.error))
        with self._lock:
            self._log.faults.append(kept)


def _without_traceback(error: BaseException) -> BaseException:
    """Returns a copy: a traceback keeps the whole batch alive. RuntimeError, raised from it, has it still."""
    try:
        return copy.copy(error).with_traceback(None)
    except Exception:  # its class takes other arguments than those that it hands on to Exception
        return RuntimeError(described(error))


def check(task: Task) -> None:
    """Refuses options that do not fit together, as `esjax.host.wrap` promises."""
    for name, function in _functions(task):
        if not callable(function):
            raise ValueError(f"{name}={function!r} is not callable; pass a function")
    if not isinstance(task.executor, Executor | None):
        raise ValueError(
            f"executor={task.executor!r} is no concurrent.futures.Executor; for Dask pass "
            "client.get_executor(pure=False), for Ray esjax.host.RayExecutor()"
        )
    if isinstance(task.retries, bool) or not isinstance(task.retries, int) or task.retries < 0:
        raise ValueError(f"retries={task.retries!r} must be a whole number >= 0")
    if task.timeout is not None:
        check_positive("timeout", task.timeout, "give seconds, or None for no limit")
        if not hasattr(task.executor, "submit_within"):
            raise ValueError(
                f"timeout={task.timeout} needs an executor that can cut off a call, and "
                f"executor={task.executor!r} cannot; use esjax.host.ProcessPool"
            )
    if isinstance(task.executor, ProcessPool | ProcessPoolExecutor):
        _check_pickles(task.fun)


def _functions(task: Task) -> Iterator[tuple[str, Any]]:
    yield "python_fun", task.fun
    if task.on_error is not None:
        yield "on_error", task.on_error


def _check_pickles(fun: Any) -> None:
    try:
        pickle.dumps(fun)
    except Exception as error:  # whatever a __reduce__ raises, beside PicklingError, TypeError and others
        raise ValueError(
            f"python_fun={fun!r} cannot be sent to another process ({error}); define it at the top of a "
            "module, with what it needs as arguments or by functools.partial"
        ) from error
