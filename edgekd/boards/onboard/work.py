"""The runner of one job: a process of its own that outlives the connection it was started from.

All it does is in `state.json`, written whole at every change. One job runs on a board at a time, so that measurements
are not disturbed; the others wait as `queued`. A job that was cut off goes on after its last finished step.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
import traceback
from pathlib import Path
from typing import Any, Dict, List, Optional

from . import process
from .facts import boot_id, clocks_mhz, free_bytes, temperatures_c
from .place import Refusal, Store, described, is_intact, lock, read_json, tail, write_bytes, write_json
from .sampling import Watch

_POLL_S = 0.1
_FULL_BYTES = 4 << 20
_LOCK_S = 3.0
_OUT_OF_MEMORY = ("out of memory", "OutOfMemory", "std::bad_alloc", "Cannot allocate memory")
CANCEL = "cancel"


class _Stopped(Exception):
    """The job ends here: a kind for programs, words for people."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def work(store: Store, digest: str) -> int:
    """Run a job to its end, unless another process does so already; returns the exit status."""
    folder = store.job(digest)
    deadline = time.monotonic() + _LOCK_S  # whoever asks for the status holds the lock for a moment
    holding = lock(folder / "run.lock")
    while holding is None:
        if time.monotonic() > deadline:
            return 0
        time.sleep(0.05)
        holding = lock(folder / "run.lock")
    runner = _Runner(store, digest)
    signal.signal(signal.SIGTERM, lambda number, frame: runner.cancelled.set())
    return runner.run()


class _Runner:
    def __init__(self, store: Store, digest: str) -> None:
        self.store, self.root, self.folder = store, store.root, store.job(digest)
        self.out = self.folder / "out"
        self.job: Dict[str, Any] = read_json(self.folder / "job.json") or {}
        self.cancelled = threading.Event()
        before = read_json(self.folder / "state.json") or {}
        self.state: Dict[str, Any] = {
            "schema_version": 1,
            "job": digest,
            "attempt": int(before.get("attempt", 0)) + 1,
            "boot_id": boot_id(self.root),
            "pid": os.getpid(),
            "child": None,
            "step": None,
            "reason": None,
            "started_s": time.time(),
            "steps": before.get("steps", {}),
            "outputs": {},
        }

    def run(self) -> int:
        try:
            self._do_all()
        except _Stopped as stopped:
            status = "cancelled" if stopped.kind == "cancelled" else "failed"
            self._enter(status, reason={"kind": stopped.kind, "message": str(stopped)}, child=None)
            return 1
        except Exception as error:
            why = "%s: %s" % (type(error).__name__, error)
            kind = "disk_full" if isinstance(error, OSError) and free_bytes(self.folder) < _FULL_BYTES else "runner"
            self._enter("failed", reason={"kind": kind, "message": why, "trace": traceback.format_exc()}, child=None)
            return 1
        return 0

    def _do_all(self) -> None:
        self._enter("queued")
        for name in ("out", "log"):
            (self.folder / name).mkdir(exist_ok=True)
        board = self._wait_for_board()
        finished = self.state["steps"].items()
        self.state["steps"] = {name: step for name, step in finished if self._is_still_good(step)}
        for step in self.job["steps"]:
            if step["name"] not in self.state["steps"]:
                self._do(step)
        for name in ("tegrastats.log", "hwmon.csv"):
            self._add_output(name)
        for step in self.state["steps"].values():
            self.state["outputs"].update(step["outputs"])
        self._enter("done", step=None)
        board.close()

    def _wait_for_board(self) -> Any:
        while True:
            holding = lock(self.store.folder / "board.lock")
            if holding is not None:
                return holding
            self._stop_if_cancelled()
            time.sleep(_POLL_S)

    def _do(self, step: Dict[str, Any]) -> None:
        self._enter(step["status"], step=step["name"])
        if step.get("timing_cache"):
            self._take_timing_cache(step["timing_cache"])
        facts = self._execute(step)
        why = self._complaint(step, facts)
        if why is not None and not (step["is_optional"] and why.kind != "cancelled"):
            self.state["steps"][step["name"]] = {**facts, "is_ok": False}
            raise why
        facts["complaint"] = str(why) if why else None
        facts["outputs"] = {name: described(self.out / name) for name in step["outputs"] if (self.out / name).is_file()}
        self.state["steps"][step["name"]] = {**facts, "is_ok": why is None}
        if step.get("timing_cache") and why is None:
            self._keep_timing_cache(step["timing_cache"])

    def _execute(self, step: Dict[str, Any]) -> Dict[str, Any]:
        watch = Watch(self.root, self.out if step["is_watched"] else None, self.job.get("tegrastats"))
        facts: Dict[str, Any] = {"started_s": time.time(), "is_timed_out": False, "outputs": {}}
        facts["clocks_before_mhz"], facts["temperatures_before_c"] = clocks_mhz(self.root), temperatures_c(self.root)
        watch.start()
        try:
            with open(str(self._log(step)), "wb") as log:
                child = process.start(step["argv"], log=log, folder=self.folder)
            self._enter(step["status"], child={"pid": child.pid, "start_ticks": process.start_ticks(child.pid) or 0})
            try:
                facts["is_timed_out"] = not self._wait(child, step["timeout_s"])
            finally:
                process.stop(child)
        finally:
            watch.stop()
        facts["clocks_after_mhz"], facts["temperatures_after_c"] = clocks_mhz(self.root), temperatures_c(self.root)
        code = child.returncode
        facts.update(
            ended_s=time.time(),
            exit_code=code if code >= 0 else None,
            signal=signal.Signals(-code).name if code < 0 else None,
            least_memory_bytes=watch.least_memory_bytes,
            watch=watch.facts,
        )
        return facts

    def _wait(self, child: Any, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                child.wait(_POLL_S)
                return True
            except subprocess.TimeoutExpired:
                self._stop_if_cancelled()
        return False

    def _stop_if_cancelled(self) -> None:
        if self.cancelled.is_set() or (self.folder / CANCEL).exists():
            raise _Stopped("cancelled", "it was cancelled")

    def _complaint(self, step: Dict[str, Any], facts: Dict[str, Any]) -> Optional[_Stopped]:
        """Say what is wrong with a step that has ended; None when it did its work."""
        name, log = step["name"], tail(self._log(step), 200)
        if facts["is_timed_out"]:
            return _Stopped("timeout", "%s took longer than %g s and was stopped" % (name, step["timeout_s"]))
        if facts["exit_code"] != 0:
            how = facts["signal"] or "exit status %d" % facts["exit_code"]
            if "No space left on device" in log or free_bytes(self.folder) < _FULL_BYTES:
                free = free_bytes(self.folder)
                return _Stopped("disk_full", "%s ended with %s: the disk is full (%d bytes free)" % (name, how, free))
            least = facts["least_memory_bytes"]
            if any(words in log for words in _OUT_OF_MEMORY):
                return _Stopped(
                    "out_of_memory", "%s ended with %s: out of memory (%d MiB were left)" % (name, how, least >> 20)
                )
            if facts["signal"] == "SIGKILL":
                words = "%s was killed, most likely by the kernel for lack of memory (%d MiB were left)"
                return _Stopped("out_of_memory", words % (name, least >> 20))
            return _Stopped("crash", "%s ended with %s" % (name, how))
        missing = [item for item in step["required"] if not self._has(item)]
        if missing:
            return _Stopped("no_output", "%s ended well but left no %s" % (name, ", ".join(missing)))
        return None

    def _has(self, name: str) -> bool:
        path = self.out / name
        return path.is_file() and path.stat().st_size > 0

    def _is_still_good(self, step: Dict[str, Any]) -> bool:
        return bool(step.get("is_ok")) and all(
            is_intact(self.out / name, facts) for name, facts in step["outputs"].items()
        )

    def _take_timing_cache(self, key: str) -> None:
        shared = self.store.timing_cache(key)
        if shared.is_file():
            shutil.copyfile(str(shared), str(self.out / "timing.cache"))

    def _keep_timing_cache(self, key: str) -> None:
        if self._has("timing.cache"):
            write_bytes(self.store.timing_cache(key), (self.out / "timing.cache").read_bytes())

    def _add_output(self, name: str) -> None:
        if self._has(name):
            self.state["outputs"][name] = described(self.out / name)

    def _log(self, step: Dict[str, Any]) -> Path:
        return self.folder / "log" / ("%s.log" % step["name"])

    def _enter(self, status: str, **changes: Any) -> None:
        self.state.update(status=status, updated_s=time.time(), **changes)
        write_json(self.folder / "state.json", self.state)


def logs_of(folder: Path) -> List[str]:
    """Return the names of a job's logs."""
    return sorted(path.name for path in (folder / "log").glob("*.log"))


def require_job(folder: Path) -> Dict[str, Any]:
    """Return a job's description; raises `Refusal` when there is none."""
    job = read_json(folder / "job.json")
    if job is None:
        raise Refusal("absent", "there is no such job here")
    return job
