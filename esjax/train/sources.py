"""Finds the four arrays of a data set, or else says what comes nearest to them."""

import difflib
import itertools
import re
from collections.abc import Iterable
from pathlib import Path

from esjax.train.files import Source, Sources, npz_names, read_idx, read_npz

_IDX_NAMES = ("train-images.idx3", "train-labels.idx1", "t10k-images.idx3", "t10k-labels.idx1")

_LONG = ("train_images", "train_labels", "test_images", "test_labels")
_SHORT = ("x_train", "y_train", "x_test", "y_test")

_MOST_ENTRIES = 10_000
"""Entries of a folder that are searched for what may have been meant."""

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")

_WRITE_NPZ = "numpy.savez('data.npz', x_train=..., y_train=..., x_test=..., y_test=...)"


def read_idx_folder(folder: Path) -> Sources:
    """Reads a folder of MNIST's four IDX files.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: one is damaged.
    """
    paths = [_find_idx(folder, name) for name in _IDX_NAMES]
    return Sources(folder.resolve().name, *(Source(str(path), read_idx(path)) for path in paths))


def read_labelled_npz(path: Path) -> Sources:
    """Reads a `.npz` file with arrays x_train, y_train, x_test, y_test, or train_images, train_labels, ...

    Raises:
        ValueError: the file is damaged, one of the arrays is missing, or names of both kinds are there.
    """
    members = npz_names(path)
    kinds = [[name for name in names if name in members] for names in (_LONG, _SHORT)]
    if all(kinds):
        raise ValueError(
            f"{path}: has {', '.join(kinds[0])} and also {', '.join(kinds[1])}; "
            f"keep those that are meant, all as {', '.join(_SHORT)} or all as {', '.join(_LONG)}"
        )
    names = _LONG if kinds[0] else _SHORT
    if missing := [name for name in names if name not in members]:
        raise ValueError(
            f"{path}: no array {', '.join(missing)} among its {len(members)}, {members[:8]}; "
            f"{_names_that_would_do(missing, members)}"
        )
    return Sources(path.stem, *read_npz(path, [[name] for name in names]))


def nearest(source: str | Path, shipped: Iterable[str]) -> str:
    """Returns a clause that says what an unknown source may have meant; empty if nothing is near."""
    path = Path(source)
    if _is_file(path):
        if "idx" in path.name:
            return f"give the folder of the four IDX files, {path.parent}; "
        return f"make an .npz file of what is in this one, {_WRITE_NPZ}; "
    near = difflib.get_close_matches(str(source).lower(), list(shipped), 1)
    if not near:
        beside = [entry for entry in _entries(path.parent) if entry.is_dir() or entry.suffix == ".npz"]
        near = [str(path.parent / name) for name in _close(path.name, [entry.name for entry in beside])]
    return f"did you mean {near[0]!r}? " if near else ""


def _find_idx(folder: Path, name: str) -> Path:
    if path := _idx_path(folder, name):
        return path
    dashed = name.replace(".", "-") + "-ubyte"
    raise FileNotFoundError(
        f"{folder}: has no file {dashed} or {dashed}.gz; {_folder_that_would_do(folder, name)}"
    )


def _idx_path(folder: Path, name: str) -> Path | None:
    dashed = name.replace(".", "-") + "-ubyte"
    dotted = name + "-ubyte"
    names = (dashed, dotted, dashed + ".gz", dotted + ".gz")
    return next((folder / name for name in names if _is_file(folder / name)), None)


def _folder_that_would_do(folder: Path, name: str) -> str:
    """Says what to do about a folder without the IDX file of that name."""
    entries = _entries(folder)
    alike = [entry.name for entry in entries if "idx" in entry.name and _role(entry.name) == _role(name)]
    if alike:
        return f"it has {alike[0]!r}; give the four files of its kind MNIST's names, in a folder of their own"
    below = [inner for entry in entries for inner in (entry, entry / "raw") if _idx_path(inner, name)]
    if below:
        return f"they are in {below[0]}: give that folder"
    archives = [entry for entry in entries if entry.suffix.lower() == ".npz"]
    if archives:
        return f"it has {archives[0].name!r}: give that file"
    inside = itertools.islice(folder.rglob("*"), _MOST_ENTRIES)
    picture = next((entry for entry in inside if entry.suffix.lower() in _PICTURES), None)
    if picture:
        return (
            f"it holds pictures, such as {str(picture.relative_to(folder))!r}: make an .npz file of them, "
            f"{_WRITE_NPZ}, with images numpy.stack([numpy.asarray(PIL.Image.open(path)) for path in paths])"
        )
    return "give a folder with MNIST's four IDX files"


def _names_that_would_do(missing: list[str], members: list[str]) -> str:
    """Says which arrays may be those that are missing, and how to write them."""
    others = [member for member in members if member not in (*_LONG, *_SHORT)]
    near = {}
    for name in missing:
        alike = [member for member in others if _role(member) == _role(name)]
        unknown = [member for member in others if _role(member) is None]
        if found := (_close(name, alike, 0.0) or _close(name, unknown, 0.8)):
            near[name] = found[0]
    if near:
        pairs = (f"{found!r} as {name}" for name, found in near.items())
        return f"write {', '.join(pairs)} with numpy.savez"
    return f"write them with numpy.savez under these names, {_WRITE_NPZ}"


def _close(name: str, candidates: list[str], least: float = 0.6) -> list[str]:
    """Returns the candidate that is spelt most like the name, ignoring case, or nothing."""
    spelt = {candidate.lower(): candidate for candidate in candidates}
    return [spelt[found] for found in difflib.get_close_matches(name.lower(), list(spelt), 1, least)]


_SET = re.compile(r"(?P<train>train(ing)?)|test(ing)?|t10k|valid(ation)?|val|eval")
_CONTENTS = {
    "images": re.compile(r"image|img|data|features|pixels|input|^x+s?$"),
    "labels": re.compile(r"label|target|class|^y+s?$"),
}


def _role(name: str) -> tuple[str, str] | None:
    """Returns which of the four arrays a name stands for in any spelling, such as X_train or trainImages."""
    name = name.lower()
    if not (found := _SET.search(name)):
        return None
    rest = re.sub("[^a-z]", "", name[: found.start()] + name[found.end() :])
    for contents in ("labels", "images"):
        if _CONTENTS[contents].search(rest):
            return "train" if found["train"] else "test", contents
    return None


def _entries(folder: Path) -> list[Path]:
    """Returns some of what is in a folder, in order; nothing where it cannot be read."""
    try:
        return sorted(itertools.islice(folder.iterdir(), _MOST_ENTRIES))
    except (OSError, ValueError):  # the second, for a name that no file can have
        return []


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
