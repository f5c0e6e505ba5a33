"""Pictures inside of shards, each read by its place."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.core.errors import DataError
from edgekd.data.contents import MAX_PICTURE_BYTES, too_large
from edgekd.data.inputs import Rows
from edgekd.data.shards.index import ShardIndex

_MOST_OPEN = 64


class OpenFiles:
    """Descriptors of the files read last, a bounded number, closed when it is collected.

    A process that is forked may go on with them: reads say where, and none moves a position that others share.
    """

    def __init__(self, most: int = _MOST_OPEN) -> None:
        self._most = most
        self._open: OrderedDict[Path, int] = OrderedDict()

    def __call__(self, path: Path) -> int:
        """Return a descriptor for reading a file; raises `OSError`."""
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        while len(self._open) >= self._most:
            os.close(self._open.popitem(last=False)[1])
        self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self._open[path]

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenFiles, (self._most,)

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


class ShardContents:
    """The pictures of some shards, in the order of the shards.

    Args:
        names: What messages and digests call each shard.
        paths: Where each lies.
        indexes: What each holds.
    """

    def __init__(self, names: Sequence[str], paths: Sequence[Path], indexes: Sequence[ShardIndex]) -> None:
        self._names = tuple(names)
        self._paths = tuple(paths)
        self.shard = np.repeat(np.arange(len(indexes), dtype=np.int64), [len(index) for index in indexes])
        self._keys = [key + suffix for one in indexes for key, suffix in zip(one.keys, one.suffixes, strict=True)]
        self._offsets = np.array([offset for index in indexes for offset in index.offsets], np.int64)
        self._sizes = np.array([size for index in indexes for size in index.sizes], np.int64)
        self._files = OpenFiles()

    def __len__(self) -> int:
        return len(self._keys)

    def name(self, row: int) -> str:
        """Return shard, key and suffix of a picture."""
        return f"{self._names[self.shard[row]]}: {self._keys[row]}"

    def sizes(self, rows: Rows) -> Rows:
        """Return the pictures' sizes in bytes, int64 `[n]`."""
        return self._sizes[rows]

    def read(self, row: int) -> bytes:
        """Return a picture's bytes; see `Contents.read` for the errors."""
        path, size = self._paths[self.shard[row]], int(self._sizes[row])
        if size > MAX_PICTURE_BYTES:
            raise too_large(self.name(row), size)
        try:
            content = os.pread(self._files(path), size, int(self._offsets[row]))
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        if len(content) != size:
            raise DataError(f"{path}: is shorter than it was when the run began; leave shards as they are")
        return content
