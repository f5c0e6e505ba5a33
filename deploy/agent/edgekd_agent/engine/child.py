"""Runs a part of the agent in a child that cannot take the device down: limits, a deadline, a log, one at a time.

Whatever becomes of the child is a result. It dies with the agent, and so do the programs that it started.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

import edgekd_agent
from edgekd_agent import documents, durable

_POLL_S = 0.02
_GRACE_S = 2.0
_TAIL_BYTES = 4096
_MAX_FILE_BYTES = 8 << 30
_MIB = 1 << 20
_OUT_OF_MEMORY = ("out of memory", "OutOfMemory", "std::bad_alloc", "Cannot allocate memory", "MemoryError")
JOB, RESULT = "job.json", "result.json"

# Asks the kernel to kill this process when the agent dies (PR_SET_PDEATHSIG), limits itself, then does its part.
_PRELUDE = """\
import ctypes, os, resource, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]): sys.exit(1)
os.nice(int(sys.argv[4]))
for name, most in zip(("CORE", "FSIZE", "DATA"), sys.argv[5].split(",")):
    if most: resource.setrlimit(getattr(resource, "RLIMIT_" + name), (int(most), int(most)))
sys.path.insert(0, sys.argv[2])
from edgekd_agent.engine.part import main
sys.exit(main(sys.argv[3]))
"""

Ending = Literal["done", "crash", "out_of_memory", "timeout", "refused"]


@dataclass(frozen=True)
class Limits:
    """What a child may use.

    Attributes:
        timeout_s: Wall-clock time.
        memory_bytes: Resident memory, watched; None for no limit.
        nice: How much it stands back for others.
        data_bytes: Memory it may reserve for data, enforced by the kernel; None where a driver maps more than it uses.
    """

    timeout_s: float
    memory_bytes: int | None = None
    nice: int = 0
    data_bytes: int | None = None


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        ending: `"done"`: it has a result. `"refused"`: it says why not. The others: it was ended.
        message: What happened, for people; empty when it is done.
        kind: Kind of refusal the child gave; empty when it gave none.
        result: What it found; empty unless it is done.
        seconds: How long it ran.
        peak_memory_bytes: Most resident memory seen.
        log: End of its output.
    """

    ending: Ending
    message: str
    kind: str
    result: Mapping[str, Any]
    seconds: float
    peak_memory_bytes: int
    log: str


def run(part: str, job: Mapping[str, Any], *, folder: Path, log: Path, limits: Limits) -> Ended:
    """Run `edgekd_agent.engine.part` with a job, in a working folder made for it and removed before the next one.

    Args:
        part: `"build"` or `"check"`.
        job: Plain data it gets as `job.json`.
        folder: Its working folder; what it leaves there is the caller's until the next run.
        log: Its output goes there.
        limits: What it may use.

    Returns:
        How it ended.

    Raises:
        OSError: The disk refused, or no process could be started.
    """
    durable.remove_tree(folder)
    durable.mkdir(folder)
    durable.make_folder_lightly(log.parent)
    documents.write_lightly(folder / JOB, {"part": part, **job})
    began = time.monotonic()
    with open(durable.open_append(log), "ab") as stream:
        child = _start(folder, stream, limits)
        try:
            watched = _watch(child, began + limits.timeout_s, limits.memory_bytes)
        finally:
            _end(child)
    document, tail = documents.read(folder / RESULT) or {}, log_tail(log)
    found = replace(watched, code=child.returncode, document=document, tail=tail)
    ending, message = _verdict(part, found, limits)
    result = dict(document["result"]) if ending == "done" else {}
    peak = max(watched.peak_bytes, int(result.get("peak_memory_bytes", 0)))
    kind = str(document.get("kind", "")) if ending == "refused" else ""
    return Ended(ending, message, kind, result, round(time.monotonic() - began, 3), peak, tail)


def program_path() -> Path:
    """Return what a Python must have in its path to import this agent: a folder, or the zip file it is in."""
    return Path(edgekd_agent.__file__).absolute().parents[1]


def _start(folder: Path, log: IO[bytes], limits: Limits) -> subprocess.Popen[bytes]:
    most = f"0,{_MAX_FILE_BYTES},{limits.data_bytes or ''}"
    words = [str(os.getpid()), str(program_path()), str(folder), str(limits.nice), most]
    arguments = [sys.executable, "-c", _PRELUDE, *words]
    return subprocess.Popen(
        [*_scope(limits), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=folder,
        start_new_session=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )


def _scope(limits: Limits) -> list[str]:
    """Return the words that put a child into a cgroup of its own, where there is a systemd that may be asked."""
    systemd_run = shutil.which("systemd-run")
    if systemd_run is None or os.geteuid() != 0 or not Path("/run/systemd/system").is_dir():
        return []
    if limits.memory_bytes is None:
        return [systemd_run, "--scope", "--quiet", "--collect", "--"]
    ceiling = [f"--property=MemoryMax={limits.memory_bytes}", "--property=MemorySwapMax=0"]
    return [systemd_run, "--scope", "--quiet", "--collect", *ceiling, "--"]


@dataclass(frozen=True)
class _Watched:
    peak_bytes: int
    is_late: bool = False
    is_too_big: bool = False
    code: int = 0
    document: Mapping[str, Any] = field(default_factory=dict)
    tail: str = ""


def _watch(child: subprocess.Popen[bytes], deadline: float, memory_bytes: int | None) -> _Watched:
    """Wait until a child ends, or until it has to be ended."""
    peak = 0
    while child.poll() is None:
        peak = max(peak, _peak_bytes(child.pid))
        if memory_bytes is not None and peak > memory_bytes:
            return _Watched(peak, is_too_big=True)
        if time.monotonic() > deadline:
            return _Watched(peak, is_late=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_POLL_S)
    return _Watched(peak)


def _peak_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)
    return 1024 * int(found.group(1)) if found else 0


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        _signal_group(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_S)
    _signal_group(child.pid, signal.SIGKILL)
    child.wait()


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _verdict(part: str, found: _Watched, limits: Limits) -> tuple[Ending, str]:
    said = str(found.document.get("refusal", ""))
    if found.is_late:
        return "timeout", f"the {part} took longer than {limits.timeout_s:g} s and was stopped"
    if found.code == 0 and isinstance(found.document.get("result"), dict) and not found.is_too_big:
        return "done", ""
    seen = f"{found.peak_bytes // _MIB} MiB seen"
    if found.is_too_big or any(words in found.tail + said for words in _OUT_OF_MEMORY):
        return "out_of_memory", f"the {part} ran out of memory ({seen}){': ' + said if said else ''}"
    if said:
        return "refused", said
    if found.code == -signal.SIGKILL:
        return "out_of_memory", f"the {part} was killed, most likely by the kernel for lack of memory ({seen})"
    how = signal.Signals(-found.code).name if found.code < 0 else f"exit status {found.code}"
    return "crash", f"the {part} ended with {how}"


def log_tail(path: Path) -> str:
    """Return the end of a log."""
    try:
        with open(path, "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - _TAIL_BYTES))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""


def write_result(folder: Path, document: Mapping[str, Any]) -> None:
    """Leave what a child found; called in the child."""
    content = json.dumps(document, allow_nan=False, sort_keys=True).encode()
    durable.replace_lightly(folder / RESULT, content)
