"""Arrays as labelled images: what cannot have been meant is refused, with the cause and what mends it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from esjax.train.files import NUMBER_CLASSES, Source, Sources

_MAX_LABEL = 2**16 - 1
"""A larger label is a mistake, and would need a network larger than memory."""

_LEAST_WHITE = 17
"""uint8 images that stay below it would be black once divided by 255: their white is 1, 15 or 16."""

_MAX_RATIO = 100
"""Ratio of the sets' largest pixels: beyond it, one set was divided by 255 once more than the other."""


def require_labelled(sources: Sources) -> Sources:
    """Returns the data as images (N, H, W, C) and labels (N,) int32; what every source gives passes here.

    Raises:
        ValueError: an array is something else; the message says which one, and what mends it.
    """
    train_images, test_images = _to_images(sources.train_images), _to_images(sources.test_images)
    train_labels = _to_labels(sources.train_labels, train_images.array)
    test_labels = _to_labels(sources.test_labels, test_images.array)
    train_shape, test_shape = train_images.array.shape[1:], test_images.array.shape[1:]
    if train_shape != test_shape:
        raise ValueError(
            f"{test_images.where}: test images of shape {test_shape}, but training images of "
            f"shape {train_shape}; give both the same height, width and channels"
        )
    _require_range(train_images, test_images)
    _require_range(test_images, train_images)
    _require_classes(train_labels, test_labels)
    return Sources(sources.name, train_images, train_labels, test_images, test_labels)


def scaled(images: NDArray[Any]) -> NDArray[np.float32]:
    """Returns images in [0, 1]: uint8 ones are divided by 255, floats taken as they are."""
    if images.dtype == np.uint8:
        divided: NDArray[np.float32] = np.divide(images, np.float32(255), dtype=np.float32)
        return divided
    return images.astype(np.float32)


def _to_images(source: Source) -> Source:
    """Checks one set and appends the axis of channels where there is none."""
    where, array = source
    _require_shape(where, array.shape)
    images = array if array.ndim == 4 else array[..., None]
    if images.dtype.kind == "f":
        _require_finite(where, images)
    if len(images) > 1 and all(np.array_equal(images[0], image) for image in images[1:]):
        raise ValueError(
            f"{where}: all {len(images):,} images are the same, so nothing can be learned from them; "
            "check what wrote them"
        )
    low, high = images.min().item(), images.max().item()
    if images.dtype.kind != "f" and images.dtype != np.uint8:
        raise ValueError(
            f"{where}: images of type {array.dtype}, from {low} to {high}; "
            f"give uint8, or floats in [0, 1], both sets alike: {_mended(images, low, high)}"
        )
    if images.dtype.kind == "f" and not 0 <= low <= high <= 1:
        raise ValueError(
            f"{where}: values from {low:g} to {high:g}; scale finite values to [0, 1], both sets alike: "
            f"{_mended(images, low, high)}"
        )
    return Source(where, images)


def _require_shape(where: str, shape: tuple[int, ...]) -> None:
    if len(shape) not in (3, 4) or 0 in shape:
        side = round(shape[1] ** 0.5) if len(shape) == 2 else 0
        square = f", images.reshape(-1, {side}, {side})" if side > 1 and side**2 == shape[1] else ""
        raise ValueError(
            f"{where}: images of shape {shape}; "
            f"give (N, height, width) or (N, height, width, channels), none of them 0{square}"
        )
    # Images with more than four channels and so little height are rare; where either end may be the
    # channels, the summary shows which was taken for them.
    if len(shape) == 4 and shape[1] in (1, 3, 4) and shape[3] > 4:
        raise ValueError(
            f"{where}: images of shape {shape}, with the {shape[1]} channels first; give "
            f"images.transpose(0, 2, 3, 1), or, if they have {shape[3]} channels, images.swapaxes(1, 2)"
        )


def _require_finite(where: str, images: NDArray[Any]) -> None:
    """Refuses NaN and infinite pixels, and says how many there are, and in which image first."""
    faulty = (~np.isfinite(images)).sum((1, 2, 3))
    if faulty.any():
        raise ValueError(
            f"{where}: {faulty.sum():,} NaN or infinite pixels in {np.count_nonzero(faulty):,} of "
            f"{len(images):,} images, the first at index {np.flatnonzero(faulty)[0]}; "
            "leave these images out, or fill in the pixels, for instance with np.nan_to_num"
        )


def _mended(images: NDArray[Any], low: float, high: float) -> str:
    """Returns a NumPy expression that turns images from `low` to `high` into ones that are read as meant."""
    if low > -0.1 and high < 1.1 and (low < 0 or high > 1):
        return "np.clip(images, 0, 1)"
    if low < 0:
        return "(images + 1) / 2" if low >= -1 and high <= 1 else f"(images + {-low!r}) / {high - low!r}"
    if high <= 1:
        return "images.astype('float32')"
    if high < _LEAST_WHITE or high > 255:
        return f"images / {high!r}"
    return "images / 255" if images.dtype.kind == "f" else "images.astype('uint8')"


def _require_range(source: Source, other: Source) -> None:
    """Refuses images that would be black beside what they were meant to be, or beside the other set."""
    (where, images), (other_where, others) = source, other
    high, others_high = images.max().item(), others.max().item()
    if images.dtype == np.uint8 and high < _LEAST_WHITE:
        contrast = f", and those of {other_where} up to {others_high}" if others_high >= _LEAST_WHITE else ""
        raise ValueError(
            f"{where}: uint8 images go up to {high}{contrast}; uint8 is divided by 255: "
            f"give floats in [0, 1], such as {_mended(images, 0, max(high, 1))}"
        )
    high, others_high = (scaled(array).max().item() for array in (images, others))
    if others_high > _MAX_RATIO * high:
        raise ValueError(
            f"{where}: images go up to {high:g}, and those of {other_where} up to {others_high:g}; "
            "scale both alike, so that white is 1"
        )


def _to_labels(source: Source, images: NDArray[Any]) -> Source:
    where, array = source
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{where}: labels of type {array.dtype} and shape {array.shape}; "
            f"give integers (N,){_as_integers(array)}"
        )
    if len(array) != len(images):
        is_last = len(array) in images.shape[2:]
        last = ", or move them from the last axis: np.moveaxis(images, -1, 0)" if is_last else ""
        raise ValueError(
            f"{where}: {len(array):,} labels for {len(images):,} images; give one label for each image{last}"
        )
    for index in (int(array.argmin()), int(array.argmax())):
        if not 0 <= array[index] <= _MAX_LABEL:
            raise ValueError(
                f"{where}: label {array[index]} at index {index}; "
                f"number the classes from 0 to at most {_MAX_LABEL}: {NUMBER_CLASSES}"
            )
    return Source(where, array.astype(np.int32))


def _as_integers(array: NDArray[Any]) -> str:
    """Returns a NumPy expression that makes labels of the array, or what is in the way."""
    taken = "labels"
    if array.ndim == 2 and 1 in array.shape:
        axis = 1 if array.shape[1] == 1 else 0
        taken, array = f"labels.squeeze({axis})", array.squeeze(axis)
    if array.ndim == 2:
        return (
            f", one for each image; for one-hot rows or scores of {array.shape[1]} classes: labels.argmax(1)"
        )
    if array.ndim != 1:
        return ", one for each image"
    if array.dtype.kind == "f":
        whole = np.isfinite(array) & (array == np.round(array))
        if not whole.all():
            index = int(whole.argmin())
            return f"; the one at index {index} is {array[index]:g}, which is not a class"
    return f", {taken}" + ("" if array.dtype.kind in "iu" else ".astype(int)")


def _require_classes(train: Source, test: Source) -> None:
    classes = np.union1d(train.array, test.array)
    if len(classes) < 2:
        raise ValueError(f"{train.where}: every label is {classes[0]}; give at least two classes")
    if 2 * len(classes) < classes[-1] + 1:
        raise ValueError(
            f"{train.where}: labels are {len(classes)} numbers from {classes[0]} to {classes[-1]}, and would "
            f"make {classes[-1] + 1} classes, most without an image; number them from 0: {NUMBER_CLASSES}"
        )
