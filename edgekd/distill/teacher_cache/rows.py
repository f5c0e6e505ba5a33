"""Rows of one part of one view in memory, filled from blocks on disk and by what is computed.

Training reads rows in random order, and a block is compressed as a whole: so every block is decompressed once, when a
view begins, into a table that rows are gathered from. A table that is large for this machine's memory lies in a file
without a name, mapped into memory, which is gone with its process however that ends.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from edgekd.core.errors import StorageError
from edgekd.data.inputs import Rows
from edgekd.distill.teacher_cache.blocks import SUFFIX, Block, Records, read_block, write_block

_BLOCK_BYTES = 8 << 20
_SHARE_OF_MEMORY = 4
_LEFT_OVER_S = 86400.0  # a file that its writer, killed, did not put in place


@dataclass(frozen=True)
class Shelf:
    """Where the blocks of one part of one view lie.

    Attributes:
        folder: Their folder; it need not exist.
        label: What their rows are of.
        rows: Rows of the training split.
        row_bytes: Length of each.
        note: Tells the user something.
        refused: Told why a block could not be written.
    """

    folder: Path
    label: str
    rows: int
    row_bytes: int
    note: Callable[[str], None]
    refused: Callable[[StorageError], None]


class ViewRows:
    """The rows of one part of one view.

    Args:
        shelf: Where they are kept.

    Raises:
        StorageError: There is neither memory nor disk for the table.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._table = _table(shelf)
        self._is_here = np.zeros(shelf.rows, dtype=bool)
        self._read: set[str] = set()
        self._pending: list[Rows] = []
        self._unwritten_bytes = 0

    def has(self, ids: Rows) -> NDArray[np.bool_]:
        """Return which of these rows are here."""
        here: NDArray[np.bool_] = self._is_here[ids]
        return here

    def take(self, ids: Rows) -> Records:
        """Return rows that are here."""
        return self._table.take(ids, axis=0)

    def add(self, ids: Rows, records: Records) -> None:
        """Take up computed rows; they reach the disk when a block is full, or by `flush`."""
        self._place(ids, records)
        self._pending.append(ids)
        self._unwritten_bytes += records.nbytes
        if self._unwritten_bytes >= _BLOCK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the computed rows that are on no disk yet; where that fails they are tried again with the next."""
        self._unwritten_bytes = 0
        if not self._pending:
            return
        ids = np.concatenate(self._pending)
        try:
            path = write_block(self._shelf.folder, Block(ids, self.take(ids)), self._shelf.label)
        except StorageError as error:
            self._shelf.refused(error)
            return
        self._read.add(path.name)
        self._pending = []

    def load(self) -> None:
        """Read the blocks that have not been read; a damaged one is removed, and its rows will be computed again."""
        _remove_leftovers(self._shelf.folder)
        found = sorted(path for path in _files(self._shelf.folder) if path.name not in self._read)
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            for path, block in zip(found, pool.map(self._block, found), strict=True):
                if isinstance(block, StorageError):
                    self._drop(path, block)
                    continue
                self._read.add(path.name)
                is_new = ~self.has(block.ids)
                if is_new.all():
                    self._place(block.ids, block.records)
                else:
                    self._place(block.ids[is_new], block.records[is_new])

    def _block(self, path: Path) -> Block | StorageError:
        try:
            return read_block(path, self._shelf.label, rows=self._shelf.rows, row_bytes=self._shelf.row_bytes)
        except StorageError as error:
            return error

    def _drop(self, path: Path, error: StorageError) -> None:
        self._read.add(path.name)
        with suppress(OSError):
            path.unlink()
        self._shelf.note(f"{error}; the block is left out and its rows are computed again")

    def _place(self, ids: Rows, records: Records) -> None:
        self._table[ids] = records
        self._is_here[ids] = True


def is_small(size_bytes: int) -> bool:
    """Whether so many bytes are at most a quarter of the memory that is free."""
    return bool(size_bytes <= psutil.virtual_memory().available // _SHARE_OF_MEMORY)


def _files(folder: Path) -> list[Path]:
    with suppress(OSError):
        return [path for path in folder.iterdir() if path.name.endswith(SUFFIX) and not path.name.startswith(".")]
    return []


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(".*.part"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _LEFT_OVER_S:
                path.unlink()


def _table(shelf: Shelf) -> Records:
    size, shape = shelf.rows * shelf.row_bytes, (shelf.rows, shelf.row_bytes)
    if is_small(size):
        return np.empty(shape, dtype=np.uint8)
    place = next(one for one in (shelf.folder, *shelf.folder.parents) if one.is_dir())
    try:
        with tempfile.TemporaryFile(dir=place if os.access(place, os.W_OK) else None) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is found now, not when a page is written
            return np.memmap(file, dtype=np.uint8, mode="r+", shape=shape)
    except OSError as error:
        raise StorageError(
            f"a view of teacher outputs takes {size / 1e9:.1f} GB, more than a quarter of the memory that is free, and "
            f"no file for it can be made in {place}: {error.strerror or error}. Keep less (train.cache_top_k), or "
            "set train.teacher_cache=null"
        ) from error
