"""Writes edgekd/distill/evidence.json, the figures `edgekd methods` shows, from files of tools/bench/methods.py.

    python tools/bench/evidence.py                              # from every study under tools/bench/results
    python tools/bench/evidence.py tools/bench/results/methods-digits_*.csv
    python tools/bench/evidence.py --check                      # exit 1 when the shipped file differs

A file that `methods.py` cut short (its name says so: `-epochs2`, `-limit500`) is no evidence and is left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from paired import paired

from edgekd.core import atomic

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tools" / "bench" / "results"
SHIPPED = ROOT / "edgekd" / "distill" / "evidence.json"
_STUDY = re.compile(r"methods-(?P<task>[\w-]+?)(?P<trial>-(epochs|limit)\d+)*_")


def main() -> None:
    """Write the file, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="result files; every study's")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    text = evidence(arguments.files or studies())
    if arguments.check:
        is_same = SHIPPED.read_text(encoding="utf-8") == text
        sys.exit(0 if is_same else f"{SHIPPED} differs from the result files: python tools/bench/evidence.py")
    atomic.write_text(SHIPPED, text)


def studies() -> list[Path]:
    """Return the result files that are studies of methods and no trials."""
    named = [(file, _STUDY.match(file.name)) for file in sorted(RESULTS.glob("methods-*.csv"))]
    return [file for file, match in named if match and not match["trial"]]


def evidence(files: Iterable[Path]) -> str:
    """Return the file's text for some result files."""
    methods: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        for method, figures in _figures(file):
            methods.setdefault(method, []).append(figures)
    document = {"schema_version": 1, "methods": dict(sorted(methods.items()))}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _figures(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    match = _STUDY.match(file.name)
    if match is None:
        raise SystemExit(f"{file}: not a file of tools/bench/methods.py")
    columns = {"pair": "", "error": ""}  # a study from before them has none
    rows = [columns | row for row in csv.DictReader(file.open(encoding="utf-8"))]
    scores: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        if not row["error"] and row["method"] != "teacher":
            scores.setdefault((row["pair"], row["method"]), {})[int(row["seed"])] = 100 * float(row["test_accuracy"])
    for (pair, method), values in scores.items():
        over = None if method == "plain" else paired(values, scores.get((pair, "plain"), {}))
        yield (
            method,
            {
                "task": match["task"],
                "pair": pair,
                "result_file": file.name,
                "top1_mean": round(fmean(values.values()), 2),
                "top1_std": round(stdev(values.values()), 2) if len(values) > 1 else None,
                "seeds": len(values),
                "over_plain": None if over is None else round(over.mean, 2),
                "over_plain_margin": round(over.margin, 2) if over and math.isfinite(over.margin) else None,
            },
        )


if __name__ == "__main__":
    main()
