"""`wrap`: a Python function as a JAX function, which calls it once for each sample."""

from collections.abc import Callable, Generator
from concurrent.futures import Executor
from types import TracebackType
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import buffer_callback

from esjax._core import trees
from esjax._core.rules import with_rule
from esjax.host import _evaluation
from esjax.host._cache import Cache
from esjax.host._evaluation import Task, Turn
from esjax.host.faults import Log

Array = jax.Array


def wrap(
    python_fun: Callable[..., Any],
    result: Any,
    executor: Executor | None = None,
    *,
    timeout: float | None = None,
    on_error: Callable[..., Any] | None = None,
    retries: int = 0,
    cache_size: int = 0,
) -> "Wrapped":
    """Makes a Python function a JAX function, which works inside `jit`, `vmap`, `scan` and `smooth`.

    It has no gradient of its own: `esjax.smooth` gives it one. Under `vmap`, and so for all samples that
    `smooth` evaluates at once (its `chunk_size`), there is one callback from the device, and `python_fun` is
    called once for each sample, never more, and with `cache_size` less often. In a computation that `jit` by
    itself spreads over several devices, each of them would call it: spread the samples by
    `smooth(..., sharding=...)` instead.

    Args:
        python_fun: `python_fun(*args)`, of pytrees of NumPy arrays (read-only), for one sample. It may keep
            them, and return memory that it fills again at its next call: that is copied at once. It must not
            call JAX, unless an executor runs it in another process.
        result: what it returns: a pytree of arrays or `jax.ShapeDtypeStruct`. Values are cast within their
            kind, such as float64 to float32.
        executor: where the calls are made, all samples at once: a `concurrent.futures.Executor`, such as a
            `ThreadPoolExecutor`, `esjax.host.ProcessPool`, Dask's `client.get_executor(pure=False)` or
            `esjax.host.RayExecutor`; the workers of the last two need esjax. None: one after the other, where
            the device called back, even if several do.
        timeout: seconds after which a call is cut off, and its worker replaced; needs `host.ProcessPool`.
        on_error: `on_error(error, *args)` → a value in place of the one that failed, such as NaN, which
            `smooth(..., discard=jnp.isnan)` leaves out.
        retries: how often to repeat a call whose worker hung or died, ≥ 0. A call that raised an exception of
            `python_fun` itself is not repeated.
        cache_size: how many values to keep, ≥ 0, those asked for last. Where all arguments are the same, bit
            for bit, the value is then the one found before, and `log.hits` counts it: for a solver that is
            asked the same problems in every epoch. 0: none, for a function that is random or has a memory.

    Returns:
        `wrapped(*args)`, args pytrees of arrays. `wrapped.log` counts evaluations and faults, and keeps the
        inputs of the last faults: `python_fun(*wrapped.log.faults[-1].args)` repeats one.

    Raises:
        ValueError: an option is out of range, or does not fit the others; `python_fun` cannot be pickled for
            a process pool. When called: a value does not fit `result`, or the executor is closed.
        RuntimeError: when called: `python_fun` failed, and there is no `on_error`; the text names the sample,
            the exception and the input. (Inside `jit`, JAX turns either into a `jax.errors.JaxRuntimeError`,
            whose third line begins with the text.)

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np, esjax
        >>> def count(x):  # any Python
        ...     return np.float32(sum(value > 0 for value in x))
        >>> block = esjax.host.wrap(count, jax.ShapeDtypeStruct((), jnp.float32))
        >>> smoothed = esjax.smooth(block, sigma=0.5, num_samples=64)
        >>> slope = jax.jit(jax.grad(smoothed, argnums=1))(jax.random.key(0), jnp.zeros(3))
        >>> block.log.evaluations, bool((slope > 0).all())
        (64, True)
    """
    if not jax.tree.leaves(result):
        raise ValueError(f"result={result!r} has no arrays in it; give what python_fun returns")
    trees.check_arrays(
        jax.tree.map(lambda leaf: 0 if isinstance(leaf, jax.ShapeDtypeStruct) else leaf, result),
        "result",
        "give arrays or jax.ShapeDtypeStruct(shape, dtype)",
    )
    shapes = jax.eval_shape(lambda result: result, result)
    task = Task(python_fun, shapes, executor, timeout, on_error, retries, Turn(), Cache(cache_size))
    _evaluation.check(task)
    return Wrapped(task)


class Wrapped:
    """A Python function as a JAX function: `wrapped(*args)`; see `wrap`.

    Attributes:
        log: a `Log` of all calls so far; a new one may be put in its place.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._callbacks: dict[Any, _Callback] = {}
        self.log = Log()

    def __call__(self, *args: Any) -> Any:
        """Returns the function's value, of the structure, shapes and dtypes of `result`."""
        trees.check_arrays(
            args, "args", "pass an index, and let python_fun close over the table that it looks it up in"
        )
        leaves, treedef = jax.tree.flatten(args)
        if any(jnp.issubdtype(jax.typeof(leaf).dtype, jax.dtypes.extended) for leaf in leaves):
            raise ValueError("args has a typed PRNG key in it; pass jax.random.key_data(key)")
        # A concrete array would be evaluated while jit traces, once for all calls: NumPy's become tracers.
        leaves = [leaf if _is_traced(leaf) else jnp.asarray(np.asarray(leaf)) for leaf in leaves]
        how = treedef, tuple(leaf.ndim for leaf in leaves)
        if how not in self._callbacks:
            self._callbacks[how] = _Callback(self, *how)
        if any(map(_is_traced, leaves)):
            values = _call(self._callbacks[how], leaves)
        else:  # nothing to compile; and exceptions keep their type
            found = self._callbacks[how].evaluate((), [np.array(leaf) for leaf in leaves])
            values = [jnp.asarray(leaf[()]) for leaf in found]
        return jax.tree.unflatten(jax.tree.structure(self._task.result), values)


def _is_traced(leaf: Any) -> bool:
    return isinstance(leaf, jax.core.Tracer)


class _Callback:
    """What a device calls with its buffers: one object for each kind of arguments, compiled only once.

    Attributes:
        wrapped: the function.
        treedef: of its arguments.
        ranks: of their leaves, without axes of `vmap`.
    """

    def __init__(self, wrapped: Wrapped, treedef: Any, ranks: tuple[int, ...]) -> None:
        self.wrapped, self.treedef, self.ranks = wrapped, treedef, ranks
        self.on_buffers = self._on_buffers  # bound once: bound again it would not be the same object
        self.on_arrays = self._on_arrays

    def evaluate(self, batch: tuple[int, ...], arrays: list[np.ndarray]) -> _evaluation.Leaves:
        """Returns the values (*batch, ...) at arrays whose axes of `vmap` are 1 where they do not vary."""
        arrays = [
            np.broadcast_to(array, batch + array.shape[array.ndim - rank :])  # read-only, and no copy
            for array, rank in zip(arrays, self.ranks, strict=True)
        ]
        samples = [
            (index, jax.tree.unflatten(self.treedef, [array[index] for array in arrays]))
            for index in np.ndindex(batch)
        ]
        task = self.wrapped._task
        values = _evaluation.evaluate(task, self.wrapped.log, samples)
        likes = jax.tree.leaves(task.result)
        return [
            np.array([value[number] for value in values], like.dtype).reshape(batch + like.shape)
            for number, like in enumerate(likes)
        ]

    def _on_buffers(self, context: Any, out: list[Any], *buffers: Any) -> None:
        """Fills buffers that are the host's own memory: no array of JAX is made, which could deadlock."""
        del context
        out = [np.asarray(buffer) for buffer in out]
        batch = out[0].shape[: out[0].ndim - jax.tree.leaves(self.wrapped._task.result)[0].ndim]
        values = self._answer(batch, [np.asarray(buffer).copy() for buffer in buffers])  # XLA reuses them
        for target, value in zip(out, values, strict=True):
            target[...] = value

    def _on_arrays(self, *arrays: Any) -> _evaluation.Leaves:
        """Returns values, for devices whose memory is not the host's."""
        found = [np.array(array) for array in arrays]
        batch = np.broadcast_shapes(
            *(array.shape[: array.ndim - rank] for array, rank in zip(found, self.ranks, strict=True))
        )
        return self._answer(batch, found)

    def _answer(self, batch: tuple[int, ...], arrays: list[np.ndarray]) -> _evaluation.Leaves:
        try:
            return self.evaluate(batch, arrays)
        except Exception as error:
            _raise_alone(error)


def _raise_alone(error: Exception) -> NoReturn:
    """Raises `error` as if from a frame that nothing called.

    Before an exception's text, XLA puts all calls that lead to the innermost frame of its traceback: dozens
    of lines of JAX and of the user's program, and none of `python_fun`. The frame of a generator that has not
    begun has no caller, so that one line remains.
    """
    generator: Any = _python_fun()
    frame = generator.gi_frame
    raise error.with_traceback(TracebackType(None, frame, frame.f_lasti, frame.f_lineno))


def _python_fun() -> Generator[None]:
    yield


_python_fun.__code__ = _python_fun.__code__.replace(co_filename="esjax.host")  # shorter than a path


def _call(callback: _Callback, leaves: list[Array]) -> list[Array]:
    result = jax.tree.leaves(callback.wrapped._task.result)

    def on_cpu(*leaves: Array) -> Any:
        return buffer_callback(callback.on_buffers, result, vmap_method="expand_dims")(*leaves)

    def elsewhere(*leaves: Array) -> Any:
        return jax.pure_callback(callback.on_arrays, result, *leaves, vmap_method="expand_dims")

    def refuse(leaves: Any, tangents: Any) -> Any:
        raise ValueError(
            f"python_fun={callback.wrapped._task.fun!r} has no gradient; esjax.smooth(wrapped, sigma=..., "
            "num_samples=...) gives it one in x and sigma, and none in args or in what a block closes over: "
            "make x hold all that is differentiated, such as (x, w), or use jax.lax.stop_gradient"
        )

    held = jax.lax.stop_gradient(leaves)
    found = jax.lax.platform_dependent(*held, cpu=on_cpu, default=elsewhere)
    return with_rule(found, refuse, leaves)
