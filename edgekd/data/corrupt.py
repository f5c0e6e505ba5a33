"""Inputs that cannot be decoded: stood in for by others, counted up to a limit, and listed in a file.

The file is what processes share: whoever finds a corrupt input, a data worker or another process of the training,
appends a line, and how many there are is how many different inputs the file names. A run that goes on counts on.
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgekd.core.errors import CorruptInput, DataError, StorageError
from edgekd.core.seeds import derive_seed
from edgekd.data.inputs import InputStore, Rows, Stored

CORRUPT_FILE = "corrupt.jsonl"
"""Where a run folder lists the inputs that could not be decoded."""

_LISTED = 5
_MOST_TRIES = 64


@dataclass(frozen=True)
class CorruptRecord:
    """One input that cannot be decoded.

    Attributes:
        part: `"train"`, `"val"` or `"test"`.
        name: Which input: a path, or shard and key.
        reason: What is wrong with it.
    """

    part: str
    name: str
    reason: str


class CorruptLog:
    """A list of corrupt inputs in a file that processes append to.

    Args:
        path: The file, which need not exist; None for a temporary one of this process and its workers.
        limit: Most inputs it may name.
    """

    def __init__(self, path: Path | None, limit: int) -> None:
        self.limit = limit
        self._path = path or Path(tempfile.gettempdir()) / f"edgekd-{uuid.uuid4().hex}.{CORRUPT_FILE}"
        self._told: set[str] = set()
        if path is None:
            weakref.finalize(self, _forget, self._path, os.getpid())

    def add(self, record: CorruptRecord) -> None:
        """Name an input, once.

        Raises:
            DataError: There are more than the limit now.
            StorageError: The file cannot be written.
        """
        if record.name in self._told:
            return
        line = json.dumps(asdict(record)).encode() + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror}") from error
        self._told.add(record.name)
        self.check()

    def records(self) -> tuple[CorruptRecord, ...]:
        """Return every input named, each once, by part and name; lines cut short by a kill are passed over.

        Raises:
            StorageError: The file cannot be read.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StorageError(f"cannot read {self._path}: {error.strerror}") from error
        found = {record.name: record for line in content.split(b"\n") for record in _parsed(line)}
        return tuple(sorted(found.values(), key=lambda record: (record.part, record.name)))

    def check(self) -> None:
        """Raise `DataError` when more inputs are named than the limit allows."""
        records = self.records()
        if len(records) > self.limit:
            some = "; ".join(f"{record.name} ({record.reason})" for record in records[-_LISTED:])
            raise DataError(
                f"{len(records)} inputs cannot be decoded, data.max_corrupt allows {self.limit}: {some}"
                f"{', ...' if len(records) > _LISTED else ''}. All are listed in {self._path}: repair them, or set a "
                "higher data.max_corrupt; remove that file when they are repaired"
            )


def allowed(max_corrupt: float, count: int) -> int:
    """Return how many of `count` inputs `data.max_corrupt` allows: itself, or a share where it is below 1."""
    return int(max_corrupt) if max_corrupt >= 1 else int(max_corrupt * count)


class StoodIn:
    """A split's inputs in which another one of the same class stands in for each that cannot be decoded.

    Which one, the row alone decides: whoever gathers a row, at whatever time, gets the same. It is one of the same
    split, so that no held-out picture is trained on.

    Args:
        store: The split's inputs.
        strata: int64 `[N]`, rows that may stand in for each other.
        part: Name of the split.
        log: Where corrupt inputs are named.
    """

    def __init__(self, store: InputStore, strata: Rows, part: str, log: CorruptLog) -> None:
        self._store = store
        self._strata = strata
        self._part = part
        self._log = log
        self._known: dict[int, int] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of every input."""
        return self._store.shape

    def __len__(self) -> int:
        return len(self._store)

    def gather(self, indices: Rows) -> Stored:
        """Return the inputs of these rows.

        Raises:
            DataError: More are corrupt than allowed, or one cannot be reached.
        """
        try:
            return self._store.gather(np.array([self._known.get(int(row), row) for row in indices], np.int64))
        except CorruptInput:
            return np.concatenate([self._one(int(row)) for row in indices])

    def fingerprint(self, indices: Rows) -> str:
        """Return the underlying store's fingerprint of these rows."""
        return self._store.fingerprint(indices)

    def _one(self, row: int) -> Stored:
        for candidate in self._candidates(row):
            try:
                stored = self._store.gather(np.array([candidate], np.int64))
            except CorruptInput as error:
                self._log.add(CorruptRecord(self._part, error.name, error.reason))
                continue
            self._known[row] = candidate
            return stored
        raise DataError(
            f"{self._part}: row {row} cannot be decoded, and no other of class {self._strata[row]} that was tried can "
            "stand in for it: repair it or remove it"
        )

    def _candidates(self, row: int) -> Iterator[int]:
        yield self._known.get(row, row)
        peers = np.flatnonzero(self._strata == self._strata[row])
        first = derive_seed(row, "stand-in") % len(peers)
        yield from (int(peer) for peer in np.roll(peers, -first)[:_MOST_TRIES] if peer != row)


def _parsed(line: bytes) -> Iterator[CorruptRecord]:
    try:
        fields = json.loads(line)
        yield CorruptRecord(str(fields["part"]), str(fields["name"]), str(fields["reason"]))
    except (ValueError, KeyError, TypeError):
        return


def _forget(path: Path, owner: int) -> None:
    if os.getpid() == owner:
        path.unlink(missing_ok=True)
