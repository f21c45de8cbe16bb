"""A record, in a run's folder, of what it trains and tests on: other data are recognised before any work."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esjax.train.data import Dataset

FILE = "data.json"

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels", "held_images", "held_labels")


def write(path: Path, data: Dataset) -> None:
    """Writes shapes and checksums of the data into the folder `path`, unless they are there already."""
    file = path / FILE
    if not file.exists():
        part = path / (FILE + ".part")
        part.write_text(json.dumps(_of(data), indent=2) + "\n", "utf-8")
        part.replace(file)


def check(path: Path, data: Dataset) -> None:
    """Raises `ValueError` if the folder `path` holds a record, and that of other data."""
    file = path / FILE
    if not file.exists():
        return
    try:
        known = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not sound JSON: {error}; restore the file, or start a new run") from error
    found = _of(data)
    if not isinstance(known, dict) or set(known) != set(found):
        raise ValueError(f"{file}: holds {known!r:.80}; restore the file, or start a new run")
    for name, value in found.items():
        if known[name] != value:
            raise ValueError(
                f"{path}: the run was begun with other data: {_difference(name, known[name], value)} now in "
                f"{data.name}; restore the data, pass --data where they are, or start a new run"
            )


def _of(data: Dataset) -> dict[str, Any]:
    """Returns the number of classes, then all shapes, then all checksums."""
    arrays = {name: array for name in _ARRAYS if (array := getattr(data, name)) is not None}
    shapes = {f"shape of {name}": list(array.shape) for name, array in arrays.items()}
    checksums = {f"checksum of {name}": _checksum(array) for name, array in arrays.items()}
    return {"num_classes": data.num_classes} | shapes | checksums


def _checksum(array: NDArray[Any]) -> str:
    """Returns the SHA-256 of an array's values in little-endian byte order."""
    return hashlib.sha256(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data).hexdigest()


def _difference(name: str, known: Any, found: Any) -> str:
    what = name.removeprefix("shape of ").removeprefix("checksum of ").replace("_", " ")
    if name.startswith("checksum"):
        return f"the {what} are not the same, though as many,"
    if name.startswith("shape"):
        return f"{what} of shape {tuple(known)}, and {tuple(found)}"
    return f"{known} classes, and {found}"
