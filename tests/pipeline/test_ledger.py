"""The ledger skips exactly what still holds, survives being killed, and refuses what it cannot trust."""

import dataclasses
import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekd.core.artifacts import FileRef
from edgekd.core.errors import RunLocked, StorageError
from edgekd.core.events import Event
from edgekd.pipeline.event_log import read_log
from edgekd.pipeline.ledger import Ledger

TIMEOUT_S = 30


class Work:
    """A stage that writes one file and counts how often it ran."""

    def __init__(self, folder: Path, content: bytes = b"weights") -> None:
        self.file = folder / "teacher" / "w.safetensors"
        self.content = content
        self.runs = 0

    def __call__(self) -> dict:
        self.runs += 1
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_bytes(self.content)
        return {"accuracy": 0.5, "models": [{"weights": dataclasses.asdict(FileRef.of(self.file))}]}


def run_once(folder: Path, work: Work, inputs: dict | None = None) -> dict:
    with Ledger.open(folder) as ledger:
        return ledger.stage("teacher", {"seed": 1} if inputs is None else inputs, work)


def test_stage_is_kept_when_inputs_and_files_are_the_same(tmp_path):
    work = Work(tmp_path / "run")
    first = run_once(tmp_path / "run", work)
    second = run_once(tmp_path / "run", work)
    assert work.runs == 1
    assert first == second
    assert first["models"][0]["weights"] == {
        "path": str(work.file.resolve()),
        "sha256": hashlib.sha256(b"weights").hexdigest(),
        "size_bytes": 7,
    }


@pytest.mark.parametrize("inputs", [{"seed": 2}, {"seed": 1, "lr": 0.1}, {}, {"seed": "1"}])
def test_stage_runs_again_when_inputs_change(tmp_path, inputs):
    work = Work(tmp_path / "run")
    run_once(tmp_path / "run", work)
    run_once(tmp_path / "run", work, inputs)
    assert work.runs == 2


def test_stage_runs_under_another_name(tmp_path):
    work = Work(tmp_path / "run")
    run_once(tmp_path / "run", work)
    with Ledger.open(tmp_path / "run") as ledger:
        ledger.stage("student", {"seed": 1}, work)
    assert work.runs == 2


@pytest.mark.parametrize(
    "spoil", [Path.unlink, lambda file: file.write_bytes(b"WEIGHTS"), lambda file: file.write_bytes(b"")]
)
def test_stage_runs_again_when_a_file_is_gone_or_altered(tmp_path, spoil):
    work = Work(tmp_path / "run")
    run_once(tmp_path / "run", work)
    spoil(work.file)
    events = []
    with Ledger.open(tmp_path / "run", listen=events.append) as ledger:
        ledger.stage("teacher", {"seed": 1}, work)
    assert work.runs == 2
    assert events[0].message == "teacher/w.safetensors is missing or altered"
    assert work.file.read_bytes() == b"weights"


def test_stage_changing_back_to_earlier_inputs_runs_again_when_its_files_were_overwritten(tmp_path):
    first, second = Work(tmp_path / "run", b"one"), Work(tmp_path / "run", b"two")
    run_once(tmp_path / "run", first, {"seed": 1})
    run_once(tmp_path / "run", second, {"seed": 2})
    run_once(tmp_path / "run", first, {"seed": 1})
    assert (first.runs, second.runs) == (2, 1)
    assert first.file.read_bytes() == b"one"


def test_path_that_is_no_file_reference_is_an_input_like_any_other(tmp_path):
    work = Work(tmp_path / "run")
    run_once(tmp_path / "run", work, {"data": {"name": "folder", "path": "/a"}})
    run_once(tmp_path / "run", work, {"data": {"name": "folder", "path": "/b"}})
    assert work.runs == 2


def test_stages_with_the_same_inputs_have_different_keys(tmp_path):
    with Ledger.open(tmp_path / "run") as ledger:
        for name in ("a", "b"):
            ledger.stage(name, {"seed": 1}, lambda: {})
    stages = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    assert stages["a"]["key"] != stages["b"]["key"]


def test_inputs_that_mean_the_same_have_the_same_key(tmp_path):
    work = Work(tmp_path / "run")
    run_once(tmp_path / "run", work, {"a": (1, 2), "b": {"x": 1, "y": 2}})
    run_once(tmp_path / "run", work, {"b": {"y": 2, "x": 1}, "a": [1, 2]})
    assert work.runs == 1


def test_moved_run_folder_re_runs_nothing_and_hands_out_the_new_paths(tmp_path):
    work = Work(tmp_path / "old")
    other_runs = []

    def student(ledger: Ledger) -> dict:
        teacher = ledger.stage("teacher", {"seed": 1}, work)
        return ledger.stage("student", {"teacher": teacher}, lambda: other_runs.append(1) or {"done": True})

    with Ledger.open(tmp_path / "old") as ledger:
        student(ledger)
    (tmp_path / "old").rename(tmp_path / "new")
    with Ledger.open(tmp_path / "new") as ledger:
        student(ledger)
        moved = ledger.stage("teacher", {"seed": 1}, work)
    assert (work.runs, len(other_runs)) == (1, 1)
    assert moved["models"][0]["weights"]["path"] == str((tmp_path / "new" / "teacher" / "w.safetensors").resolve())


def test_run_json_names_files_relative_to_the_run_folder_and_others_absolutely(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outside = tmp_path / "outside.bin"
    outside.write_bytes(b"o")

    def work() -> dict:
        Path("run/inside.bin").write_bytes(b"i")
        return {"files": [dataclasses.asdict(FileRef.of(Path(name))) for name in ("run/inside.bin", "outside.bin")]}

    with Ledger.open(Path("run")) as ledger:
        ledger.stage("s", {}, work)
    document = json.loads(Path("run/run.json").read_text())
    record = document["stages"]["s"]
    assert document["schema_version"] == 1
    assert set(record) == {"key", "status", "started", "seconds", "result", "files"}
    assert record["status"] == "done"
    assert record["files"] == ["inside.bin", str(outside.resolve())]


def test_first_result_equals_the_kept_one_with_keys_in_order(tmp_path):
    with Ledger.open(tmp_path / "run") as ledger:
        first = ledger.stage("s", {}, lambda: {"z": (1, 2), "a": None})
        second = ledger.stage("s", {}, lambda: {})
    assert first == second == {"z": [1, 2], "a": None}
    assert list(first) == list(second) == ["z", "a"]


def test_failed_stage_leaves_the_earlier_record_and_no_new_one(tmp_path):
    work = Work(tmp_path / "run")
    run_once(tmp_path / "run", work)
    before = (tmp_path / "run" / "run.json").read_bytes()

    def fail() -> dict:
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"), Ledger.open(tmp_path / "run") as ledger:
        ledger.stage("student", {}, fail)
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    with Ledger.open(tmp_path / "run") as ledger:
        assert ledger.stage("student", {}, lambda: {"ok": 1}) == {"ok": 1}


@pytest.mark.parametrize("bad", [{"x": math.nan}, {"x": object()}, {"x": {1, 2}}])
def test_stage_refuses_what_is_not_plain_json(tmp_path, bad):
    with Ledger.open(tmp_path / "run") as ledger:
        with pytest.raises(ValueError, match="inputs of stage 's' must be plain JSON"):
            ledger.stage("s", bad, lambda: {})
        with pytest.raises(ValueError, match="result of stage 's' must be plain JSON"):
            ledger.stage("s", {}, lambda: bad)
        assert ledger.stage("s", {}, lambda: {"ran": True}) == {"ran": True}


def test_events_tell_start_end_and_kept(tmp_path):
    events: list[Event] = []
    for _ in range(2):
        with Ledger.open(tmp_path / "run", listen=events.append) as ledger:
            ledger.stage("s", {}, lambda: {})
    assert [(event.kind, event.stage) for event in events] == [("start", "s"), ("end", "s"), ("note", "s")]
    assert events[1].values["seconds"] >= 0


def test_open_ledger_also_writes_its_events_to_the_log_of_the_run(tmp_path):
    for _ in range(2):
        with Ledger.open(tmp_path / "run") as ledger:
            ledger.stage("s", {}, lambda: {})
            ledger.listen(Event("note", "target", "a board"))
    kinds = [(entry.event.kind, entry.event.stage) for entry in read_log(tmp_path / "run" / "log.jsonl")]
    assert kinds == [("start", "s"), ("end", "s"), ("note", "target"), ("note", "s"), ("note", "target")]


VICTIM = """
import sys, time
from pathlib import Path
from edgekd.core.artifacts import FileRef
from edgekd.pipeline.ledger import Ledger
import dataclasses
folder, log, patience = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

def stage(name, seconds):
    def work():
        with open(log, "a") as stream:
            stream.write(name + "\\n")
        file = folder / (name + ".bin")
        file.write_bytes(name.encode() * 1000)
        time.sleep(seconds)
        return {"file": dataclasses.asdict(FileRef.of(file))}
    return work

with Ledger.open(folder) as ledger:
    ledger.stage("first", {"n": 1}, stage("first", 0))
    ledger.stage("second", {"n": 2}, stage("second", patience))
    ledger.stage("third", {"n": 3}, stage("third", 0))
"""


def victim(folder: Path, log: Path, patience_s: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", VICTIM, str(folder), str(log), str(patience_s)])


def wait_until(condition) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "the other process never got there"
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_run_loses_only_the_stage_it_was_in(tmp_path, how):
    folder, log = tmp_path / "run", tmp_path / "ran.txt"
    process = victim(folder, log, patience_s=60)
    wait_until(lambda: log.exists() and "second" in log.read_text())
    process.send_signal(how)
    assert process.wait(TIMEOUT_S) != 0
    assert list(json.loads((folder / "run.json").read_text())["stages"]) == ["first"]
    assert victim(folder, log, patience_s=0).wait(TIMEOUT_S) == 0
    assert log.read_text().split() == ["first", "second", "second", "third"]
    assert list(json.loads((folder / "run.json").read_text())["stages"]) == ["first", "second", "third"]


def test_lock_names_folder_and_holder_while_another_process_works_and_vanishes_when_it_is_killed(tmp_path):
    folder, log = tmp_path / "run", tmp_path / "ran.txt"
    process = victim(folder, log, patience_s=60)
    wait_until(lambda: log.exists() and "second" in log.read_text())
    with (
        pytest.raises(RunLocked, match=rf"run is in use by process {process.pid} on {os.uname().nodename}"),
        Ledger.open(folder),
    ):
        pass
    process.kill()
    process.wait(TIMEOUT_S)
    with Ledger.open(folder) as ledger:
        assert ledger.stage("first", {"n": 1}, lambda: {"file": "again"}) != {"file": "again"}


def test_lock_is_exclusive_within_one_process_and_released_after_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="boom"), Ledger.open(tmp_path / "run"):
        with pytest.raises(RunLocked, match=f"process {os.getpid()}"), Ledger.open(tmp_path / "run"):
            pass
        raise RuntimeError("boom")
    with Ledger.open(tmp_path / "run"):
        pass


def test_lock_without_a_readable_holder_still_says_it_is_in_use(tmp_path):
    with Ledger.open(tmp_path / "run"):
        (tmp_path / "run" / ".lock.holder.json").write_text("{")
        with pytest.raises(RunLocked, match="in use by another process"), Ledger.open(tmp_path / "run"):
            pass


def test_fresh_runs_everything_again_and_keeps_the_record_and_the_users_files(tmp_path):
    work = Work(tmp_path / "run")
    run_once(tmp_path / "run", work)
    record = (tmp_path / "run" / "run.json").read_text()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with Ledger.open(tmp_path / "run", fresh=True) as ledger:
        assert work.file.exists()
        ledger.stage("teacher", {"seed": 1}, work)
    assert work.runs == 2
    assert (tmp_path / "run" / "run.previous.json").read_text() == record
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    run_once(tmp_path / "run", work)
    assert work.runs == 2


def test_fresh_begins_a_run_in_a_new_folder(tmp_path):
    with Ledger.open(tmp_path / "run", fresh=True) as ledger:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", ledger.created)


def test_run_killed_between_setting_the_record_aside_and_the_new_one_goes_on(tmp_path):
    run_once(tmp_path / "run", Work(tmp_path / "run"))
    (tmp_path / "run" / "run.json").rename(tmp_path / "run" / "run.previous.json")
    with Ledger.open(tmp_path / "run") as ledger:
        assert ledger.stage("teacher", {"seed": 1}, lambda: {"again": True}) == {"again": True}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "damaged"),
        (b'{"schema_version": 1, "stag', "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[]", "damaged"),
        (b'{"schema_version": 1, "created": "x", "stages": {"a": {"key": "k"}}}', "stages.a.result: missing"),
        (b'{"schema_version": 1, "created": "x", "stages": {}, "extra": 1}', "extra: unknown key"),
        (b'{"schema_version": 2, "created": "x", "stages": {}}', "has schema 2, this edgekd reads up to 1"),
    ],
)
def test_damaged_run_json_is_refused_with_advice_and_fresh_recovers(tmp_path, content, says):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_bytes(content)
    with pytest.raises(StorageError, match="--fresh") as caught, Ledger.open(folder):
        pass
    assert says in str(caught.value)
    assert (folder / "run.json").read_bytes() == content
    with Ledger.open(folder, fresh=True) as ledger:
        ledger.stage("s", {}, lambda: {})
    assert (folder / "run.previous.json").read_bytes() == content


def test_run_json_that_cannot_be_read_is_a_storage_error(tmp_path):
    (tmp_path / "run" / "run.json").mkdir(parents=True)
    with (
        pytest.raises(StorageError, match="cannot open the run folder .*: Is a directory"),
        Ledger.open(tmp_path / "run"),
    ):
        pass


def test_folder_with_other_things_is_refused_untouched(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    for fresh in (False, True):
        with (
            pytest.raises(StorageError, match=r"not empty \(it holds report.html\)"),
            Ledger.open(tmp_path, fresh=fresh),
        ):
            pass
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize("folder", ["/proc/edgekd-run", "/sys/edgekd-run", "/dev/null/run"])
def test_folder_that_cannot_be_made_is_a_storage_error(folder):
    with pytest.raises(StorageError, match=f"cannot make the run folder {folder}"), Ledger.open(Path(folder)):
        pass


def test_read_only_folder_is_a_storage_error():
    with pytest.raises(StorageError, match="cannot lock the run folder /sys/kernel"), Ledger.open(Path("/sys/kernel")):
        pass


FULL_DISK = """
import resource, sys
from pathlib import Path
from edgekd.core.errors import StorageError
from edgekd.pipeline.event_log import EventLog
from edgekd.pipeline.ledger import Ledger
from edgekd.core.events import Event
folder = Path(sys.argv[1])
with Ledger.open(folder) as ledger:
    ledger.stage("small", {}, lambda: {})
    log = EventLog(folder / "log.jsonl")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
    long = "x" * 5000
    log(Event("step", "s", long))
    for attempt in (lambda: ledger.stage("big", {}, lambda: {"text": long}), lambda: log(Event("note", "s", long))):
        try:
            attempt()
        except StorageError as error:
            print(error)
"""


def test_record_that_does_not_fit_on_the_disk_leaves_the_earlier_one(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "run")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.stdout.splitlines() == [
        f"cannot write {tmp_path}/run/run.json: File too large",
        f"cannot write {tmp_path}/run/log.jsonl: No space left on device",
    ]
    assert list(json.loads((tmp_path / "run" / "run.json").read_text())["stages"]) == ["small"]
    assert not list((tmp_path / "run").glob(".*.part"))
    logged = read_log(tmp_path / "run" / "log.jsonl")  # no line is torn, and losses alone stop nothing
    assert [(one.event.kind, one.event.stage) for one in logged] == [
        ("start", "small"),
        ("end", "small"),
        ("start", "big"),
    ]
    with Ledger.open(tmp_path / "run") as ledger:
        assert ledger.stage("small", {}, lambda: {"again": 1}) == {}
