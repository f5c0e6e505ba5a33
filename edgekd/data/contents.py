"""Encoded pictures by row, wherever they lie: files, members of shards, cells of a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from edgekd.core.errors import CorruptInput, DataError
from edgekd.data.inputs import Rows

MAX_PICTURE_BYTES = 1 << 28
"""Largest encoded picture that is read."""


class Contents(Protocol):
    """Encoded pictures that can be read one by one, in any order and from any process."""

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """Return what a message calls a picture, and what its digest knows it by; no path of this machine."""
        ...

    def sizes(self, rows: Rows) -> Rows:
        """Return the bytes of these pictures, int64 `[n]`, without reading them; an even share where none is known."""
        ...

    def read(self, row: int) -> bytes:
        """Return a picture's bytes.

        Raises:
            CorruptInput: There is no picture, or one too large to read.
            DataError: It cannot be reached.
        """
        ...


class FileContents:
    """Picture files.

    Args:
        root: Folder that names are relative to.
        names: POSIX path of each file below `root`.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self._root = root
        self._names = tuple(names)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, row: int) -> str:
        """Return the path below the root."""
        return self._names[row]

    def sizes(self, rows: Rows) -> Rows:
        """Return the files' sizes in bytes, int64 `[n]`; raises `DataError` where one is gone."""
        return np.array([self._size(int(row)) for row in rows], np.int64)

    def read(self, row: int) -> bytes:
        """Return a file's bytes; see `Contents.read` for the errors."""
        if (size := self._size(row)) > MAX_PICTURE_BYTES:
            raise too_large(self._names[row], size)
        try:
            return (self._root / self._names[row]).read_bytes()
        except OSError as error:
            raise self._unreachable(row, error) from error

    def _size(self, row: int) -> int:
        try:
            return (self._root / self._names[row]).stat().st_size
        except OSError as error:
            raise self._unreachable(row, error) from error

    def _unreachable(self, row: int, error: OSError) -> DataError:
        return DataError(f"{self._root / self._names[row]}: cannot be read: {error.strerror or error}")


def too_large(name: str, size_bytes: int) -> CorruptInput:
    """Build the error for a picture that is not read because of its size."""
    return CorruptInput(name, f"{size_bytes:,} bytes, at most {MAX_PICTURE_BYTES:,} are read")
