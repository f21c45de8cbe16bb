"""Arrays from IDX and NPZ files that may be damaged.

What a file says about itself is believed only as far as its bytes bear it out: everything is read
in blocks, nothing is unpickled, and whatever is wrong is a `ValueError` that names the file.
"""

import contextlib
import gzip
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

_BLOCK = 2**20
"""Bytes read at once."""

_MAX_DIMS = 32
"""Dimensions that an array of every numpy version can have."""

_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}

NUMBER_CLASSES = "np.unique(np.concatenate([train_labels, test_labels]), return_inverse=True)[1]"
"""An expression that numbers classes from 0 without gaps, the same in both sets."""

_DAMAGE = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, OSError),
    *(RuntimeError, SyntaxError, TypeError, ValueError),
    *(lzma.LZMAError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What gzip, zipfile and numpy raise on damaged bytes."""

_Stream = IO[bytes] | gzip.GzipFile


class Source(NamedTuple):
    """An array and where it came from, for error messages."""

    where: str
    array: NDArray[Any]


class Sources(NamedTuple):
    """The four arrays of a data set, as they were read.

    Attributes:
        name: for people, not a path.
        train_images: pixels of the training set, of any type and shape.
        train_labels: its labels.
        test_images: pixels of the test set.
        test_labels: its labels.
    """

    name: str
    train_images: Source
    train_labels: Source
    test_images: Source
    test_labels: Source


def read_idx(path: str | Path) -> NDArray[Any]:
    """Reads a file in MNIST's format, IDX, gzipped or not, as its bytes tell.

    Two zero bytes, a type code (0x08 uint8, 0x09 int8, 0x0b int16, 0x0c int32, 0x0d float32,
    0x0e float64), the number of dimensions; their sizes as uint32; the values; all big endian.

    Returns:
        Array of the file's type and shape, in native byte order.

    Raises:
        ValueError: the file is damaged, too short, too long, or not an IDX file.
        OSError: it cannot be opened.
    """
    with Path(path).open("rb") as file, _sound(f"{path}", "IDX file", "copy or download it again"):
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not zipped:
            return _read_idx(file)
        with gzip.GzipFile(fileobj=file) as stream:
            return _read_idx(stream)


def _read_idx(stream: _Stream) -> NDArray[Any]:
    magic = _read_header(stream, 4)
    if magic[:2] != b"\0\0":
        raise ValueError(f"it begins with bytes {magic[:2].hex(' ')} instead of 00 00")
    if magic[2] not in _IDX_TYPES:
        known = ", ".join(f"0x{code:02x}" for code in _IDX_TYPES)
        raise ValueError(f"its type code is 0x{magic[2]:02x} instead of one of {known}")
    num_dims = magic[3]
    if not 1 <= num_dims <= _MAX_DIMS:
        raise ValueError(f"it has {num_dims} dimensions instead of 1 to {_MAX_DIMS}")
    shape = struct.unpack(f">{num_dims}I", _read_header(stream, 4 * num_dims))
    return _read_array(stream, shape, np.dtype(_IDX_TYPES[magic[2]]))


def read_npz(path: str | Path, names: Sequence[Sequence[str]]) -> list[Source]:
    """Reads arrays of numbers from a `.npz` file.

    Args:
        path: the file.
        names: for each array, the names it may have; the first that is there is taken.

    Raises:
        ValueError: the file is damaged, or an array is missing or not of numbers.
        OSError: it cannot be opened.
    """
    path = Path(path)
    with _open_npz(path) as archive:
        members = _members(archive)
        return [_read_member(archive, path, _find(members, path, each)) for each in names]


def npz_names(path: str | Path) -> list[str]:
    """Returns the names of the arrays in a `.npz` file; raises `ValueError` as `read_npz` does."""
    with _open_npz(Path(path)) as archive:
        return _members(archive)


@contextlib.contextmanager
def _open_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    with path.open("rb") as file:
        with _sound(f"{path}", ".npz file", "copy it again, or write it with numpy.savez"):
            archive = zipfile.ZipFile(file)
        yield archive


def _members(archive: zipfile.ZipFile) -> list[str]:
    return [member[:-4] for member in archive.namelist() if member.endswith(".npy")]


def _find(members: list[str], path: Path, names: Sequence[str]) -> str:
    for name in names:
        if name in members:
            return name
    raise ValueError(
        f"{path}: no array {' or '.join(names)} among its {len(members)}, {members[:8]}; "
        "write it with numpy.savez under that name"
    )


def _read_member(archive: zipfile.ZipFile, path: Path, name: str) -> Source:
    where = f"{path}: {name}"
    remedy = "copy the file again, or write numeric arrays with numpy.savez"
    with _sound(where, "array", remedy), archive.open(f"{name}.npy") as stream:
        return Source(where, _read_npy(stream))


def _read_npy(stream: _Stream) -> NDArray[Any]:
    # Not np.load: it allocates what the header claims before it knows that the file holds as much.
    version = npy_format.read_magic(stream)
    readers = {
        (1, 0): npy_format.read_array_header_1_0,
        (2, 0): npy_format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"its format has version {version} instead of (1, 0) or (2, 0)")
    try:
        shape, fortran_order, dtype = readers[version](stream)
    except MemoryError as error:  # Python's parser, at about 200 nested brackets
        raise ValueError("its header nests too deeply") from error
    if dtype.kind not in "biuf":
        text = f"; {NUMBER_CLASSES} makes numbers of text" if dtype.kind in "OSU" else ""
        raise ValueError(f"it holds values of type {dtype} instead of numbers{text}")
    if len(shape) > _MAX_DIMS or any(size < 0 for size in shape):
        raise ValueError(f"its header claims shape {shape}, which no array has")
    return _read_array(stream, shape, dtype, "F" if fortran_order else "C")


@contextlib.contextmanager
def _sound(where: str, kind: str, remedy: str) -> Iterator[None]:
    """Turns whatever damaged bytes raise into a `ValueError` of one line."""
    try:
        yield
    except _DAMAGE as error:
        fault = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{where}: not a sound {kind}: {fault}; {remedy}") from error


def _read_header(stream: _Stream, size: int) -> bytes:
    header = stream.read(size)
    if len(header) < size:
        raise ValueError(f"it ends within its header, {size - len(header)} bytes early")
    return header


def _read_array(
    stream: _Stream, shape: tuple[int, ...], dtype: np.dtype[Any], order: Literal["C", "F"] = "C"
) -> NDArray[Any]:
    """Reads the rest of `stream`, one array: memory follows the bytes, not the claim."""
    size = math.prod(shape) * dtype.itemsize
    claim = f"{size:,} bytes of data that its header claims"
    data = bytearray()
    while block := stream.read(min(_BLOCK, size - len(data))):
        data += block
    if len(data) < size:
        raise ValueError(f"it ends after {len(data):,} of the {claim}")
    if stream.read(1):  # reading to the end also makes gzip and zip compare their checksums
        raise ValueError(f"it goes on after the {claim}")
    array: NDArray[Any] = np.ndarray(shape, dtype, buffer=data, order=order)
    return array.astype(dtype.newbyteorder("="), copy=False)
