"""What is remembered of each device between commands: what it last reported, when, and what waits for it."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgekd.core.atomic import write_json
from edgekd.core.errors import StorageError
from edgekd.ship.transport.answers import Model

FOLDER_NAME = "fleet"


@dataclass(frozen=True)
class DeviceRecord:
    """What is known of a device.

    Attributes:
        device_id: Its name.
        last_seen: UTC time of its last answer; empty when it never gave one.
        reported: What it ran then.
        state: What its agent was doing then.
        agent: Version of its agent then.
        result: How the last thing that was done to it ended.
        reason: Why.
        queued: Digest of the release that waits for it to come back; empty when none does.
    """

    device_id: str
    last_seen: str = ""
    reported: Model | None = None
    state: str = ""
    agent: str = ""
    result: str = ""
    reason: str = ""
    queued: str = ""


class Records:
    """The records of a fleet, one file a device.

    Args:
        repository: Folder of the signed releases; the records are in its folder `fleet`.
    """

    def __init__(self, repository: Path) -> None:
        self.folder = repository / FOLDER_NAME

    def of(self, device_id: str) -> DeviceRecord:
        """Return what is known of a device; a record that cannot be read counts as nothing known."""
        try:
            document = json.loads(self._path(device_id).read_text(encoding="utf-8"))
            return _record(device_id, document)
        except FileNotFoundError:
            return DeviceRecord(device_id)
        except OSError as error:
            raise StorageError(f"{self._path(device_id)}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError):
            return DeviceRecord(device_id, reason="its record was damaged")

    def change(self, device_id: str, **changes: Any) -> DeviceRecord:
        """Write a record with some of its fields changed; raises `StorageError`."""
        with self._alone():
            record = dataclasses.replace(self.of(device_id), **changes)
            write_json(self._path(device_id), {"schema_version": 1, **dataclasses.asdict(record)})
        return record

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep two commands from changing records over each other; held for one change."""
        path = self.folder / "records.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _path(self, device_id: str) -> Path:
        return self.folder / "devices" / f"{device_id}.json"


def now_text() -> str:
    """Return the time as records keep it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _record(device_id: str, document: dict[str, Any]) -> DeviceRecord:
    reported = document["reported"]
    model = (
        None
        if reported is None
        else Model(str(reported["name"]), int(reported["version"]), str(reported["bundle_sha256"]))
    )
    texts = {key: str(document[key]) for key in ("last_seen", "state", "agent", "result", "reason", "queued")}
    return DeviceRecord(device_id, reported=model, **texts)
