"""How long the agent takes to answer, as one zip file, on a bare Python; and how big that file is."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from real_device import template

from edgekd.ship.agent_program import agent_program

_COMMANDS = ("version", "hello", "status", "metrics")


def run(scratch: Path, *, repeats: int = 20) -> dict[str, Any]:
    """Measure it.

    Args:
        scratch: Folder for the device.
        repeats: Starts of each command.

    Returns:
        Plain figures: medians and the slowest of all.
    """
    program = agent_program()
    path = scratch / "edgekd-agent.pyz"
    path.write_bytes(program.content)
    root = template(scratch).root
    figures: dict[str, Any] = {"size_bytes": len(program.content), "python": sys.version.split()[0]}
    for name in _COMMANDS:
        spent, worked = [], []
        for _ in range(repeats):
            began, before = time.perf_counter(), _cpu_s()
            words = [sys.executable, "-I", "-S", str(path), "--root", str(root), name]
            subprocess.run(words, check=True, capture_output=True)
            spent.append(time.perf_counter() - began)
            worked.append(_cpu_s() - before)
        figures[name] = {
            "p50_s": round(statistics.median(spent), 3),
            "max_s": round(max(spent), 3),
            "cpu_p50_s": round(statistics.median(worked), 3),
        }
    figures["load_average"] = round(os.getloadavg()[0], 1)
    return figures


def _cpu_s() -> float:
    """Return the time that ended children worked: what a start takes on a machine that does nothing else."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
