"""Who may change this device: one process at a time, and one operator at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edgekd_agent import documents, durable
from edgekd_agent.errors import AgentError
from edgekd_agent.layout import Layout

_POLL_S = 0.05


@dataclass(frozen=True)
class Operator:
    """Who has reserved the device.

    Attributes:
        owner: Name given with `lock`.
        since_s: When, by the device's clock.
    """

    owner: str
    since_s: float


@contextmanager
def only_process(layout: Layout, *, patience_s: float = 2.0) -> Iterator[None]:
    """Be the only process that changes the device; the lock ends with the process, whatever becomes of it.

    Raises:
        AgentError: Another process has it.
    """
    if not layout.root.is_dir():
        raise AgentError("precondition", f"{layout.root} is not there; provision the device first")
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        _take(descriptor, time.monotonic() + patience_s)
        yield
    finally:
        os.close(descriptor)


def is_busy(layout: Layout) -> bool:
    """Say whether a process is changing the device right now."""
    try:
        descriptor = os.open(layout.lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def operator(layout: Layout) -> Operator | None:
    """Return who has reserved the device, or None."""
    document = documents.read(layout.operator)
    if document is None or not isinstance(document.get("owner"), str):
        return None
    since_s = document.get("since_s")
    return Operator(document["owner"], float(since_s) if isinstance(since_s, (int, float)) else 0.0)


def reserve(layout: Layout, owner: str) -> Operator:
    """Reserve the device for an operator; again for the same one is fine.

    Raises:
        AgentError: Another operator has it, or the name is unfit.
    """
    if not owner or len(owner) > 100 or not owner.isprintable():
        raise AgentError("usage", f"owner {owner!r} is no name")
    holder = operator(layout)
    if holder is None:
        holder = Operator(owner, round(time.time(), 3))
        documents.write(layout.operator, {"schema_version": 1, "owner": holder.owner, "since_s": holder.since_s})
    elif holder.owner != owner:
        raise AgentError("locked", _held_by(holder))
    return holder


def release(layout: Layout, owner: str, *, force: bool = False) -> bool:
    """Give the device back; says whether it was reserved.

    Raises:
        AgentError: Another operator has it, and `force` was not given.
    """
    holder = operator(layout)
    if holder is not None and holder.owner != owner and not force:
        raise AgentError("locked", _held_by(holder))
    if holder is None:
        return False
    durable.remove(layout.operator)
    durable.fsync_folder(layout.root)
    return True


def _held_by(holder: Operator) -> str:
    age_s = max(0, int(time.time() - holder.since_s))
    return f"reserved by {holder.owner} for {age_s} s; ask them, or end it with: unlock --owner NAME --force"


def _take(descriptor: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise AgentError("busy", "another process is changing this device; see: status") from None
            time.sleep(_POLL_S)
