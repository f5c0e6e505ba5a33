"""The ledger of a run folder: what is done, from which inputs, and whether its files are still what they were.

A run is resumed by running the same command again: each stage asks the ledger, which hands back the recorded result
when the inputs are the same and every file named in the result is intact, and otherwise does the work. A stage is
recorded only after it succeeded, in one atomic write, so a process killed at any moment loses at most the stage it was
in. One process at a time works in a folder; its lock is the kernel's (`flock`), so a dead process leaves none behind.

A file is named in a result as a `FileRef` dictionary (`path`, `sha256`, `size_bytes`). Inside the run folder such paths
are stored relative to it and handed out absolute, so a run folder may be moved; they take no part in the key of a
stage, so moving re-runs nothing. Other strings are kept as they are. Nothing is ever deleted.

Beside the record lies `log.jsonl`: what happened, event by event, for people and for plots; nothing is decided from it.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from edgekd.core.artifacts import FileRef
from edgekd.core.atomic import fsync_folder, write_json
from edgekd.core.config import StrictModel, validated
from edgekd.core.digest import sha256_of_json
from edgekd.core.errors import ConfigError, RunLocked, StorageError
from edgekd.core.events import Event, Listener, silent
from edgekd.data import CORRUPT_FILE
from edgekd.pipeline.event_log import EventLog, broadcast, utc_now

SCHEMA_VERSION: Literal[1] = 1
LOG_FILE = "log.jsonl"
RUN_FILE = "run.json"
PREVIOUS_RUN_FILE = "run.previous.json"
_LOCK_FILE = ".lock"
_HOLDER_FILE = ".lock.holder.json"
_FILE_REF_KEYS = frozenset({"path", "sha256", "size_bytes"})


class StageRecord(StrictModel):
    """One finished stage as kept in `run.json`.

    Attributes:
        key: SHA-256 over the stage's name, its inputs and the schema version.
        status: Always `"done"`: other stages are not recorded.
        started: When it began, ISO 8601 in UTC.
        seconds: How long it took.
        result: What it returned, paths of its files relative to the run folder.
        files: Those paths, for people.
    """

    key: str
    status: Literal["done"]
    started: str
    seconds: float
    result: Any
    files: tuple[str, ...]


class RunDocument(StrictModel):
    """The content of `run.json`.

    Attributes:
        schema_version: Version of this layout.
        created: When the run was first started, ISO 8601 in UTC.
        stages: Finished stages by name.
    """

    schema_version: Literal[1]
    created: str
    stages: dict[str, StageRecord]


class Ledger:
    """The record of one run folder, held under its lock. Made by `Ledger.open`."""

    def __init__(self, folder: Path, document: RunDocument, listen: Listener) -> None:
        self.folder = folder
        self.listen = listen
        self._document = document

    @classmethod
    @contextmanager
    def open(cls, folder: Path, *, fresh: bool = False, listen: Listener = silent) -> Iterator[Ledger]:
        """Lock a run folder and read its record; the lock is held until the block ends.

        Args:
            folder: The run folder; made when missing. A folder that holds other things and no run is refused.
            fresh: Start over: the record becomes `run.previous.json`, files are overwritten as stages finish.
            listen: Told when a stage starts, ends or is kept from an earlier run.

        Yields:
            The ledger; its `folder` is absolute, its `listen` also writes `log.jsonl`.

        Raises:
            RunLocked: Another process works in the folder.
            StorageError: The folder cannot be written, is not a run folder, or its record cannot be read.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the run folder {folder}: {error.strerror}") from error
        folder = folder.resolve()
        with _locked(folder):
            document = _opened(folder, fresh=fresh)
            yield cls(folder, document, broadcast(listen, EventLog(folder / LOG_FILE)))

    @property
    def created(self) -> str:
        """When the run was first started, ISO 8601 in UTC."""
        return self._document.created

    def stage(self, name: str, inputs: Mapping[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the result of a stage, from the record when that still holds, else by doing the work.

        Args:
            name: Name of the stage, unique in the run (`"student/seed0"`).
            inputs: Plain JSON data that decides the result: settings, digests of what earlier stages made.
            work: Does the stage and returns plain JSON data, in which every file it leaves is a `FileRef` dictionary.

        Returns:
            The result as JSON gives it back (tuples are lists), paths of files absolute; equal whether done or kept.

        Raises:
            StorageError: The record cannot be written; the stage will run again.
            ValueError: Inputs or result are not plain JSON data.
        """
        key = _key(name, inputs)
        reason = self._reason_to_run(name, key)
        if reason is None:
            record = self._document.stages[name]
            self.listen(Event("note", name, f"kept from {record.started}: same inputs, files intact"))
            return self._handed_out(record)
        self.listen(Event("start", name, reason))
        started, before_s = utc_now(), time.monotonic()
        result = _moved(_plain(f"the result of stage {name!r}", work()), self._relative)
        seconds = time.monotonic() - before_s
        files = tuple(ref["path"] for ref in _file_refs(result))
        record = StageRecord(key=key, status="done", started=started, seconds=seconds, result=result, files=files)
        self._record(name, record)
        self.listen(Event("end", name, values={"seconds": seconds}))
        return self._handed_out(record)

    def _handed_out(self, record: StageRecord) -> dict[str, Any]:
        result: dict[str, Any] = _moved(record.result, self._absolute)
        return result

    def _reason_to_run(self, name: str, key: str) -> str | None:
        record = self._document.stages.get(name)
        if record is None:
            return "not done yet"
        if record.key != key:
            return "its inputs changed"
        for ref in _file_refs(record.result):
            if not FileRef(**{**_only_file_ref(ref), "path": self._absolute(ref["path"])}).is_intact():
                return f"{ref['path']} is missing or altered"
        return None

    def _record(self, name: str, record: StageRecord) -> None:
        document = self._document.model_copy(update={"stages": {**self._document.stages, name: record}})
        write_json(self.folder / RUN_FILE, document.model_dump(mode="json"))
        self._document = document

    def _relative(self, path: str) -> str:
        absolute = Path(path).parent.resolve() / Path(path).name
        return str(absolute.relative_to(self.folder)) if absolute.is_relative_to(self.folder) else str(absolute)

    def _absolute(self, path: str) -> str:
        return str(self.folder / path)


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Read what the finished stages of a run returned, without locking or changing the run folder.

    Args:
        folder: The run folder.

    Returns:
        Results by stage, paths of files absolute; whether those files are intact is not checked.

    Raises:
        StorageError: There is no record, or it is damaged.
    """
    absolute = folder.resolve()
    if not (absolute / RUN_FILE).is_file():
        raise StorageError(f"{folder} is no run folder: it has no {RUN_FILE}; edgekd distill --out {folder} makes one")
    stages = _read(absolute / RUN_FILE).stages
    return {name: _moved(record.result, lambda path: str(absolute / path)) for name, record in stages.items()}


def _opened(folder: Path, *, fresh: bool) -> RunDocument:
    run_file = folder / RUN_FILE
    try:
        if fresh and run_file.exists():
            os.replace(run_file, folder / PREVIOUS_RUN_FILE)
            fsync_folder(folder)
        if run_file.exists():
            return _read(run_file)
        strangers = sorted(entry.name for entry in folder.iterdir() if not _belongs_to_a_run(entry))
    except OSError as error:
        raise StorageError(f"cannot open the run folder {folder}: {error.strerror}") from error
    if strangers and not (folder / PREVIOUS_RUN_FILE).exists():
        raise StorageError(
            f"{folder} is no run folder, and not empty (it holds {', '.join(strangers[:3])}): choose a new folder"
        )
    document = RunDocument(schema_version=SCHEMA_VERSION, created=utc_now(), stages={})
    write_json(run_file, document.model_dump(mode="json"))
    return document


def _belongs_to_a_run(entry: Path) -> bool:
    return entry.name.startswith(".") or entry.name in (LOG_FILE, CORRUPT_FILE)


def _read(run_file: Path) -> RunDocument:
    advice = "start over with --fresh, which overwrites the run's files, or choose another folder"
    try:
        document = json.loads(run_file.read_bytes())
    except ValueError as error:
        raise StorageError(f"{run_file} is damaged ({error}): {advice}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise StorageError(f"{run_file} has schema {version}, this edgekd reads up to {SCHEMA_VERSION}: {advice}")
    try:
        return validated(RunDocument, document, str(run_file))
    except ConfigError as error:
        raise StorageError(f"{run_file} is damaged: {advice}\n{error}") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / _LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunLocked(f"{folder} is in use by {_holder(folder)}: wait for it or choose another folder") from error
    except OSError as error:
        raise StorageError(f"cannot lock the run folder {folder}: {error.strerror}") from error
    try:
        write_json(folder / _HOLDER_FILE, {"pid": os.getpid(), "host": socket.gethostname(), "since": utc_now()})
        yield
    finally:
        lock.release()


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / _HOLDER_FILE).read_bytes())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _key(name: str, inputs: Mapping[str, Any]) -> str:
    facts = _without_paths(_plain(f"the inputs of stage {name!r}", inputs))
    return sha256_of_json({"schema_version": SCHEMA_VERSION, "stage": name, "inputs": facts})


def _plain(what: str, value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be plain JSON data: {error}") from error


def _is_file_ref(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() >= _FILE_REF_KEYS and isinstance(value["path"], str)


def _only_file_ref(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value[key] for key in _FILE_REF_KEYS}


def _file_refs(value: Any) -> Iterator[dict[str, Any]]:
    if _is_file_ref(value):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _file_refs(item)


def _moved(value: Any, move: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return [_moved(item, move) for item in value]
    if not isinstance(value, dict):
        return value
    copy = {key: _moved(item, move) for key, item in value.items()}
    return {**copy, "path": move(value["path"])} if _is_file_ref(value) else copy


def _without_paths(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    if not isinstance(value, dict):
        return value
    dropped = {"path"} if _is_file_ref(value) else set()
    return {key: _without_paths(item) for key, item in value.items() if key not in dropped}
