"""IDX and NPZ readers against bytes written by hand, and against every way to damage them."""

import gzip
import io
import os
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from esjax.train.files import Source, read_idx, read_npz

NAMES = (("first", "x"), ("second", "y"))

IDX_TYPES = [
    (0x08, "B", np.uint8, [0, 1, 127, 128, 255, 7, 8, 9]),
    (0x09, "b", np.int8, [0, 1, 127, -128, -1, 7, 8, 9]),
    (0x0B, "h", np.int16, [0, 1, 2**15 - 1, -(2**15), -2, 256, 8, 9]),
    (0x0C, "i", np.int32, [0, 1, 2**31 - 1, -(2**31), -2, 2**16, 8, 9]),
    (0x0D, "f", np.float32, [0.0, 1.5, -2.25, 2.0**100, 2.0**-100, 3.0, 8.0, 9.0]),
    (0x0E, "d", np.float64, [0.0, 1.5, -2.25, 2.0**1000, 2.0**-1000, 1 / 3, 8.0, 9.0]),
]


def _idx(code, letter, shape, values):
    layout = f">4B{len(shape)}I{len(values)}{letter}"
    return struct.pack(layout, 0, 0, code, len(shape), *shape, *values)


SMALL_IDX = _idx(0x08, "B", (2, 3), [10, 20, 30, 40, 50, 60])


def _npy(header, body, version=1):
    text = header.encode("latin1")
    return b"\x93NUMPY" + struct.pack("<BBH" if version == 1 else "<BBI", version, 0, len(text)) + text + body


def _header(descr="'<f4'", fortran=False, shape=(2,)):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


def _zip(compression=zipfile.ZIP_STORED, **members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data, compression)
    return file.getvalue()


def _complaint(read, path):
    """What `read` says about the file at `path`: one line that names it."""
    with pytest.raises(ValueError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    return message


def _read_idx(path):
    return [Source(f"{path}", read_idx(path))]


def _read_npz(path):
    return read_npz(path, NAMES)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("shape", [(8,), (2, 4), (2, 1, 4), (2, 2, 1, 2)], ids=str)
@pytest.mark.parametrize(("code", "letter", "dtype", "values"), IDX_TYPES)
def test_idx_files_give_the_values_that_struct_wrote(tmp_path, code, letter, dtype, values, shape, pack):
    path = tmp_path / "images"
    path.write_bytes(pack(_idx(code, letter, shape, values)))
    expected = np.array(values, dtype).reshape(shape)
    np.testing.assert_array_equal(read_idx(path), expected, strict=True)
    np.testing.assert_array_equal(read_idx(str(path)), expected, strict=True)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "4 bytes early"),
        (SMALL_IDX[:10], "within its header, 2 bytes early"),
        (SMALL_IDX[:-1], "ends after 5 of the 6 bytes"),
        (SMALL_IDX + b"\0", "goes on after the 6 bytes"),
        (b"\0\1" + SMALL_IDX[2:], "begins with bytes 00 01 instead of 00 00"),
        (b"\1\0" + SMALL_IDX[2:], "begins with bytes 01 00 instead of 00 00"),
        (_idx(0x0A, "B", (2,), [1, 2]), "type code is 0x0a instead of one of 0x08, "),
        (_idx(0x08, "B", (), [1]), "0 dimensions"),
        (_idx(0x08, "B", (1,) * 33, [1]), "33 dimensions"),
    ],
)
def test_what_is_wrong_with_an_idx_file_is_said(tmp_path, data, match, pack):
    path = tmp_path / "images"
    path.write_bytes(pack(data))
    assert match in _complaint(read_idx, path)


@pytest.mark.parametrize("position", [-8, -5, -4, -1], ids="byte{}".format)
def test_a_corrupted_gzip_checksum_or_length_is_refused(tmp_path, position):
    path, data = tmp_path / "images.gz", bytearray(gzip.compress(SMALL_IDX))
    data[position] ^= 1
    path.write_bytes(data)
    assert "not a sound IDX file" in _complaint(read_idx, path)


SMALL_NPY = _npy(_header("'|u1'", False, (2, 3)), bytes([10, 20, 30, 40, 50, 60]))
WHOLE_FILES = {
    "idx": (_read_idx, SMALL_IDX),
    "gzipped idx": (_read_idx, gzip.compress(SMALL_IDX, mtime=0)),
    "stored npz": (_read_npz, _zip(zipfile.ZIP_STORED, first=SMALL_NPY, second=SMALL_NPY)),
    "deflated npz": (_read_npz, _zip(zipfile.ZIP_DEFLATED, first=SMALL_NPY, second=SMALL_NPY)),
}


@pytest.mark.parametrize("kind", WHOLE_FILES)
def test_every_file_cut_short_is_refused(tmp_path, kind):
    path, (read, whole) = tmp_path / "data", WHOLE_FILES[kind]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert "not a sound" in _complaint(read, path)


@pytest.mark.parametrize("kind", ["gzipped idx", "stored npz", "deflated npz"])
def test_a_damaged_byte_is_found_out_or_does_no_harm(tmp_path, kind):
    path, found_out, (read, whole) = tmp_path / "data", 0, WHOLE_FILES[kind]
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            sources = read(path)
        except ValueError as error:
            found_out += 1
            assert str(error).startswith(f"{path}: ") and len(str(error).splitlines()) == 1
        else:
            for _, array in sources:
                np.testing.assert_array_equal(array, np.uint8([[10, 20, 30], [40, 50, 60]]), strict=True)
    assert found_out > len(whole) / 2


HUGE_IDX = _idx(0x08, "B", (2**20, 2**20), [1] * 9)  # claims 2**40 bytes
HUGE_NPY = _npy(_header("'|u1'", False, (2**40,)), b"123456789")


@pytest.mark.parametrize(
    ("read", "data", "match"),
    [
        (read_idx, HUGE_IDX, "ends after 9 of the 1,099,511,627,776 bytes"),
        (read_idx, gzip.compress(HUGE_IDX), "ends after 9 of the 1,099,511,627,776 bytes"),
        (_read_npz, _zip(first=HUGE_NPY), "ends after 9 of the 1,099,511,627,776 bytes"),
        (read_idx, gzip.compress(SMALL_IDX + bytes(2**24), 1), "goes on after the 6 bytes"),
        (_read_npz, _zip(zipfile.ZIP_DEFLATED, first=SMALL_NPY + bytes(2**24)), "goes on after the 6 bytes"),
    ],
    ids=["huge idx", "huge gzipped idx", "huge npz", "long gzipped idx", "long npz"],
)
def test_a_lie_about_the_size_costs_neither_memory_nor_time(tmp_path, read, data, match):
    path = tmp_path / "data"
    path.write_bytes(data)
    start = time.perf_counter()
    tracemalloc.start()
    try:
        assert match in _complaint(read, path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**23  # bytes
    assert time.perf_counter() - start < 5  # seconds


@pytest.mark.parametrize("dtype", ["u1", "?", "<i8", ">i8", "<f2", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize(("write", "order"), [(np.savez, "C"), (np.savez, "F"), (np.savez_compressed, "F")])
def test_npz_files_give_what_numpy_saved_under_either_name(tmp_path, write, order, dtype):
    path = tmp_path / "data.npz"
    cube = np.asarray(np.arange(24).reshape(2, 3, 4) % 5, dtype, order=order)
    write(path, unused=np.zeros(3), y=cube[0, 0], first=cube, x=np.zeros(1))
    first, second = _read_npz(path)
    np.testing.assert_array_equal(first.array, cube.astype(cube.dtype.newbyteorder("=")), strict=True)
    np.testing.assert_array_equal(second.array, cube[0, 0].astype(first.array.dtype), strict=True)
    assert (first.where, second.where) == (f"{path}: first", f"{path}: y")


@pytest.mark.parametrize("version", [1, 2])
def test_fortran_order_written_by_hand_is_read_column_by_column(tmp_path, version):
    path = tmp_path / "data.npz"
    member = _npy(_header("'>i2'", True, (2, 3)), struct.pack(">6h", 11, 21, 12, 22, 13, 23), version)
    path.write_bytes(_zip(first=member, second=member))
    np.testing.assert_array_equal(
        _read_npz(path)[0].array, np.int16([[11, 12, 13], [21, 22, 23]]), strict=True
    )


class _Payload:
    """An object that makes a folder as soon as it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_object_arrays_are_refused_and_nothing_is_unpickled(tmp_path):
    path, trace = tmp_path / "data.npz", tmp_path / "unpickled"
    np.savez(path, first=np.array([_Payload(f"{trace}"), None], object), second=np.zeros(2))
    assert "first: not a sound array: it holds values of type object" in _complaint(_read_npz, path)
    assert not trace.exists()
    with np.load(path, allow_pickle=True) as archive:
        archive["first"]
    assert trace.exists()  # so the payload was live


def test_a_missing_array_is_named_with_what_is_there(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, first=np.zeros(1), third=np.zeros(1))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("second.txt", "not an array")
    assert "no array second or y among its 2, ['first', 'third']" in _complaint(_read_npz, path)


@pytest.mark.parametrize(
    ("member", "match"),
    [
        (_npy(_header(shape=(3,)), bytes(8)), "ends after 8 of the 12 bytes"),
        (_npy(_header(shape=(1,)), bytes(8)), "goes on after the 4 bytes"),
        (_npy(_header(shape=(-1, -2)), bytes(8)), "claims shape (-1, -2)"),
        (_npy(_header(shape=(1,) * 33), bytes(4)), "which no array has"),
        (_npy(_header(shape=(2**62, 2**62)), bytes(8)), "ends after 8 of the 85,070,591,730,234,615,8"),
        (_npy(_header("'<U2'"), bytes(16)), "values of type <U2"),
        (_npy(_header().ljust(20_000), bytes(8)), "not a sound array"),  # numpy's error has two lines
        (_npy("-" * 9000 + "1\n", b""), "not a sound array"),  # too deep for Python's parser
        (_npy(_header(), bytes(8), version=3), "version (3, 0)"),
        (b"\x93NUMPY", "not a sound array"),
    ],
)
def test_a_member_that_lies_about_itself_is_refused(tmp_path, member, match):
    path = tmp_path / "data.npz"
    path.write_bytes(_zip(first=SMALL_NPY, second=member))
    message = _complaint(_read_npz, path)
    assert message.startswith(f"{path}: second: ")
    assert match in message
