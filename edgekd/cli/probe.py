"""Try something in a separate Python, so that a package which crashes or hangs on import cannot take edgekd with it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Probe:
    """What a separate Python said.

    Attributes:
        is_ok: It ended well.
        text: The last line it printed, or of its error.
    """

    is_ok: bool
    text: str


def probe(code: str, *, timeout_s: float = 120.0) -> Probe:
    """Run Python code in a new process with the same interpreter and environment.

    Args:
        code: The code; what it prints last is its answer.
        timeout_s: Seconds it may take.

    Returns:
        The answer, or why there is none.
    """
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, errors="replace")
    except subprocess.TimeoutExpired:
        return Probe(False, f"no answer within {timeout_s:g} s")
    if done.returncode < 0:
        return Probe(False, f"killed by signal {-done.returncode}")
    return Probe(done.returncode == 0, _last_line(done.stdout if done.returncode == 0 else done.stderr))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
