"""What a person is told of data before training: what a network sees, and what is odd about it."""

import numpy as np
from numpy.typing import NDArray

from esjax.train.data import Dataset, Pixels
from esjax.train.files import NUMBER_CLASSES

_LEAST_WHITE = 0.5
"""If images in [0, 1] stay below it, their white may not be 1."""

_MOST_COUNTS = 20
"""Classes whose numbers of examples a person reads one by one."""


def summary(data: Dataset) -> str:
    """Describes data to a person, before training: what a network sees, and what is odd about it.

    Returns:
        Lines: the shape of both sets, with their least and largest pixel as read and as scaled; how many
        training images are held out, if any; the classes, with their numbers of examples in both sets before
        label noise; and warnings, each with "warning: " in front.
    """
    sets = (
        ("train", data.train_images, data.train_pixels),
        ("test", data.test_images, data.test_pixels),
    )
    train_labels = data.train_labels if data.read_labels is None else data.read_labels
    train, test = (
        np.bincount(labels, minlength=data.num_classes) for labels in (train_labels, data.test_labels)
    )
    of_what = "train/test" if data.read_labels is None else "train/test before label noise"
    warnings = [
        *(warning for name, array, _ in sets for warning in _dark(name, array)),
        *_without_examples(train, test),
    ]
    return "\n".join(
        [
            f"data     {data.name}",
            *(_describe_images(*each) for each in sets),
            *_held_out(data),
            f"classes  {data.num_classes}, examples in {of_what}: {_describe_counts(train, test)}",
            *(f"warning: {warning}" for warning in warnings),
        ]
    )


def _describe_images(name: str, array: NDArray[np.float32], pixels: Pixels | None) -> str:
    count, height, width, channels = array.shape
    line = (
        f"{name:<8} {count:,} images, {height} high, {width} wide, {channels} channel{'s' * (channels > 1)}"
    )
    scaled = f"{array.min():.4g} to {array.max():.4g}"
    if pixels is None:
        return f"{line}; pixels {scaled}"
    read = f"pixels {pixels.low:.4g} to {pixels.high:.4g} as {pixels.dtype}"
    return f"{line}; {read}, " + (f"scaled to {scaled}" if pixels.dtype == "uint8" else "taken as they are")


def _held_out(data: Dataset) -> list[str]:
    if data.held_labels is None:
        return []
    held, rest = len(data.held_labels), len(data.train_labels)
    return [f"held out {held:,} of {held + rest:,} training images, for the choice of the epoch"]


def _describe_counts(train: NDArray[np.intp], test: NDArray[np.intp]) -> str:
    pairs = [f"{label}: {a:,}/{b:,}" for label, (a, b) in enumerate(zip(train, test, strict=True))]
    if len(pairs) <= _MOST_COUNTS:
        return ", ".join(pairs)
    ends = ", ".join((pairs[train.argmin()], pairs[train.argmax()]))
    return f"the fewest and the most for training {ends}"


def _dark(name: str, array: NDArray[np.float32]) -> list[str]:
    """Warns of images whose white may not be 1."""
    high = array.max()
    if high >= _LEAST_WHITE:
        return []
    return [
        f"the largest pixel of the {name} images is {high:.4g} of 1; if it is white, scale both sets by it"
    ]


def _without_examples(train: NDArray[np.intp], test: NDArray[np.intp]) -> list[str]:
    """Warns of classes that have no example at all, and of those in the test set only."""
    absent = np.flatnonzero((train == 0) & (test == 0)).tolist()
    only_tested = np.flatnonzero((train == 0) & (test > 0)).tolist()
    warnings = []
    if absent:
        mended = "labels - 1" if absent == [0] else NUMBER_CLASSES
        warnings.append(
            f"no image of class {_listed(absent)}, which still has a logit; {mended} counts from 0"
        )
    if only_tested:
        warnings.append(
            f"no training image of class {_listed(only_tested)}, which therefore cannot be learned"
        )
    return warnings


def _listed(labels: list[int]) -> str:
    rest = len(labels) - _MOST_COUNTS
    return ", ".join(map(str, labels[:_MOST_COUNTS])) + (f" and {rest:,} more" if rest > 0 else "")
