"""Evaluating a Python function at many inputs, in NumPy alone: executors and faults."""

import pickle
import sys
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from esjax._core.check import check_positive
from esjax.host._cache import Cache, name_of_args
from esjax.host.executors import CallTimedOut, CannotLoad, ProcessPool, RayExecutor, described
from esjax.host.faults import Counter, Fault, Log, name_of, shown

Leaves = list[NDArray[Any]]


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
    cache: Cache


def evaluate(
    task: Task, log: Log, samples: Sequence[tuple[tuple[int, ...], tuple[Any, ...]]]
) -> list[Leaves]:
    """Returns the leaves of the function's value at each sample.

    Args:
        task: the function and its options.
        log: where calls and faults are counted.
        samples: the index and arguments of each.

    Raises:
        ValueError: a value does not fit the declared result; or the executor is closed.
        RuntimeError: an evaluation failed, as did all retries, and there is no `on_error`; or the executor
            broke.
    """
    counter = Counter(log)
    if not task.cache.size:
        return _evaluate(task, counter, samples)
    names = [name_of_args(args) for _, args in samples]
    found = {name: leaves for name in names if (leaves := task.cache.find(name)) is not None}
    new: dict[Hashable, tuple[tuple[int, ...], tuple[Any, ...]]] = {}
    for name, sample in zip(names, samples, strict=True):
        if name not in found:
            new.setdefault(name, sample)
    counter.add("hits", len(samples) - len(new))
    found |= zip(new, _evaluate(task, counter, list(new.values())), strict=True)
    return [found[name] for name in names]


def _evaluate(
    task: Task, counter: Counter, samples: Sequence[tuple[tuple[int, ...], tuple[Any, ...]]]
) -> list[Leaves]:
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


def _start(task: Task, counter: Counter, args: tuple[Any, ...]) -> Future[Any]:
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
    except Exception:  # not an array: `_checked_leaf` says so
        return leaf


def _finish(
    task: Task, counter: Counter, index: tuple[int, ...], args: tuple[Any, ...], future: Future[Any]
) -> Leaves:
    """Waits for a value; repeats a call whose worker failed, and lets `on_error` answer in the end."""
    for again in range(task.retries + 1):
        if again:
            counter.add("retries")
            future = _start(task, counter, args)
        counter.add("evaluations")
        kind, value = _outcome(task, future)
        if kind is None:
            return _kept(task, args, _checked(task, value, f"the value of {name_of(index)}"))
        counter.fault(Fault(kind, index, args, value))
        if kind == "exception":  # the function would raise it again
            break
    if task.on_error is None:
        raise RuntimeError(
            f"{name_of(index)}: {described(value)}; its input {shown(args)} is kept in "
            "log.faults[-1].args, and on_error may substitute a value"
        ) from value
    counter.add("substituted")
    with task.turn:
        substitute = _copied(task.on_error, value, *args)
    return _checked(task, substitute, f"the value that on_error gave for {name_of(index)}")


def _kept(task: Task, args: tuple[Any, ...], leaves: Leaves) -> Leaves:
    if task.cache.size:
        task.cache.keep(name_of_args(args), leaves)
    return leaves


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
    """Returns what those executors that are loaded raise for a worker that died."""
    names = (
        ("esjax.host.executors", "WorkerDied"),
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
        f"executor={executor!r} is broken: a worker died, and this executor does not replace it; use "
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
            f"{what} has {leaf!r} in it, which NumPy cannot turn into an array ({error}); return NumPy arrays"
        ) from error
    if found.shape != like.shape or not np.can_cast(found.dtype, like.dtype, "same_kind"):
        raise ValueError(
            f"{what} is {found.dtype}{list(found.shape)} instead of {like.dtype}{list(like.shape)}; correct "
            "result, or what the function returns"
        )
    cast = found.astype(like.dtype, copy=False)
    if found.dtype.kind in "iu" and (cast != found).any():
        raise ValueError(
            f"{what} holds {found[cast != found].flat[0]}, beyond {like.dtype}; declare a wider result"
        )
    return cast


def check(task: Task) -> None:
    """Refuses options that do not fit together, as `esjax.host.wrap` promises."""
    for name, function in _functions(task):
        if not callable(function):
            raise ValueError(f"{name}={function!r} is not callable; pass a function")
    if not isinstance(task.executor, Executor | None):
        raise ValueError(
            f"executor={task.executor!r} is not a concurrent.futures.Executor; for Dask pass "
            "client.get_executor(pure=False), for Ray esjax.host.RayExecutor()"
        )
    if isinstance(task.retries, bool) or not isinstance(task.retries, int) or task.retries < 0:
        raise ValueError(f"retries={task.retries!r} must be a whole number >= 0")
    size = task.cache.size
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ValueError(f"cache_size={size!r} must be a whole number >= 0")
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
    except Exception as error:  # PicklingError, TypeError and others, and whatever a __reduce__ raises
        raise ValueError(
            f"python_fun={fun!r} cannot be sent to another process ({error}); define it at the top of a "
            "module, with what it needs as arguments or by functools.partial"
        ) from error
