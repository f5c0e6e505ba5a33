"""One operator at a time: a lock on the repository that names its owner and age, and outlives no crash of its own host.

The kernel's lock says whether the process that took it still runs; the file says who it was. Where another host took
it, only the file can be believed, so such a lock is broken by hand.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgekd.core.errors import EdgeKDError, StorageError

LOCK_NAME = "operator.lock"


class FleetLocked(EdgeKDError):
    """Another operator, or another command of the same one, works on the fleet."""


@dataclass(frozen=True)
class Holder:
    """Who holds the lock.

    Attributes:
        owner: The operator.
        since: When it was taken.
        host: On which machine.
        what: The command.
    """

    owner: str
    since: datetime
    host: str
    what: str

    @property
    def age_s(self) -> float:
        """Seconds since it was taken."""
        return max(0.0, (datetime.now(timezone.utc) - self.since).total_seconds())

    def __str__(self) -> str:
        return f"{self.owner} on {self.host} ({self.what}), for {in_words(self.age_s)}"


def operator_name() -> str:
    """Return how this user is named on locks and in the audit log."""
    with suppress(OSError, KeyError):
        return f"{getpass.getuser()}@{socket.gethostname()}"
    return f"uid-{os.getuid()}@{socket.gethostname()}"


def in_words(seconds: float) -> str:
    """Return a duration for people (`"3 min"`)."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} days"


@contextmanager
def fleet_lock(folder: Path, owner: str, what: str) -> Iterator[None]:
    """Hold the lock for the length of a block.

    Args:
        folder: Where the fleet's records are.
        owner: The operator.
        what: The command, for whoever finds it locked.

    Raises:
        FleetLocked: It is held; says by whom and for how long.
        StorageError: The folder cannot be written.
    """
    path = folder / LOCK_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    try:
        _take(descriptor, path, owner, what)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def holder_of(folder: Path) -> Holder | None:
    """Return who holds the lock, or did when the process ended badly; None when nobody does."""
    try:
        content = (folder / LOCK_NAME).read_bytes()
    except OSError:
        return None
    return _holder(content)


def break_lock(folder: Path) -> Holder | None:
    """Take the lock away from an operator whose process is gone.

    Args:
        folder: Where the fleet's records are.

    Returns:
        Whose it was; None when nobody held it.

    Raises:
        FleetLocked: The process runs, on this machine.
        StorageError: The lock cannot be written.
    """
    holder, path = holder_of(folder), folder / LOCK_NAME
    if holder is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    try:
        _require_free(descriptor, holder)
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
    return holder


def _take(descriptor: int, path: Path, owner: str, what: str) -> None:
    holder = _holder(os.pread(descriptor, 1 << 16, 0))
    _require_free(descriptor, holder)
    holder = _holder(os.pread(descriptor, 1 << 16, 0))  # whoever held it may have finished just now
    host = socket.gethostname()
    if holder is not None and holder.owner != owner and holder.host != host:
        raise FleetLocked(
            f"the fleet is held by {holder}; if that command is gone for good: edgekd fleet unlock --repository"
        )
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    document = {"schema_version": 1, "owner": owner, "since": now, "host": host, "what": what}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(document).encode("utf-8"), 0)
    os.fsync(descriptor)


def _require_free(descriptor: int, holder: Holder | None) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        who = str(holder) if holder else "another command that has just started"
        raise FleetLocked(f"the fleet is held by {who}, which runs; wait for it, or stop it") from error


def _holder(content: bytes) -> Holder | None:
    if not content.strip():
        return None
    try:
        document: dict[str, Any] = json.loads(content)
        since = datetime.fromisoformat(document["since"])
        return Holder(str(document["owner"]), since, str(document["host"]), str(document["what"]))
    except (ValueError, KeyError, TypeError):
        epoch = datetime.fromtimestamp(0, timezone.utc)
        return Holder("somebody unknown", epoch, "an unknown machine", "the lock cannot be read")
