"""The log of a run loses no line that was written, mends what a killed process left, and is readable as JSON."""

import json
import math
import multiprocessing
from pathlib import Path

import pytest

from edgekd.core.errors import StorageError
from edgekd.core.events import Event
from edgekd.pipeline.event_log import EventLog, LoggedEvent, broadcast, read_log

TIMEOUT_S = 30


def test_event_log_gives_back_what_was_logged(tmp_path):
    events = [
        Event("start", "a", "müßig\nzweite Zeile"),
        Event("progress", "a", done=1, total=2, values={"loss": 0.25, "bad": math.inf}),
        Event("end", "a", values={"loss": math.nan}),
    ]
    log = EventLog(tmp_path / "log.jsonl")
    for event in events:
        log(event)
    logged = read_log(tmp_path / "log.jsonl")
    assert [entry.event for entry in logged[:2]] == events[:2]
    assert math.isnan(logged[2].event.values["loss"])
    assert [entry.time for entry in logged] == sorted(entry.time for entry in logged)
    for line in (tmp_path / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize("torn", [b'{"time": "2026', b"\xc3", b"{}"])
def test_event_log_ignores_and_mends_half_a_last_line(tmp_path, torn):
    path = tmp_path / "log.jsonl"
    EventLog(path)(Event("note", "one"))
    with path.open("ab") as stream:
        stream.write(torn)
    assert [entry.event.stage for entry in read_log(path)] == ["one"]
    EventLog(path)(Event("note", "two"))
    assert [entry.event.stage for entry in read_log(path)] == ["one", "two"]


def test_event_log_begun_with_half_a_line_only_is_empty(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b"half")
    EventLog(tmp_path / "log.jsonl")
    assert read_log(tmp_path / "log.jsonl") == []


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", '{"time": "t"}', '{"time": "t", "kind": "note", "values": {}, "stage": "s", "x": 1}']
)
def test_event_log_names_a_damaged_line(tmp_path, line):
    path = tmp_path / "log.jsonl"
    EventLog(path)(Event("note", "one"))
    with path.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(StorageError, match=r"log.jsonl line 2 is damaged"):
        read_log(path)


def test_log_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "log.jsonl").touch()
    log = EventLog(tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(StorageError, match=r"cannot write .*log.jsonl: Is a directory"):
        log(Event("note", "s"))


def test_event_log_that_cannot_be_reached_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="cannot write"):
        EventLog(tmp_path / "absent" / "log.jsonl")
    with pytest.raises(StorageError, match="cannot read"):
        read_log(tmp_path / "absent.jsonl")


def _log_many(path: Path, name: str) -> None:
    log = EventLog(path)
    for step in range(200):
        log(Event("progress", name, "x" * 300, done=step))


def test_events_of_two_processes_never_mix_within_a_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.touch()
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_log_many, args=(path, name)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(TIMEOUT_S)
    entries: list[LoggedEvent] = read_log(path)
    for name in ("a", "b"):
        assert [entry.event.done for entry in entries if entry.event.stage == name] == list(range(200))


def test_broadcast_tells_every_listener_in_order():
    heard = []
    broadcast(lambda event: heard.append(("one", event.kind)), lambda event: heard.append(("two", event.kind)))(
        Event("note", "s")
    )
    assert heard == [("one", "note"), ("two", "note")]
