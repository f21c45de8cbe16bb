"""Readers of files against damage of every kind: only the documented errors, no pickle, bounded memory.

`python tests/test_fuzz.py 10000 [seed]` reads so many damaged files, and prints what became of them.
"""

import collections
import functools
import gzip
import io
import json
import pickle
import resource
import struct
import sys
import tempfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from esjax.train import checkpoint, config, data, folder, summary
from esjax.train.files import read_idx, read_npz
from esjax.train.loop import Epoch

MOST_TRACED = 2**24  # bytes of Python and NumPy for one small file
MOST_RESIDENT = 2**28  # bytes by which the process may grow over thousands of files


# --- damage -------------------------------------------------------------------------------------------


def _one_of(rng, items):
    return items[rng.integers(len(items))]


def _cuts(rng, data):
    return sorted(int(cut) for cut in rng.integers(0, len(data) + 1, 2))


def _flip(rng, data):
    found = np.frombuffer(data, np.uint8).copy()
    if found.size:
        places = rng.integers(0, found.size, rng.integers(1, 9))
        found[places] ^= rng.integers(1, 256, places.size, np.uint8)
    return found.tobytes()


def _truncate(rng, data):
    return data[: rng.integers(0, len(data) + 1)]


def _insert(rng, data):
    place = rng.integers(0, len(data) + 1)
    return data[:place] + rng.bytes(rng.integers(1, 64)) + data[place:]


def _delete(rng, data):
    start, end = _cuts(rng, data)
    return data[:start] + data[end:]


def _swap(rng, data):
    a, b, c = sorted(int(cut) for cut in rng.integers(0, len(data) + 1, 3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _repeat(rng, data):
    start, end = _cuts(rng, data)
    return data[:end] + data[start:]


EXTREMES = [0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


def _extreme(rng, data):
    """Puts an extreme number where a field of the header may be."""
    size = _one_of(rng, [1, 2, 4, 8])
    value = _one_of(rng, [e for e in EXTREMES if e < 2 ** (8 * size)]).to_bytes(size, _one_of(rng, ORDERS))
    place = rng.integers(0, min(len(data), 64) + 1)
    return data[:place] + value + data[place + size :]


ORDERS = ["big", "little"]
BYTES = [_flip, _truncate, _insert, _delete, _swap, _repeat, _extreme]


def _damaged(rng, data):
    for _ in range(rng.integers(1, 4)):
        data = _one_of(rng, BYTES)(rng, data)
    return data


VALUES = [None, True, 0, -1, 2**31, 2**63, 2**200, 1e308, float("nan"), float("inf"), "", "\0", "\ud800"]
VALUES += [
    "a" * 5000,
    [],
    {},
    [[]],
    [None],
    ["a"],
    {"a": 1},
    functools.reduce(lambda a, _: [a], range(300), []),
]


def _damaged_json(rng, data):
    """Puts an extreme value in place of any other, or damages the bytes; or brackets without end."""
    if rng.random() < 0.3:
        return _damaged(rng, data)
    if rng.random() < 0.02:
        return b"[" * 100_000
    values = json.loads(data)
    at = values
    while True:
        name = _one_of(rng, list(at) if isinstance(at, dict) else range(len(at)))
        if isinstance(at[name], dict | list) and at[name] and rng.random() < 0.8:
            at = at[name]
            continue
        change = rng.random()
        if change < 0.8:
            at[name] = _one_of(rng, VALUES)
        elif isinstance(at, dict):
            at["unknown"] = at.pop(name)
        return json.dumps(values).encode()


# --- files and their readers --------------------------------------------------------------------------


def _idx(rng):
    shape = rng.integers(1, 5, rng.integers(1, 4))
    data = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape) + rng.bytes(int(np.prod(shape)))
    if rng.random() < 0.5:
        return _damaged(rng, data)
    packed = gzip.compress(_damaged(rng, data) if rng.random() < 0.5 else data)
    return packed if rng.random() < 0.5 else _damaged(rng, packed)


def _read_idx(path):
    assert read_idx(path).nbytes < MOST_TRACED


HEADERS = [
    "(2, 3)",
    "(99999999999, 3)",
    "(-1,)",
    "()",
    "(2**62,)",
    f"{(1,) * 40}",
    "(" * 90 + ")" * 90,
    "1.5",
]
TYPES = [
    "'<f4'",
    "'|u1'",
    "'|O'",
    "'<U9'",
    "'>i8'",
    "'M8[ns]'",
    "[('a', '<f4')]",
    "'V99999999999'",
    "3",
    "''",
]


def _npy(rng):
    shape, descr = _one_of(rng, HEADERS), _one_of(rng, TYPES)
    header = f"{{'descr': {descr}, 'fortran_order': {rng.random() < 0.5}, 'shape': {shape}, }}\n".encode()
    version = _one_of(rng, [1, 1, 2, 3])
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + pickle.dumps(np.zeros(6, np.float32))


def _npz(rng):
    return _damaged_npz(rng, a=rng.random((2, 3), np.float32), b=np.arange(5))


def _labelled(rng):
    """Images with labels, under names that may be damaged too."""
    names = [f"{name}_{part}" for part in ("train", "test") for name in ("x", "y")]
    if rng.random() < 0.3:
        place = rng.integers(4)
        names[place] = _one_of(rng, ["X_train", "train_images", "y\ntest", "arr_0", "", "\0", "a" * 5000])
    images = [rng.integers(256, size=(6, 2, 3), dtype=np.uint8) for _ in range(2)]
    arrays = [images[0], np.arange(6) % 2, images[1], np.arange(6) % 2]
    place = rng.integers(4)
    arrays[place] = _one_of(rng, ODD)(arrays[place])
    named = dict(zip(names, arrays, strict=True))
    return _damaged_npz(rng, **named) if rng.random() < 0.3 else _bytes_of_npz(**named)


ODD = [np.asarray] * 8 + [
    np.float16,
    np.zeros_like,
    lambda a: a[None],
    lambda a: a[..., None],
    lambda a: a[:0],
    lambda a: a.astype(bool),
    lambda a: a.astype(str),
    lambda a: a.reshape(-1)[0],
    lambda a: np.where(a > 0, np.inf, a),
    lambda a: np.int64(2**62) - a,
]


def _bytes_of_npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _damaged_npz(rng, **arrays):
    with zipfile.ZipFile(io.BytesIO(_bytes_of_npz(**arrays))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if rng.random() < 0.7:
        name = _one_of(rng, list(members))
        members[name] = _npy(rng) if rng.random() < 0.5 else _damaged(rng, members[name])
    again = io.BytesIO()
    with zipfile.ZipFile(again, "w", _one_of(rng, [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, member in members.items():
            archive.writestr(zipfile.ZipInfo(name), member)
    return again.getvalue() if rng.random() < 0.5 else _damaged(rng, again.getvalue())


def _read_npz(path):
    for source in read_npz(path, [["a"], ["b", "c"]]):
        assert source.array.dtype.kind in "biuf" and source.array.nbytes < MOST_TRACED


def _load_npz(path):
    found = data.load(path)
    assert 0 <= found.train_images.min() <= found.train_images.max() <= 1
    assert len(found.train_labels) == len(found.train_images)
    assert summary.summary(found).startswith("data ")


CONFIG = json.dumps(vars(config.TrainConfig(data="/nowhere"))).encode()
LINE = json.dumps(
    Epoch(1, 0.5, 0.5, 0.5, 0.5, 0.4, 1, [0.5, None], 1.0, 2.0, [1.0, None], 0.1)._asdict()
).encode()


def _read_config(path):
    found = folder.read_config(path.parent)
    assert config.TrainConfig(**vars(found)) == found
    try:
        data.load(found.data)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # a name that no file has
        assert isinstance(error, UnicodeEncodeError) or "name too long" in str(error)


def _read_log(path):
    (epoch,) = folder.read_log(path.parent, 1)
    assert len(epoch.lost_classes) >= len(epoch.vanished_classes)
    assert np.isfinite([epoch.loss, epoch.test_accuracy, epoch.signal_to_noise or 0]).all()
    folder.cut_log(path.parent, [epoch])


READERS = {
    "idx": ("images", _idx, _read_idx),
    "npz": ("images.npz", _npz, _read_npz),
    "labelled": ("images.npz", _labelled, _load_npz),
    "config": (folder.CONFIG, functools.partial(_damaged_json, data=CONFIG), _read_config),
    "log": (folder.LOG, functools.partial(_damaged_json, data=LINE), _read_log),
}


# --- reading what is damaged --------------------------------------------------------------------------


class Unpickled(BaseException):
    """Nothing may catch it."""


def _unpickle(*args, **kwargs):
    raise Unpickled


def _outcome(read, where):
    """Returns "read" or the name of the documented error, whose one line says where."""
    try:
        read()
    except ValueError as error:
        assert str(error).startswith(f"{where}"), error
        assert len(str(error).splitlines()) == 1, error
        return type(error).__name__
    return "read"


def read_files(kind, count, seed, path):
    """Reads `count` damaged files; returns how often each outcome was."""
    name, make, read = READERS[kind]
    rng = np.random.default_rng([seed, sorted(READERS).index(kind)])
    outcomes = collections.Counter()
    file = path / name
    tracemalloc.start()
    try:
        for number in range(count):
            file.write_bytes(make(rng))
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                outcomes[_outcome(functools.partial(read, file), file)] += 1
            except BaseException as error:
                error.add_note(f"{kind}, seed {seed}, number {number}")
                raise
            assert tracemalloc.get_traced_memory()[1] - before < MOST_TRACED, (kind, seed, number)
    finally:
        tracemalloc.stop()
    return outcomes


STATE = {"step": jnp.int32(3), "w": jax.random.normal(jax.random.key(1), (64, 64)), "key": jax.random.key(0)}


def read_checkpoints(count, seed, path):
    """Damages one file of a checkpoint, `count` times; returns how often each outcome was."""
    checkpoint.save(path / "checkpoints", 1, STATE)
    files = [file for file in (path / "checkpoints" / "1").rglob("*") if file.is_file()]
    files.sort(key=lambda file: (file.parent, file.stat().st_size))  # some have random names
    rng = np.random.default_rng([seed, 99])
    outcomes = collections.Counter()

    def read():
        found = checkpoint.restore(path / "checkpoints", STATE)
        for name in ("step", "w"):
            np.testing.assert_array_equal(found[name], STATE[name])

    read()
    for number in range(count):
        file = _one_of(rng, files)
        whole = file.read_bytes()
        damage = _damaged_json if whole[:1] == b"{" else _damaged
        file.write_bytes(damage(rng, whole))
        try:
            outcomes[_outcome(read, path / "checkpoints" / "1")] += 1
        except BaseException as error:
            error.add_note(f"checkpoint, seed {seed}, number {number}, {file}")
            raise
        file.write_bytes(whole)
    read()
    return outcomes


def _resident():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.fixture(autouse=True)
def _no_pickle(monkeypatch):
    for name in ("load", "loads", "Unpickler", "_load", "_loads", "_Unpickler"):
        monkeypatch.setattr(pickle, name, _unpickle)


@pytest.mark.parametrize(
    ("kind", "count"), [("idx", 800), ("npz", 500), ("labelled", 500), ("config", 400), ("log", 400)]
)
def test_damaged_files_are_read_or_refused_by_name(tmp_path, kind, count):
    outcomes = read_files(kind, count, 0, tmp_path)
    assert outcomes["read"] > 0 and outcomes["ValueError"] > count / 4


def test_damaged_checkpoints_are_the_state_that_was_saved_or_refused_by_name(tmp_path):
    before = _resident()
    outcomes = read_checkpoints(60, 0, tmp_path)
    assert outcomes["ValueError"] > 10
    assert _resident() - before < MOST_RESIDENT


def test_a_checkpoint_that_claims_terabytes_is_refused_before_any_is_read(tmp_path):
    checkpoint.save(tmp_path, 1, STATE)
    arrays = tmp_path / "1" / "arrays"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{arrays}/"}).result()
    header = json.loads(store.read("w/.zarray").result().value)
    store.write("w/.zarray", json.dumps(header | {"shape": [2**20, 2**20]}).encode()).result()
    (tmp_path / "1" / "checksums.json").write_text(json.dumps(checkpoint._checksums(arrays)))
    before = _resident()
    with pytest.raises(ValueError, match=r"it has float32\[1048576, 1048576\] as w"):
        checkpoint.restore(tmp_path, STATE)
    assert _resident() - before < MOST_RESIDENT


def main(count, seed):
    """Reads `count` damaged files: of ten 3 IDX, 1 NPZ, 2 of images, 1 of options, 1 log, 2 checkpoints."""
    for name in ("load", "loads", "Unpickler"):
        setattr(pickle, name, _unpickle)
    with tempfile.TemporaryDirectory() as temporary:
        tenths_of = {"idx": 3, "npz": 1, "labelled": 2, "config": 1, "log": 1, "checkpoint": 2}
        for kind, tenths in tenths_of.items():
            path, before, start = Path(temporary) / kind, _resident(), time.perf_counter()
            path.mkdir()
            read = read_checkpoints if kind == "checkpoint" else functools.partial(read_files, kind)
            outcomes = read(count * tenths // 10, seed, path)
            seconds, grown = time.perf_counter() - start, (_resident() - before) / 2**20
            print(f"{kind}: {dict(outcomes)}, {seconds:.1f} s, {grown:.0f} MB more", flush=True)
            assert grown < MOST_RESIDENT / 2**20


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
