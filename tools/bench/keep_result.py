"""Keeps a run's report as a result file whose name says data set, target, device, versions and commit.

    python tools/bench/keep_result.py runs/demo

The commit is the one that the run was made at: the tree must be clean, and nothing newer than the report.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tools" / "bench" / "results"


def cpu_name() -> str:
    """Return this machine's processor in characters fit for a file name."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return re.sub(r"[^\w.]+", "-", line.partition(":")[2].strip()).strip("-")
    return platform.machine()


def clean_commit() -> str:
    """Return the short hash of HEAD; exits when the tree has uncommitted changes outside the results."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!tools/bench/results", ":!README.md")
    if changed:
        raise SystemExit(f"commit first, so that the result can name the code it was made with:\n{changed}")
    return _git("rev-parse", "--short", "HEAD")


def keep(run: Path) -> Path:
    """Copy a run's report into the results folder, folders cut from its command, replacing older ones of its kind."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    stem = f"{report['data']['name']}-{report['target']['name']}"
    name = f"{stem}_cpu-{cpu_name()}_torch{report['environment']['torch'].partition('+')[0]}_{clean_commit()}.json"
    for older in RESULTS.glob(f"{stem}_*.json"):
        older.unlink()
    report["command"] = re.sub(r"/[^\s']*/", "", report["command"])
    (RESULTS / name).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return RESULTS / name


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    return done.stdout.strip()


if __name__ == "__main__":
    print(keep(Path(sys.argv[1])))
