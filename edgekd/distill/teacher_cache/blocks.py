"""Blocks of rows on disk: one file each, compressed, named by its content, so that writers never meet.

    8 bytes   b"edgekdT1"
    4 bytes   length of the header, little-endian
    header    JSON: what the rows are of (`label`), how many there are and how long each is
    payload   zstd: row numbers int64, then all first bytes of the rows' 16-bit values, then all second bytes

The two bytes of a value are kept apart since the exponents of one channel are alike and the mantissas are not.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.core.atomic import write_bytes
from edgekd.core.errors import ConfigError, StorageError
from edgekd.data.inputs import Rows

_MAGIC = b"edgekdT1"
_NAME_LENGTH = 32
_LONGEST_HEADER = 1 << 16
_LEVEL = 1
SUFFIX = ".zst"

Records = NDArray[np.uint8]
"""Rows as bytes, `[n, row_bytes]`."""


@dataclass(frozen=True)
class Block:
    """Rows of one part of one view.

    Attributes:
        ids: int64 `[n]`, rows of the training split.
        records: uint8 `[n, row_bytes]`.
    """

    ids: Rows
    records: Records


def import_zstandard() -> ModuleType:
    """Return the module; raises `ConfigError` where it is not installed."""
    try:
        import zstandard
    except ImportError as error:
        raise ConfigError("the teacher cache needs zstandard: pip install 'edgekd[cache]'") from error
    return zstandard


def write_block(folder: Path, block: Block, label: str) -> Path:
    """Write a block as a file of its own.

    Args:
        folder: Where it goes; made where it is missing.
        block: The rows.
        label: What they are of; only readers that say the same take them.

    Returns:
        The file, which is named by what it holds.

    Raises:
        StorageError: The file system refused.
    """
    rows, row_bytes = block.records.shape
    header = json.dumps({"label": label, "rows": rows, "row_bytes": row_bytes}).encode()
    payload = import_zstandard().ZstdCompressor(level=_LEVEL).compress(block.ids.tobytes() + _apart(block.records))
    content = b"".join([_MAGIC, len(header).to_bytes(4, "little"), header, payload])
    path = folder / f"{hashlib.sha256(content).hexdigest()[:_NAME_LENGTH]}{SUFFIX}"
    if not path.exists():
        write_bytes(path, content)
    return path


def read_block(path: Path, label: str, *, rows: int, row_bytes: int) -> Block:
    """Read a block through a memory map; its content is checked against its name before anything is made of it.

    Args:
        path: The file.
        label: What its rows must be of.
        rows: Rows of the training split.
        row_bytes: Length of each.

    Raises:
        StorageError: It is damaged, or its rows are of something else.
    """
    try:
        with open(path, "rb") as stream:
            if os.fstat(stream.fileno()).st_size == 0:
                raise StorageError(f"{path} is empty")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _read(content, path, label, rows=rows, row_bytes=row_bytes)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error


def _read(content: mmap.mmap, path: Path, label: str, *, rows: int, row_bytes: int) -> Block:
    if hashlib.sha256(content).hexdigest()[:_NAME_LENGTH] != path.name.removesuffix(SUFFIX):
        raise StorageError(f"{path} is damaged: it is not what its name says")
    header, start = _header(content, path)
    count = header.get("rows")
    if header.get("label") != label or header.get("row_bytes") != row_bytes:
        raise StorageError(
            f"{path} is of {header.get('label')!r}, rows of {header.get('row_bytes')} bytes, not {label}"
        )
    if not isinstance(count, int) or not 0 < count <= rows:
        raise StorageError(f"{path} says it has {count} rows, the split has {rows}")
    with memoryview(content) as whole, whole[start:] as payload:
        raw = _decompressed(payload, path, size=count * (8 + row_bytes))
    ids = np.frombuffer(raw, np.int64, count)
    if ids.min() < 0 or ids.max() >= rows:
        raise StorageError(f"{path} has rows {ids.min()} to {ids.max()}, the split has {rows}")
    return Block(ids, _together(np.frombuffer(raw, np.uint8, offset=8 * count), count))


def _header(content: mmap.mmap, path: Path) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(content[8:12], "little")
    if content[:8] != _MAGIC or length > min(_LONGEST_HEADER, len(content) - 12):
        raise StorageError(f"{path} is no block of a teacher cache")
    try:
        header = json.loads(content[12 : 12 + length])
    except ValueError as error:
        raise StorageError(f"{path} has no readable header: {error}") from error
    if not isinstance(header, dict):
        raise StorageError(f"{path} has no readable header")
    return header, 12 + length


def _decompressed(payload: memoryview, path: Path, *, size: int) -> bytes:
    zstandard = import_zstandard()
    try:
        # The size is what the frame says, and memory is taken for that: it has to be the one expected.
        if zstandard.frame_content_size(payload) != size:
            raise StorageError(f"{path} does not hold the {size} bytes that its rows have")
        raw: bytes = zstandard.ZstdDecompressor().decompress(payload)
    except zstandard.ZstdError as error:
        raise StorageError(f"{path} cannot be decompressed: {error}") from error
    return raw


def _apart(records: Records) -> bytes:
    flat = records.reshape(-1)
    return flat.tobytes() if flat.size % 2 else np.ascontiguousarray(flat.reshape(-1, 2).T).tobytes()


def _together(flat: Records, count: int) -> Records:
    records = np.empty_like(flat)
    if flat.size % 2:
        records[:] = flat
    else:
        # Two strided copies are eight times as fast as one of the transposed array.
        records[0::2], records[1::2] = flat.reshape(2, -1)
    return records.reshape(count, -1)
