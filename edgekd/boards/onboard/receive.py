"""A file that comes in over a connection that may drop: what came is kept, the rest follows, the whole is checked."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any, BinaryIO, Dict

from .place import Refusal, Store, lock, sha256_of

_CHUNK_BYTES = 1 << 16
_TAKE_OVER_S = 5.0


def held(store: Store, sha256: str) -> Dict[str, Any]:
    """Say how much of a file is here: `size_bytes`, and whether it `is_complete`."""
    blob = store.blob(sha256)
    if blob.is_file():
        return {"size_bytes": blob.stat().st_size, "is_complete": True}
    part = _part(blob)
    return {"size_bytes": part.stat().st_size if part.is_file() else 0, "is_complete": False}


def receive(store: Store, sha256: str, size_bytes: int, offset: int, source: BinaryIO) -> Dict[str, Any]:
    """Append what arrives to the part that is here; whole and right, it becomes the file.

    Args:
        store: Where files are kept.
        sha256: Its digest.
        size_bytes: Its size.
        offset: Where the sender goes on; it must be the size of the part that is here.
        source: What arrives, to the end of the stream.

    Returns:
        What `held` says afterwards.

    Raises:
        Refusal: `offset` (another part is here), `digest` (whole but wrong; it is removed), `disk_full` (the part is
            removed), `busy`.
    """
    blob = store.blob(sha256)
    holding = _sole_receiver(blob)
    part = _part(blob)
    here = held(store, sha256)
    if here["is_complete"]:
        return here
    if here["size_bytes"] != offset:
        raise Refusal("offset", "%d bytes are here, not %d" % (here["size_bytes"], offset), **here)
    try:
        _append(part, source, size_bytes - offset)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        part.unlink()
        free = shutil.disk_usage(str(store.folder)).free
        raise Refusal("disk_full", "the disk is full (%d bytes free)" % free, free_bytes=free) from error
    if part.stat().st_size == size_bytes:
        _finish(part, blob, sha256)
    holding.close()
    return held(store, sha256)


def _append(part: Path, source: BinaryIO, missing_bytes: int) -> None:
    with open(str(part), "ab") as stream:
        while missing_bytes > 0:
            block = source.read(min(_CHUNK_BYTES, missing_bytes))
            if not block:
                break
            stream.write(block)
            missing_bytes -= len(block)
        stream.flush()
        os.fsync(stream.fileno())


def _finish(part: Path, blob: Path, sha256: str) -> None:
    found = sha256_of(part)
    if found != sha256:
        part.unlink()
        raise Refusal("digest", "what arrived has the digest %s" % found)
    os.replace(str(part), str(blob))


def _sole_receiver(blob: Path) -> Any:
    """Take the file over: a receiver whose connection died without a word may still be waiting."""
    path = blob.with_name(blob.name + ".lock")
    holding = lock(path)
    deadline = time.monotonic() + _TAKE_OVER_S
    while holding is None:
        if time.monotonic() > deadline:
            raise Refusal("busy", "another process receives this file")
        _stop_receiver(path, blob.name)
        time.sleep(0.1)
        holding = lock(path)
    holding.truncate(0)
    holding.write(str(os.getpid()))
    holding.flush()
    return holding


def _stop_receiver(path: Path, sha256: str) -> None:
    try:
        pid = int(path.read_text())
        words = Path("/proc/%d/cmdline" % pid).read_bytes().split(b"\0")
        if b"receive" in words and sha256.encode() in words:
            os.kill(pid, signal.SIGKILL)
    except (OSError, ValueError):
        return


def _part(blob: Path) -> Path:
    blob.parent.mkdir(parents=True, exist_ok=True)
    return blob.with_name(blob.name + ".part")
