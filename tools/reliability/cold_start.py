"""How long the agent takes to answer, as one zip file, on a bare Python; and how big that file is."""

from __future__ import annotations

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
        spent = []
        for _ in range(repeats):
            began = time.perf_counter()
            words = [sys.executable, "-I", "-S", str(path), "--root", str(root), name]
            subprocess.run(words, check=True, capture_output=True)
            spent.append(time.perf_counter() - began)
        figures[name] = {"p50_s": round(statistics.median(spent), 3), "max_s": round(max(spent), 3)}
    return figures
