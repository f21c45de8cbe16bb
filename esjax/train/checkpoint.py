"""The state of training in a folder, by Orbax: complete or not there at all.

Arrays are stored under their paths in the state, without its Python types, so that a checkpoint of
another network is recognised and said in words.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

Tree = TypeVar("Tree")

_KEPT = 2
"""Checkpoints: should the newest be lost, the one before it is still there."""


def save(folder: Path, step: int, state: Any) -> None:
    """Writes `state`, a pytree of arrays, as number `step`; waits until it is on disk.

    Orbax writes under another name and renames at the end: a killed process leaves the checkpoint
    before it.

    Raises:
        OSError: `folder` cannot be written to.
    """
    arrays = {path: _data_of(leaf) for path, leaf in _leaves(state)}
    with _manager(folder) as manager:
        manager.save(step, args=ocp.args.StandardSave(arrays))


def restore(folder: Path, like: Tree) -> Tree | None:
    """Reads the newest checkpoint; None where there is none.

    Args:
        folder: where `save` wrote.
        like: a state of the same network and optimiser; only its structure, shapes and dtypes count.

    Raises:
        ValueError: it is that of another network or optimiser, or damaged.
    """
    if not folder.is_dir():
        return None
    with _manager(folder) as manager:
        step = manager.latest_step()
        if step is None:
            return None
        try:
            arrays = manager.restore(step, args=ocp.args.StandardRestore())
        except Exception as error:  # whatever tensorstore and Orbax raise on damaged bytes
            raise ValueError(
                f"{folder / str(step)}: not a sound checkpoint: {str(error).splitlines()[0]}; "
                "remove that folder to go on from the one before it, if there is one"
            ) from error
    _check_same(folder / str(step), arrays, {path: _data_of(leaf) for path, leaf in _leaves(like)})
    leaves = [_like(leaf, arrays[path]) for path, leaf in _leaves(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


@contextmanager
def _manager(folder: Path) -> Iterator[ocp.CheckpointManager]:
    options = ocp.CheckpointManagerOptions(max_to_keep=_KEPT, enable_async_checkpointing=False)
    manager = ocp.CheckpointManager(folder.resolve(), options=options)
    try:
        yield manager
    finally:
        manager.close()


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


def _check_same(where: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises `ValueError` for the first array that one has and the other has not, or has in another form."""
    for name in sorted({*found, *wanted}):
        forms = [f"{a[name].dtype}{list(a[name].shape)}" if name in a else "nothing" for a in (found, wanted)]
        if forms[0] != forms[1]:
            raise ValueError(
                f"{where}: a checkpoint of another network or optimiser: it has {forms[0]} as {name}, "
                f"and this one has {forms[1]}; resume with the network and optimiser that it was saved from"
            )
