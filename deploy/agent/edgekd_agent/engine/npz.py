"""Arrays from strangers: an uncompressed npz of known names, no pickles, no size that is not really there."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Mapping
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_DIMENSIONS = 8
_KINDS = "fiu"
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, SyntaxError, EOFError, OSError),
    *(ValueError, TypeError, KeyError, OverflowError, RuntimeError, MemoryError),
)
"""What zipfile and numpy raise on damaged bytes; numpy reads the header of an npy as a Python literal, and one that is
nested too deeply is a MemoryError to Python's parser."""


class NotAnNpz(Exception):
    """Bytes that are no npz of that form."""


def read(stream: IO[bytes], names: Collection[str], most_bytes: int) -> dict[str, NDArray[Any]]:
    """Read exactly the arrays of these names.

    Args:
        stream: The npz; it must be seekable.
        names: Arrays that must be there; no others may be.
        most_bytes: Most bytes of all members together.

    Returns:
        The arrays.

    Raises:
        NotAnNpz: It is something else; the reason is given.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            if sorted(member.filename for member in members) != sorted(f"{name}.npy" for name in names):
                raise NotAnNpz(f"not an npz of {', '.join(sorted(names))}")
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise NotAnNpz("compressed members are not accepted")
            if sum(member.file_size for member in members) > most_bytes:
                raise NotAnNpz(f"longer than {most_bytes} bytes")
            return {member.filename[: -len(".npy")]: _array(archive.read(member)) for member in members}
    except _UNREADABLE as error:
        raise NotAnNpz(f"not an npz: {error}") from error


def written(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return arrays as an npz."""
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]  # numpy's stubs know one keyword more
    return buffer.getvalue()


def from_raw(content: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return raw little-endian numbers as an array; raises `NotAnNpz` when they are not of that shape."""
    if not 0 < len(shape) <= _MAX_DIMENSIONS or any(size < 1 for size in shape):
        raise NotAnNpz(f"shape {shape} is not accepted")
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise NotAnNpz(f"{len(content)} bytes are no {dtype} of shape {shape}")
    return np.frombuffer(content, dtype.newbyteorder("<")).reshape(shape).astype(dtype, copy=False)


def _array(content: bytes) -> NDArray[Any]:
    """Read one npy: the header is compared with the bytes that are there before any memory is taken."""
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise NotAnNpz("only version 1.0 of npy is accepted")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.kind not in _KINDS or dtype.hasobject or len(shape) > _MAX_DIMENSIONS:
        raise NotAnNpz(f"arrays of {dtype} {shape} are not accepted")
    rest = content[stream.tell() :]
    if len(rest) != math.prod(shape) * dtype.itemsize:
        raise NotAnNpz(f"{len(rest)} bytes are no {dtype} of shape {shape}")
    array = np.frombuffer(rest, dtype)
    return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)
