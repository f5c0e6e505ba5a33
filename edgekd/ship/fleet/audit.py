"""The audit log of a fleet: one JSON line per thing that happened to a device, each bound to the one before.

A record names the digest of the line before it and its own. Altering, removing or reordering a record breaks the chain
there. The end of the chain is kept in a second file, and can be noted down elsewhere, because nothing inside a log can
show that its last records were cut off.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgekd.core.atomic import fsync_folder, write_json
from edgekd.core.digest import sha256_of_bytes, sha256_of_json
from edgekd.core.errors import StorageError

LOG_NAME, HEAD_NAME = "audit.jsonl", "audit.head.json"
_START = "0" * 64
_OWN = "sha256"
_TAIL_BYTES = 1 << 20  # longer than any record


@dataclass(frozen=True)
class Record:
    """One thing that happened.

    Attributes:
        kind: `"device"`, or `"halt"` when a roll-out was stopped.
        who: The operator.
        deployment: The roll-out it belongs to.
        device_id: The device; empty for `"halt"`.
        group: Its group.
        digest: `bundle.json` of the release.
        before: What the device ran, in words; empty when nothing or not known.
        after: What it runs now.
        result: What came of it (`"installed"`, `"failed"`).
        reason: Why.
        seconds: How long it took.
    """

    kind: str
    who: str
    deployment: str
    device_id: str
    group: str
    digest: str
    before: str
    after: str
    result: str
    reason: str
    seconds: float


@dataclass(frozen=True)
class Verdict:
    """What came of checking a log.

    Attributes:
        records: Records that hold.
        head: Digest of the last of them.
        broken_at: Number of the first record that does not, counted from 1; None when all do.
        problem: What is wrong there.
    """

    records: int
    head: str
    broken_at: int | None = None
    problem: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return self.broken_at is None


class AuditLog:
    """The log in a folder.

    Args:
        folder: Where it is kept; made when it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._head = folder / LOG_NAME, folder / HEAD_NAME

    def append(self, record: Record) -> None:
        """Add a record durably; raises `StorageError`."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not self._path.exists()
            with self._opened() as descriptor:
                number, previous = self._mended_end(descriptor)
                content = _line(number + 1, previous, record)
                os.write(descriptor, content)
                os.fsync(descriptor)
                if is_new:
                    fsync_folder(self._path.parent)
                write_json(self._head, {"schema_version": 1, "seq": number + 1, "sha256": _digest_of_line(content)})
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror or error}") from error

    def read(self) -> list[dict[str, Any]]:
        """Return every record that can be read, oldest first, checked or not."""
        records = []
        for line in self._lines():
            try:
                document = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(document, dict):
                records.append(document)
        return records

    def verify(self, expected_head: str | None = None) -> Verdict:
        """Check the chain.

        Args:
            expected_head: Digest of a record, as an earlier check printed it; the log must contain it.

        Returns:
            What came of it; a torn last line, which a crash leaves, is not an error.
        """
        previous, number, seen = _START, 0, {_START}
        for number, line in enumerate(self._lines(), start=1):
            problem = _problem(line, number, previous)
            if problem:
                return Verdict(number - 1, previous, number, problem)
            previous = _digest_of_line(line)
            seen.add(previous)
        if expected_head and expected_head not in seen:
            return Verdict(number, previous, number + 1, f"the record {expected_head} that was expected is not there")
        return self._against_head(Verdict(number, previous), seen)

    def _against_head(self, verdict: Verdict, seen: set[str]) -> Verdict:
        """Compare with the kept end: records may be newer than it after a crash, never older."""
        try:
            head = json.loads(self._head.read_text(encoding="utf-8"))["sha256"]
        except FileNotFoundError:
            head = None if verdict.records == 0 else ""
        except (OSError, ValueError, KeyError, TypeError):
            head = ""
        if head is None or head in seen:
            return verdict
        problem = f"the record that {self._head.name} names is not there: records were cut off or replaced"
        if not head:
            problem = f"{self._head.name} is missing or damaged: whether records were cut off cannot be told"
        return Verdict(verdict.records, verdict.head, verdict.records + 1, problem)

    def _lines(self) -> list[bytes]:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}") from error
        return content.split(b"\n")[:-1]  # behind the last newline is nothing, or a line that a crash tore

    @contextmanager
    def _opened(self) -> Iterator[int]:
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _mended_end(self, descriptor: int) -> tuple[int, str]:
        """Return number and digest of the last whole record; what a crash tore behind it is put aside."""
        size_bytes = os.fstat(descriptor).st_size
        tail = os.pread(descriptor, _TAIL_BYTES, max(0, size_bytes - _TAIL_BYTES))
        whole, newline, torn = tail.rpartition(b"\n")
        if torn:
            aside = self._path.with_name(f"{LOG_NAME}.torn-{sha256_of_bytes(torn)[:12]}")
            aside.write_bytes(torn)
            os.ftruncate(descriptor, size_bytes - len(torn))
        if not newline:
            return 0, _START
        last = whole.rpartition(b"\n")[2]
        return _number_of(last) or len(self._lines()), _digest_of_line(last)


def _number_of(line: bytes) -> int:
    """Return the number that a record has; 0 when it is not readable."""
    try:
        number = json.loads(line)["seq"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return number if type(number) is int else 0


def _line(number: int, previous: str, record: Record) -> bytes:
    document = {
        "schema_version": 1,
        "seq": number,
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "kind": record.kind,
        "who": record.who,
        "deployment": record.deployment,
        "device_id": record.device_id,
        "group": record.group,
        "digest": record.digest,
        "from": record.before,
        "to": record.after,
        "result": record.result,
        "reason": record.reason,
        "seconds": round(record.seconds, 3),
        "previous": previous,
    }
    document[_OWN] = sha256_of_json(document)
    return json.dumps(document, allow_nan=False).encode("ascii") + b"\n"


def _digest_of_line(line: bytes) -> str:
    return sha256_of_bytes(line.rstrip(b"\n"))


def _problem(line: bytes, number: int, previous: str) -> str:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return "is not JSON"
    if not isinstance(document, Mapping):
        return "is not an object"
    own = {key: value for key, value in document.items() if key != _OWN}
    if document.get(_OWN) != sha256_of_json(own):
        return "was altered: its content does not match its digest"
    if document.get("seq") != number:
        return f"says it is record {document.get('seq')}: records before it are missing, doubled or out of order"
    if document.get("previous") != previous:
        return "does not follow from the record before it"
    return ""
