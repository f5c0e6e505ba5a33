"""Programs that a job starts: each in a process group of its own, none outliving the job."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, Dict, List, Optional

_GRACE_S = 5.0

# Becomes the program after asking the kernel to kill it (PR_SET_PDEATHSIG) when the process that started it dies.
_PRELUDE = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]): sys.exit(1)
try: os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error: sys.exit("cannot start %s: %s" % (sys.argv[2], error.strerror))
"""


def start(arguments: List[str], *, log: BinaryIO, folder: Path) -> Any:
    """Start a program that dies with this process; its output goes to `log`."""
    return subprocess.Popen(
        [sys.executable, "-c", _PRELUDE, str(os.getpid()), *arguments],
        stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=str(folder), start_new_session=True,
    )  # fmt: skip


def stop(process: Any) -> None:
    """End a program and all that it started: asked first, then killed."""
    _signal_group(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def start_ticks(pid: int) -> Optional[int]:
    """Return when a process started, which tells it from a later one with its number; None when there is none."""
    try:
        text = Path("/proc/%d/stat" % pid).read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] == "Z" else int(fields[19])


def kill_left_over(child: Optional[Dict[str, int]]) -> None:
    """Kill the group of a program whose job died, unless its number belongs to another process by now."""
    if child is not None and start_ticks(child["pid"]) in (None, child["start_ticks"]):
        _signal_group(child["pid"], signal.SIGKILL)


def wait_until_gone(pid: int, timeout_s: float) -> bool:
    """Wait for a process that is not ours to end; say whether it did."""
    deadline = time.monotonic() + timeout_s
    while start_ticks(pid) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return
