"""`log.jsonl` of a run folder: what happened, event by event, for people and for plots; nothing is decided from it."""

from __future__ import annotations

import errno
import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from edgekd.core.errors import StorageError
from edgekd.core.events import Event, Listener


@dataclass(frozen=True)
class LoggedEvent:
    """One line of `log.jsonl`.

    Attributes:
        time: When it happened, ISO 8601 in UTC.
        event: What happened.
    """

    time: str
    event: Event


class EventLog:
    """A listener that appends every event to a file of JSON lines, one write each."""

    def __init__(self, path: Path) -> None:
        """Continue a log or begin one; half a line left by a killed process is cut off.

        Args:
            path: The log (`log.jsonl` in the run folder); its folder must exist.

        Raises:
            StorageError: The log cannot be written.
        """
        self._path = path
        try:
            with open(path, "ab+") as stream:
                stream.seek(0)
                whole = (content := stream.read()).rfind(b"\n") + 1
                if whole < len(content):
                    stream.truncate(whole)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error

    def __call__(self, event: Event) -> None:
        """Append an event whole or not at all.

        Raises:
            StorageError: The file cannot be written; losses of steps are left out instead, and training goes on.
        """
        values = {name: _json_number(value) for name, value in event.values.items()}
        text = json.dumps({"time": utc_now(), **vars(event), "values": values}, allow_nan=False)
        line, whole = text.encode("utf-8") + b"\n", None
        try:
            with open(self._path, "ab", buffering=0) as stream:
                whole = stream.tell()
                if stream.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if whole is not None:
                with suppress(OSError):
                    os.truncate(self._path, whole)
            if event.kind != "step":
                raise StorageError(f"cannot write {self._path}: {error.strerror}") from error


def read_log(path: Path) -> list[LoggedEvent]:
    """Read a log of events; half a last line, as a killed process leaves it, is ignored.

    Args:
        path: The log.

    Returns:
        Its events in order; numbers that are not finite come back as such.

    Raises:
        StorageError: The file cannot be read or a whole line of it is damaged.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    return [_logged_event(line, f"{path} line {number}") for number, line in enumerate(lines, start=1)]


def broadcast(*listeners: Listener) -> Listener:
    """Return a listener that hands each event to every one of `listeners`, in order."""

    def tell_all(event: Event) -> None:
        for listen in listeners:
            listen(event)

    return tell_all


def utc_now() -> str:
    """Return the time now, ISO 8601 in UTC."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _logged_event(line: bytes, where: str) -> LoggedEvent:
    try:
        fields = json.loads(line)
        moment = fields.pop("time")
        fields["values"] = {name: float(value) for name, value in fields["values"].items()}
        return LoggedEvent(moment, Event(**fields))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{where} is damaged ({error}): move the file away to begin a new log") from error


def _json_number(value: float) -> float | str:
    return float(value) if math.isfinite(value) else str(float(value))
