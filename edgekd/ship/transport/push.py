"""A file written over SFTP from where the device's copy agrees with ours; bounded memory, acknowledged progress."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from edgekd.core.errors import StorageError
from edgekd.ship.transport.pace import MAX_REQUEST_BYTES, Pace
from edgekd.ship.transport.session import BLOCK_BYTES, Need
from edgekd.targets.ssh_line import Dropped

STALL_S = 90.0
_READ_BYTES = 4 << 20
_OPTIONS = {"encoding": None, "block_size": 0}  # writes go out as they are cut here, never divided once more


@dataclass(frozen=True)
class Course:
    """Who is told how a push goes.

    Attributes:
        report: Told the bytes that are there, after each acknowledgement.
        abandon: Called when nothing is acknowledged any more; drops the connection, since even closing a file there
            would wait for an answer.
    """

    report: Callable[[int], None]
    abandon: Callable[[], None]


async def write_blob(sftp: Any, blob: Path, target: PurePosixPath, need: Need, course: Course) -> int:
    """Write what is missing of a blob.

    Args:
        sftp: The asyncssh client.
        blob: The file here.
        target: Its `.part` there.
        need: Its length, and the blocks that are there.
        course: Who is told how it goes.

    Returns:
        Where writing started.

    Raises:
        StorageError: The file here has another length.
        Dropped: Nothing was acknowledged for `STALL_S` seconds.
        asyncssh.SFTPError: The device refuses.
    """
    size_bytes = _size_of(blob)
    if size_bytes != need.size_bytes:
        raise StorageError(
            f"{blob} has {size_bytes} bytes, its release says {need.size_bytes}: the repository is damaged"
        )
    start = await asyncio.to_thread(agreeing_bytes, blob, need.blocks)
    course.report(start)
    import asyncssh

    async with sftp.open(str(target), asyncssh.FXF_WRITE | asyncssh.FXF_CREAT, **_OPTIONS) as file:
        await file.truncate(start)  # what lies behind the agreement is another file's, or was torn
        with _reading(blob) as source:
            source.seek(start)
            await _write_from(source, start, file, _pace(sftp), course)
    return start


def agreeing_bytes(blob: Path, blocks: tuple[str, ...]) -> int:
    """Return how much of a file agrees with the digests of complete blocks, up to the first that does not."""
    agreeing = 0
    with _reading(blob) as stream:
        for digest in blocks:
            block = stream.read(BLOCK_BYTES)
            if len(block) < BLOCK_BYTES or hashlib.sha256(block).hexdigest() != digest:
                break
            agreeing += BLOCK_BYTES
    return agreeing


async def write_small(sftp: Any, source: Path, target: PurePosixPath, course: Course) -> None:
    """Write a file from its start under another name, then rename it over the target."""
    import asyncssh

    part = f"{target}.part"
    if not source.is_file():
        raise StorageError(f"{source} is missing: the repository is damaged")
    async with sftp.open(part, asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_TRUNC, **_OPTIONS) as file:
        with _reading(source) as stream:
            await _write_from(stream, 0, file, _pace(sftp), course)
    await sftp.posix_rename(part, str(target))


async def _write_from(source: BinaryIO, start: int, file: Any, pace: Pace, course: Course) -> None:
    under_way: deque[tuple[asyncio.Task[Any], int, float]] = deque()
    chunks, offset, waiting = _Chunks(source), start, 0
    try:
        while True:
            while pace.allows(waiting) and (data := await chunks.next(pace.request_bytes)):
                under_way.append((asyncio.create_task(file.write(data, offset)), len(data), time.monotonic()))
                offset, waiting = offset + len(data), waiting + len(data)
            if not under_way:
                return
            task, length, started_s = under_way[0]
            await _acknowledgement(task, course)
            under_way.popleft()
            waiting -= length
            pace.acknowledged(time.monotonic() - started_s)
            course.report(offset - waiting)
    finally:
        for task, _, _ in under_way:
            task.cancel()
        await asyncio.gather(*(task for task, _, _ in under_way), return_exceptions=True)


async def _acknowledgement(task: asyncio.Task[Any], course: Course) -> None:
    done, _ = await asyncio.wait({task}, timeout=STALL_S)
    if not done:
        course.abandon()
        raise Dropped(f"nothing arrived for {STALL_S:.0f} s")
    task.result()


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    """Open a file here; that it cannot be opened is no drop of the connection."""
    try:
        stream = path.open("rb")
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; the repository is damaged") from error
    with stream:
        yield stream


class _Chunks:
    """A file read in large pieces off the event loop, and handed out in small ones."""

    def __init__(self, source: BinaryIO) -> None:
        self._source, self._held, self._position = source, b"", 0

    async def next(self, size_bytes: int) -> bytes:
        if self._position >= len(self._held):
            self._held, self._position = await asyncio.to_thread(self._read), 0
        piece = self._held[self._position : self._position + size_bytes]
        self._position += len(piece)
        return piece

    def _read(self) -> bytes:
        try:
            return self._source.read(_READ_BYTES)
        except OSError as error:
            raise StorageError(f"{self._source.name}: {error.strerror}; the repository is damaged") from error


def _pace(sftp: Any) -> Pace:
    """Keep to what the server says it takes: OpenSSH's longest write is a little under 256 KiB."""
    return Pace(int(sftp.limits.max_write_len) or MAX_REQUEST_BYTES)


def _size_of(blob: Path) -> int:
    try:
        return blob.stat().st_size
    except OSError as error:
        raise StorageError(f"{blob}: {error.strerror}; the repository is damaged") from error
