"""Files of jobs on a board: whole or not at all, found by their digests, locked by those who work on them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any, Dict, Optional

_CHUNK_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_JOBS_KEPT = 16
_UNUSED_S = 7 * 86400.0
FINAL = ("done", "failed", "cancelled")


class Refusal(Exception):
    """What a verb cannot do: a kind that programs read, and words for people."""

    def __init__(self, kind: str, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.document = {"kind": kind, "message": message, **facts}


class Store:
    """The folder of edgekd on a board.

    Args:
        folder: Usually `~/.edgekd`.
        root: `/`; what the system shows of itself is read below it.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root

    def blob(self, sha256: str) -> Path:
        """Return where a file of that digest lies."""
        return self.folder / "blobs" / checked_digest(sha256)

    def job(self, digest: str) -> Path:
        """Return the folder of a job."""
        return self.folder / "jobs" / checked_digest(digest)

    def timing_cache(self, key: str) -> Path:
        """Return the file of kernel timings that jobs of one kind of engine share."""
        return self.folder / "timing" / (checked_digest(key) + ".cache")

    def prune(self, keep: str) -> None:
        """Forget all but the newest finished jobs, `keep` apart, and old files that no job uses."""
        folders = sorted((self.folder / "jobs").glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for folder in folders[_JOBS_KEPT:]:
            if folder.name != keep and (read_json(folder / "state.json") or {}).get("status") in FINAL:
                shutil.rmtree(str(folder), ignore_errors=True)
        for blob in (self.folder / "blobs").glob("*"):
            facts = blob.stat()
            if facts.st_nlink == 1 and time.time() - facts.st_mtime > _UNUSED_S:
                blob.unlink()


def checked_digest(text: str) -> str:
    """Return `text` if it is a SHA-256 in hexadecimal; nothing else ever becomes part of a path."""
    if not _SHA256.fullmatch(text):
        raise Refusal("usage", "not a digest: %r" % text)
    return text


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(str(path), "rb") as stream:
        for block in iter(lambda: stream.read(_CHUNK_BYTES), b""):
            digest.update(block)
    return digest.hexdigest()


def described(path: Path) -> Dict[str, Any]:
    """Return size and digest of a file."""
    return {"size_bytes": path.stat().st_size, "sha256": sha256_of(path)}


def is_intact(path: Path, facts: Dict[str, Any]) -> bool:
    """Say whether a file is still what `described` said."""
    return path.is_file() and path.stat().st_size == facts["size_bytes"] and sha256_of(path) == facts["sha256"]


def read_json(path: Path) -> Optional[Dict[str, Any]]:
    """Return a JSON object, or None when there is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and durably."""
    temporary = path.with_name(".%s.%d" % (path.name, os.getpid()))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(str(temporary), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(str(temporary), str(path))
    finally:
        if temporary.exists():
            temporary.unlink()


def write_json(path: Path, document: Any) -> None:
    """Write JSON whole or not at all."""
    write_bytes(path, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode("utf-8"))


def lock(path: Path) -> Optional[Any]:
    """Take a lock that ends with this process.

    Returns:
        The open file that holds it, or None when another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = open(str(path), "a+")  # noqa: SIM115 - the lock lives as long as this file is open
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        return None
    return stream


def tail(path: Path, lines: int = 20) -> str:
    """Return the last lines of a log."""
    try:
        with open(str(path), "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 8192))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.replace("\r", "\n").splitlines()[-lines:])
