"""The folder where a host leaves files: whoever may push writes there, so at any moment all of it is a stranger's.

It is opened without following links or waiting for a pipe, its length is bounded, and its bytes are taken over before
they are judged. What is removed is removed by its name alone: the agent never walks into a folder that it finds there.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from edgekd_agent import durable
from edgekd_agent.layout import Layout, checked_digest
from edgekd_agent.reader import open_regular

_PART = ".part"
_METADATA_KEPT = 128
_MOST_ENTRIES = 4096
_ABANDONED_S = 14 * 86400.0
_SECTOR_BYTES = 512


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open what a host left.

    Args:
        path: A file in staging.

    Yields:
        The file; its owner may still write to it, cut it and rename it.

    Raises:
        OSError: It is not there, not readable, not a regular file, or has a second name, by which it may be a file
            of somebody else's.
    """
    with open_regular(path) as stream:
        if os.fstat(stream.fileno()).st_nlink > 1:
            raise OSError(errno.EMLINK, "it is a hard link", str(path))
        yield stream


def allocated_bytes(path: Path) -> int:
    """Return how much of the disk a file takes: a sparse one says that it is longer."""
    try:
        found = path.lstat()
    except OSError:
        return 0
    return min(found.st_size, _SECTOR_BYTES * found.st_blocks) if stat.S_ISREG(found.st_mode) else 0


def is_elsewhere(layout: Layout) -> bool:
    """Say whether staging is on a file system of its own, so that parts take no room from what is kept."""
    try:
        return layout.parts.stat().st_dev != layout.root.stat().st_dev
    except OSError:
        return False


def drop(path: Path) -> bool:
    """Remove a file, link, pipe or empty folder; says whether nothing of that name is left."""
    with suppress(OSError):
        try:
            durable.unlink(path)
        except (IsADirectoryError, PermissionError):
            durable.rmdir(path)
    return not os.path.lexists(path)


def sweep(layout: Layout) -> None:
    """Remove what nobody waits for: parts that became blobs, what was left long ago, all but the newest metadata."""
    for path, modified_s in _entries(layout.parts):
        if time.time() - modified_s > _ABANDONED_S or _is_blob(layout, path.name):
            drop(path)
    newest = sorted(_entries(layout.metadata), key=lambda entry: entry[1], reverse=True)
    for path, _ in newest[_METADATA_KEPT:]:
        drop(path)


def _is_blob(layout: Layout, name: str) -> bool:
    try:
        return name.endswith(_PART) and layout.blob(checked_digest(name[: -len(_PART)])).is_file()
    except ValueError:
        return False


def _entries(folder: Path) -> list[tuple[Path, float]]:
    """Return some entries of a folder with the time they were written; however many a stranger made."""
    found = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in islice(entries, _MOST_ENTRIES):
            with suppress(OSError):
                found.append((folder / entry.name, entry.stat(follow_symlinks=False).st_mtime))
    return found
