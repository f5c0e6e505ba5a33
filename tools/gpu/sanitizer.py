"""compute-sanitizer over every kernel of the fused losses, on small tensors, in several processes at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECKS = ("memcheck", "racecheck")
"""Reads and writes out of bounds; two threads at one place of shared memory."""
_BENCHMARK = ROOT / "tools" / "bench" / "kernels.py"


def check(sanitizer: str, name: str, logs: Path, *, shares: int, device: str, limit_s: float) -> dict[str, int]:
    """Run all losses once in every implementation under one of the sanitizer's tools.

    Args:
        sanitizer: Path of compute-sanitizer.
        name: One of `CHECKS`.
        logs: Folder for what it and the processes say.
        shares: Processes.
        device: `"cuda"`, or `"cpu"` for a trial.
        limit_s: All processes together.

    Returns:
        What `findings` counts, and how many processes `failed`.

    Raises:
        TimeoutError: They were not ready in time; all have been stopped.
    """
    logs.mkdir(parents=True, exist_ok=True)
    # Errors of the CUDA programming interface are what libraries cause on purpose, asking an older driver what it has.
    tool = [sanitizer, "--tool", name, "--report-api-errors", "no", "--target-processes", "all"]
    program = [sys.executable, str(_BENCHMARK), "--table", "small", "--compile", "no", "--device", device]
    program += ["--commit", "none"]
    commands = {
        logs / f"{name}-{share}.log": [
            *tool, "--log-file", str(logs / f"{name}-{share}.log"), *program, "--compile-share", f"{share}/{shares}",
        ]
        for share in range(shares)
    }  # fmt: skip
    codes = _all_of(commands, limit_s)
    texts = [log.read_text(encoding="utf-8", errors="replace") if log.exists() else "" for log in commands]
    return findings(texts) | {"failed": sum(code != 0 for code in codes)}


def findings(logs: Sequence[str]) -> dict[str, int]:
    """Return how many processes the sanitizer watched to their end and how many errors and warnings it saw in them.

    Args:
        logs: Its text for each process.
    """
    summaries = [re.search(r"ERROR SUMMARY: (\d+) errors?|\((\d+) errors?, (\d+) warnings?\)", text) for text in logs]
    counts = [sum(int(count) for count in summary.groups() if count) for summary in summaries if summary]
    return {"processes": len(counts), "errors": sum(counts)}


def _all_of(commands: Mapping[Path, Sequence[str]], limit_s: float) -> list[int]:
    """Run commands at once; their output lies beside their logs."""
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "OMP_NUM_THREADS": "1"}
    stop_at = time.monotonic() + limit_s  # without a cache of memory each tensor's bounds are known
    running = []
    try:
        for log, command in commands.items():
            with log.with_suffix(".out").open("wb") as output:
                running.append(
                    subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
                )
        return [process.wait(max(0.1, stop_at - time.monotonic())) for process in running]
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"not ready in {limit_s:.0f} s") from error
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
