"""The state of training in a folder, by Orbax: complete and as it was written, or not there at all.

Arrays are stored under their paths in the state, without its Python types, so that a checkpoint of
another network is recognised and described in words. Checksums lie beside Orbax's files: it does not notice
all damage, and prints much about what it notices. What was written is read back before an older one goes.
"""

import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from esjax.train.checks import require_at_least

Tree = TypeVar("Tree")

_KEPT = 2
"""Checkpoints kept: should the newest be lost, the one before it is still there."""

_ARRAYS = "arrays"
_CHECKSUMS = "checksums.json"
_PART = ".part"
"""Ends the name of what is being written or removed."""

_PLAIN = re.compile(r"[\w /.,+=@~-]*")
"""Paths that all of Orbax takes literally: parts of it expand wildcards, read URLs, or bar backslashes."""


def save(folder: Path, step: int, state: Any) -> None:
    """Writes `state`, a pytree of arrays, as number `step`; waits until it is on disk.

    It is written under another name, read back, and renamed at the end: if the process is
    killed, the checkpoint before it stays.

    Raises:
        ValueError: `step` is not a whole number >= 0, or not above that of the newest checkpoint.
        OSError: `folder` cannot be written to, or gives back something else; earlier checkpoints stay.
    """
    require_at_least("step", step, 0)
    if step <= max(_steps(folder), default=-1):
        raise ValueError(f"step={step} must be above {max(_steps(folder))}, that of the newest checkpoint")
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"*{_PART}"):  # left by a process that was killed
        shutil.rmtree(left)
    part, arrays = folder / f"{step}{_PART}", _arrays(state)
    _check_space(folder, sum(array.nbytes for array in arrays.values()))
    try:
        part.mkdir()
        with _writing(part), _plain(part) as plain, _checkpointer() as checkpointer:
            checkpointer.save(plain / _ARRAYS, args=ocp.args.StandardSave(arrays))
            (part / _CHECKSUMS).write_text(json.dumps(_checksums(part / _ARRAYS)))
            _check_same_bytes(arrays, checkpointer.restore(plain / _ARRAYS, args=_like_these(arrays)))
        part.rename(folder / str(step))
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for old in sorted(_steps(folder))[:-_KEPT]:
        shutil.rmtree((folder / str(old)).rename(folder / f"{old}{_PART}"))


def _check_space(folder: Path, needed: int) -> None:
    """Raises `OSError` if the disk is full: Orbax would print much before it raised one."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{folder}: {free:,} bytes are free, and a checkpoint takes {needed:,}; make room")


def _checkpointer() -> ocp.Checkpointer:
    return ocp.Checkpointer(ocp.StandardCheckpointHandler())


def _like_these(arrays: dict[str, Any]) -> Any:
    return ocp.args.StandardRestore(arrays)


def _check_same_bytes(saved: dict[str, Any], found: dict[str, Any]) -> None:
    for name, array in saved.items():
        if np.asarray(array).tobytes() != np.asarray(found[name]).tobytes():
            raise OSError(f"what was written as {name} reads back as something else")


@contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """Yields an absolute path to the folder that Orbax takes literally: a link, if its own is not plain."""
    path = path.resolve()
    if _PLAIN.fullmatch(path.relative_to(path.anchor).as_posix()):
        yield path
        return
    with tempfile.TemporaryDirectory() as elsewhere:
        link = Path(elsewhere) / "link"
        link.symlink_to(path, target_is_directory=True)
        yield link


@contextmanager
def _writing(part: Path) -> Iterator[None]:
    """Turns whatever is raised where the folder cannot be written into an `OSError` that names it."""
    try:
        yield
    except Exception as error:
        raise OSError(f"{part}: cannot be written: {_first_line(error)}") from error


def restore(folder: Path, like: Tree) -> Tree | None:
    """Reads the newest checkpoint; returns None if there is none.

    Args:
        folder: where `save` wrote.
        like: a state of the same network and optimiser; only its structure, shapes and dtypes count.

    Raises:
        ValueError: it is that of another network or optimiser, or damaged.
    """
    if not _steps(folder):
        return None
    where, wanted = folder / str(max(_steps(folder))), _arrays(like)
    with _plain(where) as plain, _checkpointer() as checkpointer:
        path = plain / _ARRAYS
        with _sound(where):
            if json.loads((where / _CHECKSUMS).read_bytes()) != _checksums(path):
                raise ValueError("its files do not match their checksums")
            metadata = checkpointer.metadata(path).item_metadata.tree
            found = {name: _form(leaf) for name, leaf in metadata.items()}
        _check_same(where, found, {name: _form(leaf) for name, leaf in wanted.items()})
        with _sound(where):
            arrays = checkpointer.restore(path, args=_like_these(wanted))
    leaves = [_like(leaf, arrays[path]) for path, leaf in _leaves(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


@contextmanager
def _sound(where: Path) -> Iterator[None]:
    """Turns whatever Orbax raises on damaged bytes into a `ValueError`."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{where}: not a sound checkpoint: {_first_line(error)}; remove that folder to go on from "
            "the one before it, if there is one"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _steps(folder: Path) -> list[int]:
    """Returns the numbers of all complete checkpoints."""
    if not folder.is_dir():
        return []
    return [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]


def _checksums(path: Path) -> dict[str, int]:
    """Returns the CRC-32 of each file in a folder."""
    files = [file for file in path.rglob("*") if file.is_file()]
    return {str(file.relative_to(path)): zlib.crc32(file.read_bytes()) for file in files}


def _arrays(tree: Any) -> dict[str, Any]:
    return {path: _data_of(leaf) for path, leaf in _leaves(tree)}


def _form(leaf: Any) -> str:
    """Returns dtype and shape of an array, or of what is known of it."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), jnp.asarray(leaf)) for path, leaf in pairs
    ]


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data_of(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(leaf: Any, data: Any) -> Any:
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else data


def _check_same(where: Path, found: dict[str, str], wanted: dict[str, str]) -> None:
    """Raises `ValueError` for the first array that only one of them has, or has in another form."""
    for name in sorted({*found, *wanted}):
        forms = [a.get(name, "nothing") for a in (found, wanted)]
        if forms[0] != forms[1]:
            raise ValueError(
                f"{where}: a checkpoint of another network or optimiser: it has {forms[0]} as {name}, "
                f"and this one has {forms[1]}; resume with the network and optimiser that it was saved from"
            )
