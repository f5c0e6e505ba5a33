"""SIGKILL at every system call of a whole install that touches the disk, by strace; then the next run must converge.

strace counts each system call by itself, so every occurrence of every call is one point: the process is killed as it
enters it. Of opening and closing, only what concerns the device's folder counts; all else only reads Python's library.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from real_device import Template, agent, status, template, what_runs

CALLS = (
    "openat",
    "write",
    "copy_file_range",
    "fsync",
    "close",
    "rename",
    "symlink",
    "unlink",
    "mkdir",
    "rmdir",
    "chmod",
    "flock",
    "vfork",
    "clone3",
)
_CALL = re.compile(r"^(\w+)\((\d*)")
_RESULT = re.compile(r"= (\d+)$")


@dataclass(frozen=True)
class Point:
    """Where a process is killed.

    Attributes:
        call: The system call.
        occurrence: Which one of them, from 1.
    """

    call: str
    occurrence: int


@dataclass
class Result:
    """What became of a device.

    Attributes:
        point: Where it was killed.
        state: What the agent said afterwards.
        failures: What was wrong.
        recovery_s: How long the next install took.
    """

    point: Point
    state: str = ""
    failures: list[str] = field(default_factory=list)
    recovery_s: float = 0.0


def points(device: Template, scratch: Path, words: tuple[str, ...] = ("install",)) -> list[Point]:
    """Return every point of a whole command, in the order of a run."""
    root = device.copy(scratch / "counted")
    log = scratch / "strace.log"
    done = agent(root, *words, before=("strace", "-o", str(log), "-e", f"trace={','.join(CALLS)}"))
    if done.returncode:
        raise RuntimeError(f"the counted run failed: {done.stderr}")
    seen: dict[str, int] = {}
    found = []
    ours: set[str] = set()
    for line in log.read_text(errors="replace").splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        call, descriptor = match.groups()
        seen[call] = seen.get(call, 0) + 1
        is_ours = str(root) in line or descriptor in ours or (bool(ours or found) and call not in ("openat", "close"))
        if call == "openat" and is_ours and (opened := _RESULT.search(line)):
            ours.add(opened.group(1))
        if call == "close":
            ours.discard(descriptor)
        if is_ours:
            found.append(Point(call, seen[call]))
    shutil.rmtree(root)
    return found


def kill_at(device: Template, point: Point, scratch: Path, words: tuple[str, ...] = ("install",)) -> Result:
    """Kill one run, judge what is there, run again, judge again."""
    result = Result(point)
    root = device.copy(scratch / f"{point.call}-{point.occurrence}")
    inject = f"inject={point.call}:signal=KILL:when={point.occurrence}"
    agent(root, *words, before=("strace", "-o", "/dev/null", "-e", f"trace={point.call}", "-e", inject))
    runs = _runs(root, result, "after the kill")
    if runs not in (device.before.sha256, device.wanted.sha256, None):
        result.failures.append(f"after the kill an unknown bundle runs: {runs}")
    result.state = status(root)["state"]
    device.push(root)
    began = time.monotonic()
    again = agent(root, *words, "--json")
    result.recovery_s = time.monotonic() - began
    if again.returncode:
        result.failures.append(f"the next run ended with {again.returncode}: {again.stderr.strip()}")
    if _runs(root, result, "after the next run") != device.wanted.sha256:
        result.failures.append("the next run did not converge")
    if (last := status(root))["state"] != "idle":
        result.failures.append(f"the device is {last['state']} in the end")
    shutil.rmtree(root, ignore_errors=True)
    return result


def _runs(root: Path, result: Result, when: str) -> str | None:
    try:
        return what_runs(root)
    except ValueError as error:
        result.failures.append(f"{when}: {error}")
        return None


def run(scratch: Path, *, every: int = 1, jobs: int = 2) -> dict[str, Any]:
    """Kill an install at every point.

    Args:
        scratch: Folder for the devices.
        every: Take every so-many-th point.
        jobs: Devices at a time.

    Returns:
        Plain figures.
    """
    device = template(scratch)
    chosen = points(device, scratch)[::every]
    with ThreadPoolExecutor(jobs) as pool:
        results = list(_progress(pool.map(lambda point: kill_at(device, point, scratch), chosen), len(chosen)))
    states: dict[str, int] = {}
    for result in results:
        states[result.state] = states.get(result.state, 0) + 1
    times = sorted(result.recovery_s for result in results)
    return {
        "points": len(results),
        "states": states,
        "failures": [f"{item.point}: {text}" for item in results for text in item.failures],
        "recovery_p50_s": round(statistics.median(times), 2),
        "recovery_p99_s": round(times[min(len(times) - 1, int(0.99 * len(times)))], 2),
    }


def _progress(results: Iterator[Result], count: int) -> Iterator[Result]:
    for number, result in enumerate(results, 1):
        if number % 50 == 0 or result.failures:
            print(f"{number} of {count}: {result.point} {result.state} {result.failures}", flush=True)
        yield result


if __name__ == "__main__":
    import json
    import tempfile

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        print(json.dumps(run(folder), indent=2))
