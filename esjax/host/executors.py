"""Executors for `esjax.host.wrap` that `concurrent.futures` lacks: replaceable processes, and Ray.

Worker processes import this file, so it does without JAX until it is asked for a pool.
"""

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from types import TracebackType
from typing import Any


class WorkerDied(RuntimeError):
    """The process that made a call ended before it had a value."""


class CannotLoad(RuntimeError):
    """A worker process cannot start, or cannot import the function that it is to call."""


class CallTimedOut(TimeoutError):
    """A call took longer than allowed, and its process was killed."""


class ProcessPool(Executor):
    """Worker processes that are replaced when they die or hang.

    A `ProcessPoolExecutor` of the standard library breaks for good when a worker dies, and cannot cut off
    a call; here each worker is such an executor of its own, with a single process. As there, a script that
    starts a pool needs `if __name__ == "__main__":`. A worker imports the module of a function before the
    time of its first call begins to count. Ctrl-C, which a terminal sends to workers too, ends the call and
    leaves the worker. Programs that a function starts are not killed with its worker: give them a time limit
    of their own.

    Args:
        num_workers: processes, >= 1. None: as many as there are cores.

    Raises:
        ValueError: `num_workers` is out of range.

    Examples:
        Calls that are cut off after ten seconds:

            with esjax.host.ProcessPool(2) as pool:
                block = esjax.host.wrap(simulate, jax.ShapeDtypeStruct((), jnp.float32), pool, timeout=10.0)
    """

    def __init__(self, num_workers: int | None = None) -> None:
        from esjax._core.check import check_count

        count = check_count("num_workers", os.cpu_count() or 1 if num_workers is None else num_workers)
        self._workers = [_Worker() for _ in range(count)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(count)  # each waits for one worker

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Schedules a call, as `concurrent.futures.Executor` does; its future may raise `WorkerDied`."""
        return self._threads.submit(self._run, None, fn, args, kwargs)

    def submit_within(self, timeout: float, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Schedules a call whose worker is killed, and replaced, if it works longer than `timeout` seconds.

        Its future then raises `CallTimedOut`. The time to start the worker and to import does not count.
        """
        return self._threads.submit(self._run, timeout, fn, args, {})

    def _run(self, timeout: float | None, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        worker = self._idle.get()
        try:
            return worker.run(timeout, fn, args, kwargs)
        finally:
            self._idle.put(worker)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the workers: after the scheduled calls, or at once with `cancel_futures`."""
        self._threads.shutdown(wait=False, cancel_futures=cancel_futures)
        if cancel_futures:
            for worker in self._workers:
                worker.end()
        if wait:
            self._threads.shutdown(wait=True)
            for worker in self._workers:
                worker.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the workers; at once where an error, such as Ctrl-C, leaves the block."""
        self.shutdown(cancel_futures=kind is not None)


class _Worker:
    """A process that makes one call at a time, started at the first call and again after it has died."""

    def __init__(self) -> None:
        self._process: ProcessPoolExecutor | None = None
        self._pid = 0  # 0 while it starts
        self._has_started = False  # ever: a script that cannot start one never does
        self._loaded: Any = None  # the last function that the process has imported
        self._ended = False

    def run(self, timeout: float | None, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            self._start()
            self._load(fn)
            future = self._running().submit(_interruptible, fn, args, kwargs)
        except BrokenExecutor as error:
            raise self._died() from error
        try:
            return future.result(timeout)
        except BrokenExecutor as error:
            raise self._died() from error
        except TimeoutError:
            if future.done():
                return future.result()  # just in time, or a TimeoutError of fn itself
            self._kill()
            self.close()
            raise CallTimedOut(f"the call took longer than {timeout} s; its process was killed") from None

    def _start(self) -> None:
        if self._process is None:
            # A process that is forked from one in which XLA has threads can hang.
            context = multiprocessing.get_context("spawn")
            self._process = ProcessPoolExecutor(1, mp_context=context, initializer=_leave_interrupts)
            try:
                with _interrupts_held():
                    started = self._process.submit(os.getpid)
                self._pid = started.result()
            except BrokenExecutor as error:
                self.close()
                if self._has_started:
                    raise WorkerDied("a process ended while it started in place of another") from error
                raise CannotLoad(
                    "a worker process ended while it started, and says above why; where it ran the script "
                    'again, start ProcessPool under if __name__ == "__main__":'
                ) from error
            self._has_started = True
        if self._ended:
            self._kill()

    def _load(self, fn: Any) -> None:
        """Imports the function's module before a call's time begins to count."""
        if fn is self._loaded:
            return
        try:
            self._running().submit(pickle.loads, pickle.dumps((_call, fn))).result()
        except (ImportError, AttributeError) as error:
            raise CannotLoad(
                f"a worker process cannot load {fn!r} ({error}); define it at the top of a module that it "
                "can import"
            ) from error
        self._loaded = fn

    def _running(self) -> ProcessPoolExecutor:
        if self._process is None:
            raise BrokenExecutor("the pool was shut down")
        return self._process

    def _died(self) -> WorkerDied:
        pid = self._pid
        self.close()
        return WorkerDied(f"process {pid} ended during the call")

    def end(self) -> None:
        """Kills the process, now or as soon as it has started."""
        self._ended = True
        self._kill()

    def _kill(self) -> None:
        if self._pid:
            with contextlib.suppress(ProcessLookupError):  # it is gone already
                os.kill(self._pid, signal.SIGKILL)

    def close(self) -> None:
        process, self._process, self._pid = self._process, None, 0
        self._loaded = None
        if process is not None:
            process.shutdown()


class RayExecutor(Executor):
    """The workers of a Ray cluster (extra `ray`) as a `concurrent.futures.Executor`.

    Args:
        **options: of `ray.remote` for each call, such as `num_cpus=1`.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ValueError: Ray is not started; `ray.init()` starts or joins a cluster.
    """

    def __init__(self, **options: Any) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "esjax.host.RayExecutor needs Ray; run pip install 'esjax[ray]'", name="ray"
            ) from error
        if not ray.is_initialized():
            raise ValueError(
                "Ray is not started; call ray.init() first, with or without the address of a cluster"
            )
        self._remote = ray.remote(_call).options(**({"max_retries": 0} | options))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Schedules a call, as `concurrent.futures.Executor` does."""
        return self._remote.remote(fn, args, kwargs).future()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """A process that is started within the block sees no Ctrl-C until it calls `_leave_interrupts`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # of this thread, and inherited
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_interrupts() -> None:
    """Leaves Ctrl-C, which a terminal sends to workers too, to the process that started this one."""
    signal.signal(signal.SIGINT, _ignore)  # not SIG_IGN, which programs that a function starts would inherit
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _ignore(number: int, frame: object) -> None:
    pass


def _interruptible(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls `fn` in a worker; Ctrl-C ends the call and not the worker, unless `fn` handles it itself."""
    if signal.getsignal(signal.SIGINT) is not _ignore:
        return _call(fn, args, kwargs)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return _call(fn, args, kwargs)
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _ignore)


def _call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls `fn` in a worker; an exception that cannot be unpickled would break the pool: its text is raised.

    Many are like that: their class takes arguments other than the text that it passes on to `Exception`.
    """
    try:
        return fn(*args, **kwargs)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            raise RuntimeError(described(error)) from None
        raise


def described(error: BaseException) -> str:
    """Returns the error's type, text and notes."""
    return "".join(traceback.format_exception_only(error)).strip()
