"""Data that are written otherwise than they are read: each refusal's own remedy is run, and mends them."""

import hashlib
import re
import struct

import numpy as np
import pytest

from esjax.train import data, summary

NAMES = ("x_train", "y_train", "x_test", "y_test")
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(256, size=(36, 8, 8), dtype=np.uint8)
PIXELS[[0, 30], 0, :2] = 0, 255  # in both sets
LABELS = np.arange(36) % 3
TRAIN, TEST = slice(30), slice(30, 36)


def _write(path, images=PIXELS, labels=LABELS, **changes):
    """Writes images and labels, 30 for training and 6 for testing, and what is changed."""
    arrays = dict(zip(NAMES, (images[TRAIN], labels[TRAIN], images[TEST], labels[TEST]), strict=True))
    np.savez(path, **(arrays | changes))
    return path


@pytest.fixture
def npz(tmp_path):
    return tmp_path / "a.npz"


def _complaint(path, error=ValueError):
    with pytest.raises(error) as caught:
        data.load(path)
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def _warnings(found):
    lines = summary.summary(found).splitlines()
    return [line for line in lines if line.startswith("warning: ")]


# --- arrays, and the expression that mends them -------------------------------------------------------


WHOLE = PIXELS / np.float32(255)
TWO = (PIXELS > 99).astype(np.uint8)
COLOURS = np.stack([PIXELS, PIXELS // 2, PIXELS // 3], -1)
NUMBERED = "np.unique(np.concatenate([train_labels, test_labels]), return_inverse=True)[1]"

IMAGES = {
    "channel first": (PIXELS[:, None], "images.transpose(0, 2, 3, 1)", WHOLE),
    "colours first": (COLOURS.transpose(0, 3, 1, 2), "images.transpose(0, 2, 3, 1)", COLOURS / 255),
    "channels after all": (COLOURS.transpose(0, 3, 1, 2), "images.swapaxes(1, 2)", None),
    "flat": (PIXELS.reshape(36, 64), "images.reshape(-1, 8, 8)", WHOLE),
    "int64": (PIXELS.astype(int), "images.astype('uint8')", WHOLE),
    "int64 of 0 and 1": (TWO.astype(int), "images.astype('float32')", TWO),
    "bool": (TWO.astype(bool), "images.astype('float32')", TWO),
    "uint8 of 0 and 1": (TWO, "images.astype('float32')", TWO),
    "uint8 to 16": (np.minimum(PIXELS, 16), "images / 16", np.minimum(PIXELS, 16) / 16),
    "uint16": (PIXELS * np.uint16(257), "images / 65535", WHOLE),
    "floats to 255": (PIXELS.astype(float), "images / 255", WHOLE),
    "floats to 16": (np.minimum(PIXELS, 16.0), "images / 16.0", np.minimum(PIXELS, 16) / 16),
    "floats from -1": (2 * WHOLE - 1, "(images + 1) / 2", WHOLE),
    "standardised": (3.3 * WHOLE - 1.7, None, WHOLE),
    "hardly beyond 1": (WHOLE * np.float32(1.001), "np.clip(images, 0, 1)", WHOLE),
}

LABELLED = {
    "(N, 1)": (LABELS[:, None], "labels.squeeze(1)"),
    "(N, 1), floats": (LABELS[:, None].astype(float), "labels.squeeze(1).astype(int)"),
    "one-hot": (np.eye(3)[LABELS], "labels.argmax(1)"),
    "probabilities": (np.eye(3)[LABELS] * 0.7 + 0.1, "labels.argmax(1)"),
    "floats": (LABELS.astype(np.float32), "labels.astype(int)"),
    "bool": (LABELS > 0, "labels.astype(int)"),
    "text": (np.array(["ape", "bee", "cow"])[LABELS], NUMBERED),
    "bytes": (np.array([b"ape", b"bee", b"cow"])[LABELS], NUMBERED),
    "hundreds": (np.array([0, 100, 900])[LABELS], NUMBERED),
    "large": (np.array([70_000, 70_001, 70_003])[LABELS], NUMBERED),
    "negative": (LABELS - 1, NUMBERED),
}


def _expression(message, expected):
    """Returns what the message says to do, in NumPy."""
    if expected is None:
        return re.search(r"both sets alike: (.*)", message)[1]
    assert expected in message
    return expected


@pytest.mark.parametrize("name", IMAGES)
def test_images_of_another_kind_are_refused_with_what_mends_them(npz, name):
    images, expected, sound = IMAGES[name]
    expression = _expression(_complaint(_write(npz, images)), expected)
    mended = eval(expression, {"np": np, "images": images})
    found = data.load(_write(npz, mended))
    if sound is not None:
        sound = np.reshape(sound, (36, 8, 8, -1))
        np.testing.assert_allclose(found.train_images, sound[TRAIN], rtol=2e-3, atol=1e-6)
        np.testing.assert_allclose(found.test_images, sound[TEST], rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("name", LABELLED)
def test_labels_of_another_kind_are_refused_with_what_mends_them(npz, name):
    labels, expected = LABELLED[name]
    message = _complaint(_write(npz, labels=labels))
    assert "y_train: " in message
    both = {"labels": labels, "train_labels": labels[TRAIN], "test_labels": labels[TEST]}
    mended = eval(_expression(message, expected), {"np": np, **both})
    found = data.load(_write(npz, labels=mended))
    sound = LABELS > 0 if labels.dtype == bool else LABELS
    np.testing.assert_array_equal(found.train_labels, sound[TRAIN])
    np.testing.assert_array_equal(found.test_labels, sound[TEST])


@pytest.mark.parametrize("axes", [(1, 2, 0), (1, 2, 3, 0)], ids=len)
def test_examples_along_the_last_axis_are_recognised_by_the_labels(npz, axes):
    images = (PIXELS if len(axes) == 3 else COLOURS).transpose(axes)
    half = {"labels": LABELS[:18], "x_train": images[..., :18], "x_test": images[..., 18:]}
    message = _complaint(_write(npz, **half, y_train=LABELS[:18], y_test=LABELS[18:]))
    mended = eval("np.moveaxis(images, -1, 0)", {"np": np, "images": images})
    assert "18 labels for 8 images" in message and "np.moveaxis(images, -1, 0)" in message
    assert data.load(_write(npz, mended)).train_images.shape[:3] == (30, 8, 8)


@pytest.mark.parametrize("shape", [(3, 3, 3), (4, 4, 2), (3, 8, 4), (32, 32, 3), (8, 12, 6)], ids=str)
def test_what_may_be_channels_last_is_taken_so_and_shown(npz, shape):
    images = RNG.integers(256, size=(36, *shape), dtype=np.uint8)
    found = data.load(_write(npz, images))
    assert found.train_images.shape == (30, *shape)
    assert f"{shape[0]} high, {shape[1]} wide, {shape[2]} channels" in summary.summary(found)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"x_test": TWO[TEST]}, r"x_test: uint8 images go up to 1, and those of .*x_train up to 255"),
        ({"x_train": TWO[TRAIN]}, r"x_train: uint8 images go up to 1, and those of .*x_test up to 255"),
        (
            {"x_test": WHOLE[TEST] / 255},
            r"x_test: images go up to 0\.0039\d+, and .*x_train up to 1;",
        ),
        (
            {"x_train": WHOLE[TRAIN] / 255},
            r"x_train: images go up to 0\.0039\d+, and .*x_test up to 1;",
        ),
        ({"x_train": np.zeros_like(PIXELS[TRAIN])}, "x_train: all 30 images are the same"),
        ({"x_test": np.repeat(PIXELS[:1], 6, 0)}, "x_test: all 6 images are the same"),
        ({"y_train": LABELS[TRAIN] + 0.5}, r"y_train: labels .*; the one at index 0 is 0\.5, .* not a class"),
        ({"y_train": np.full(30, np.nan)}, r"y_train: labels .*; the one at index 0 is nan, .* not a class"),
        (
            {"y_train": np.zeros((30, 3), int)},
            r"y_train: labels .* one for each image; for one-hot rows",
        ),
    ],
)
def test_what_no_expression_mends_says_what_is_wrong(npz, changes, match):
    assert re.search(match, _complaint(_write(npz, **changes)))


def test_nan_pixels_are_counted_and_the_first_of_their_images_is_named(npz):
    images = WHOLE.copy()
    images[[7, 7, 20], [1, 2, 3], 4] = np.nan, np.inf, -np.inf
    message = _complaint(_write(npz, images))
    assert "x_train: 3 NaN or infinite pixels in 2 of 30 images, the first at index 7; " in message
    with np.errstate(invalid="raise"):
        data.load(_write(npz, np.delete(images, [7, 20], 0), labels=np.delete(LABELS, [7, 20])))


# --- names and folders --------------------------------------------------------------------------------


LONG = ("train_images", "train_labels", "test_images", "test_labels")


@pytest.mark.parametrize(
    "names",
    [
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("trainImages", "trainLabels", "testImages", "testLabels"),
        ("images_training", "targets_training", "images_val", "targets_val"),
        ("x_trian", "y_train", "x_test", "y_test"),
        ("x_train", "y_train", "x_test", "y-test"),
    ],
)
def test_the_nearest_names_are_named_and_would_do(npz, names):
    arrays = (PIXELS[TRAIN], LABELS[TRAIN], PIXELS[TEST], LABELS[TEST])
    np.savez(npz, **dict(zip(names, arrays, strict=True)), unrelated=np.zeros(3))
    pairs = re.findall(r"'([^']*)' as (\w+)", _complaint(npz))
    assert pairs == [pair for pair in zip(names, NAMES, strict=True) if pair[0] != pair[1]]


@pytest.mark.parametrize("names", [("images", "labels"), ("arr_0", "arr_1", "arr_2", "arr_3")], ids=len)
def test_names_that_say_nothing_are_answered_with_those_to_write(npz, names):
    np.savez(npz, **dict.fromkeys(names, np.zeros(3)))
    message = _complaint(npz)
    assert f"no array {', '.join(NAMES)} among its {len(names)}, {list(names)}" in message
    assert "numpy.savez('data.npz', x_train=..., y_train=..., x_test=..., y_test=...)" in message


@pytest.mark.parametrize("kept", [LONG, LONG[:2], LONG[1:2]], ids=len)
def test_names_of_both_kinds_in_one_file_are_refused_and_named(npz, kept):
    arrays = {name: np.zeros(3) for name in kept}
    _write(npz, **arrays)
    assert f"has {', '.join(kept)} and also {', '.join(NAMES)}; keep" in _complaint(npz)
    np.savez(npz, **arrays, x_test=PIXELS, y_test=LABELS)
    assert f"has {', '.join(kept)} and also x_test, y_test; keep" in _complaint(npz)


IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _write_idx(folder, names=IDX, labels=LABELS):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(names, (PIXELS[TRAIN], labels[TRAIN], PIXELS[TEST], labels[TEST]), strict=True):
        header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        (folder / name).write_bytes(header + array.astype(np.uint8).tobytes())


def test_files_of_another_prefix_are_named_and_labels_from_1_are_told(tmp_path):
    names = [f"emnist-letters-{name.replace('t10k', 'test')}" for name in IDX]
    _write_idx(tmp_path, names, LABELS + 1)
    for name, mnist in zip(names, IDX, strict=True):
        assert f"has no file {mnist} or {mnist}.gz; it has {name!r}; give" in _complaint(
            tmp_path, FileNotFoundError
        )
        (tmp_path / name).rename(tmp_path / mnist)
    (warning,) = _warnings(data.load(tmp_path))
    assert "no image of class 0, which still has a logit; labels - 1 counts from 0" in warning


@pytest.mark.parametrize("below", ["raw", "MNIST/raw"])
def test_the_folder_of_the_files_is_found_below(tmp_path, below):
    _write_idx(tmp_path / below)
    message = _complaint(tmp_path, FileNotFoundError)
    assert f"they are in {tmp_path / below}: give that folder" in message
    data.load(tmp_path / below)


@pytest.mark.parametrize("name", ["7.png", "train/cats/7.JPEG"])
def test_a_folder_of_pictures_is_told_how_to_make_an_npz(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    message = _complaint(tmp_path, FileNotFoundError)
    assert f"such as {name!r}: make an .npz" in message and "PIL.Image.open(path)" in message


def test_what_is_near_a_source_that_is_none_is_named(tmp_path):
    _write_idx(tmp_path / "Fashion")
    _write(tmp_path / "clothes.npz")
    (tmp_path / "clothes.csv").touch()
    folder = "has no file train-images-idx3-ubyte"
    for source, match in {
        tmp_path: f"{folder} or {folder[12:]}.gz; they are in {tmp_path / 'Fashion'}",
        tmp_path / "fashon": f"did you mean '{tmp_path / 'Fashion'}'?",
        tmp_path / "cloths.npz": f"did you mean '{tmp_path / 'clothes.npz'}'?",
        tmp_path / "clothes.csv": "neither a folder nor a .npz file; make an .npz file of what is in",
        tmp_path / "Fashion" / IDX[0]: f"give the folder of the four IDX files, {tmp_path / 'Fashion'}",
        "MNIST": "did you mean 'mnist-5k'?",
        "digit": "did you mean 'digits'?",
    }.items():
        assert match in _complaint(source, FileNotFoundError)
    for path in (tmp_path / "Fashion").iterdir():
        path.unlink()
    assert "it has 'clothes.npz': give that file" in _complaint(tmp_path, FileNotFoundError)


# --- the summary, and the checksum --------------------------------------------------------------------


def test_the_summary_says_shapes_ranges_and_counts_and_warns_of_nothing(npz):
    images = PIXELS.clip(0, 204)
    images[TEST] = images[TEST].clip(51)
    assert summary.summary(data.load(_write(npz, images))).splitlines() == [
        "data     a",
        "train    30 images, 8 high, 8 wide, 1 channel; pixels 0 to 204 as uint8, scaled to 0 to 0.8",
        "test     6 images, 8 high, 8 wide, 1 channel; pixels 51 to 204 as uint8, scaled to 0.2 to 0.8",
        "classes  3, examples in train/test: 0: 10/2, 1: 10/2, 2: 10/2",
    ]
    assert "pixels 0 to 1 as float32, taken as they are" in summary.summary(data.load(_write(npz, WHOLE)))


@pytest.mark.parametrize(
    ("changes", "warnings"),
    [
        ({"labels": LABELS + 1}, ["no image of class 0, which still has a logit; labels - 1 counts from 0"]),
        ({"labels": LABELS * 3 // 2}, [f"no image of class 2, which still has a logit; {NUMBERED} counts"]),
        (
            {"y_test": np.array([0, 1, 2, 3, 3, 4])},
            ["no training image of class 3, 4, which therefore cannot be learned"],
        ),
        (
            {"images": PIXELS // 3},
            ["the largest pixel of the train images is 0.3", "the largest pixel of the test"],
        ),
        ({"x_test": WHOLE[TEST] / 4}, ["the largest pixel of the test images is 0.25 of 1; if it is white"]),
    ],
)
def test_the_summary_warns_of_what_may_be_misread(npz, changes, warnings):
    found = _warnings(data.load(_write(npz, **changes)))
    assert len(found) == len(warnings)
    for line, warning in zip(found, warnings, strict=True):
        assert line.startswith(f"warning: {warning}")


def test_the_summary_is_of_the_labels_before_label_noise(npz):
    found = data.load(_write(npz, labels=LABELS + 1))
    expected = summary.summary(found).replace("in train/test:", "in train/test before label noise:")
    noisy = data.with_label_noise(found, 1.0, seed=0)
    assert 0 in noisy.train_labels and "no image of class 0" in expected
    assert summary.summary(noisy) == expected
    assert summary.summary(data.with_label_noise(noisy, 0.5, seed=1)) == expected


def test_many_classes_are_summed_up(npz):
    labels = np.r_[np.arange(30), 7, 7, 9, 2, 2, 2]
    lines = summary.summary(data.load(_write(npz, labels=labels, y_train=np.r_[7, 1:30]))).splitlines()
    assert lines[3].endswith(
        "classes  30, examples in train/test: the fewest and the most for training 0: 0/0, 7: 2/2"
    )


def test_checksums_tell_apart_each_array_and_not_how_it_was_written(npz):
    found = data.load(_write(npz))
    parts = [found.train_images, found.train_labels, found.test_images, found.test_labels]
    text = b"".join(f"{part.dtype.str}{part.shape}".encode() + part.tobytes() for part in parts)
    assert data.checksum(found) == hashlib.sha256(text).hexdigest()[:16]
    same = data.load(_write(npz, np.asfortranarray(WHOLE), LABELS.astype(np.uint8)))
    assert data.checksum(same) == data.checksum(found)
    for name, part in zip(LONG, parts, strict=True):
        changed = part.copy()
        changed.flat[5] = 1 - changed.flat[5]
        assert data.checksum(found._replace(**{name: changed})) != data.checksum(found)
    reshaped = found._replace(train_images=found.train_images.reshape(30, 4, 16, 1))
    assert data.checksum(reshaped) != data.checksum(found)
