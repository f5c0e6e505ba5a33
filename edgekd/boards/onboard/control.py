"""Start, watch and cancel jobs: what the verbs do for a host that may be gone a moment later."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict

from . import process
from .facts import boot_id
from .place import FINAL, Refusal, Store, is_intact, lock, read_json, tail, write_bytes, write_json
from .work import CANCEL, logs_of, require_job

_START_S = 15.0
_CANCEL_S = 15.0
_LOOK_S = 0.2


def start(store: Store, digest: str, description: bytes, *, program: str) -> Dict[str, Any]:
    """Start a job, join it when it runs or is done, or start it anew when it failed.

    Args:
        store: Where jobs are kept.
        digest: SHA-256 of its description.
        description: The JSON of `job.json`.
        program: Path of this zip file.

    Returns:
        What `status` says.

    Raises:
        Refusal: The description is damaged, or a file of the job has not arrived.
    """
    if hashlib.sha256(description).hexdigest() != digest:
        raise Refusal("digest", "the description of the job was damaged on its way")
    folder = store.job(digest)
    now = status(store, digest)
    if now["is_alive"] or now["status"] == "done":
        return now
    _lay_out(store, folder, description)
    process.kill_left_over(now.get("child"))
    store.prune(digest)
    if (folder / CANCEL).exists():
        (folder / CANCEL).unlink()
    with open(str(folder / "runner.log"), "ab") as log:
        subprocess.Popen(
            [sys.executable, program, str(store.root), "work", digest],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    return _wait_for_runner(store, digest, int(now.get("attempt", 0)))


def status(store: Store, digest: str) -> Dict[str, Any]:
    """Return the state of a job, with `is_alive`, `is_rebooted` and the end of its log.

    A job that neither runs nor came to an end is `lost`: its runner was killed, or the board started anew.
    """
    folder = store.job(digest)
    state = read_json(folder / "state.json")
    if state is None:
        return {"status": "absent", "is_alive": _is_alive(folder)}
    is_alive = _is_alive(folder)
    if not is_alive:
        state = read_json(folder / "state.json") or state
    is_rebooted = state["boot_id"] != boot_id(store.root)
    is_lost = not is_alive and state["status"] not in FINAL
    lost = {"was": state["status"], "status": "lost"} if is_lost else {}
    name = state["step"]
    log = tail(folder / "log" / (name + ".log")) if name else ""
    return {
        **state, **lost, "is_alive": is_alive, "is_rebooted": is_rebooted, "log_tail": log, "logs": logs_of(folder),
        "now_s": time.time(), "runner_tail": tail(folder / "runner.log"),
    }  # fmt: skip


def wait(store: Store, digest: str, updated_s: float, timeout_s: float) -> Dict[str, Any]:
    """Return the status once it differs from the one of `updated_s`, or after `timeout_s`.

    One sleeping process disturbs a measurement less than a new one at every look.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        state = read_json(store.job(digest) / "state.json")
        if state is None or state["status"] in FINAL or state["updated_s"] != updated_s:
            break
        if process.start_ticks(state["pid"]) is None:
            break
        time.sleep(_LOOK_S)
    return status(store, digest)


def cancel(store: Store, digest: str) -> Dict[str, Any]:
    """End a job and everything it started: asked first, killed if it does not listen."""
    folder = store.job(digest)
    require_job(folder)
    write_bytes(folder / CANCEL, b"")
    now = status(store, digest)
    if now["is_alive"] and "pid" in now:
        _signal(now["pid"], signal.SIGTERM)
        if not process.wait_until_gone(now["pid"], _CANCEL_S):
            _signal(now["pid"], signal.SIGKILL)
            process.wait_until_gone(now["pid"], _CANCEL_S)
    state = read_json(folder / "state.json")
    if state is not None and state["status"] not in FINAL:
        process.kill_left_over(state.get("child"))
        reason = {"kind": "cancelled", "message": "it was cancelled"}
        write_json(folder / "state.json", {**state, "status": "cancelled", "reason": reason, "child": None})
    return status(store, digest)


def _lay_out(store: Store, folder: Path, description: bytes) -> None:
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    for entry in json.loads(description)["files"]:
        blob, path = store.blob(entry["sha256"]), files / Path(entry["name"]).name
        if is_intact(path, entry):
            continue
        if not blob.is_file():
            raise Refusal("missing", "%s has not arrived" % entry["name"])
        if not is_intact(blob, entry):
            blob.unlink()
            raise Refusal("missing", "%s was damaged on this board" % entry["name"])
        if path.exists():
            path.unlink()
        os.link(str(blob), str(path))
    write_bytes(folder / "job.json", description)


def _wait_for_runner(store: Store, digest: str, attempts_before: int) -> Dict[str, Any]:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        now = status(store, digest)
        if now.get("attempt", 0) > attempts_before:
            return now
        time.sleep(0.05)
    log = tail(store.job(digest) / "runner.log")
    raise Refusal("runner", "the runner did not start: %s" % (log or "no reason given"))


def _is_alive(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    holding = lock(folder / "run.lock")
    if holding is None:
        return True
    holding.close()
    return False


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
