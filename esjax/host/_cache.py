"""Values of a Python function that were found before, by the bytes of its arguments."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray


class Cache:
    """The last values that were found or asked for, at most `size`; shared by threads that call back.

    A copy, and one that was sent to another process, starts empty.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._values: OrderedDict[Hashable, list[NDArray[Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return Cache, (self.size,)

    def find(self, name: Hashable) -> list[NDArray[Any]] | None:
        """Returns the leaves of the value of that name, if it is known."""
        with self._lock:
            if name in self._values:
                self._values.move_to_end(name)
            return self._values.get(name)

    def keep(self, name: Hashable, leaves: list[NDArray[Any]]) -> None:
        """Keeps a value, in place of the one that was not asked for for longest."""
        with self._lock:
            self._values[name] = leaves
            if len(self._values) > self.size:
                self._values.popitem(last=False)


def name_of_args(args: tuple[Any, ...]) -> Hashable:
    """Returns what tells arguments apart: the structure, and each array's shape, dtype and bytes."""
    leaves, structure = jax.tree.flatten(args)
    arrays = [np.asarray(leaf) for leaf in leaves]
    return structure, tuple((array.shape, array.dtype.str, array.tobytes()) for array in arrays)
