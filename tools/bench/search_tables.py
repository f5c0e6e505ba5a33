"""The tables of docs/studies.md on choosing a student and of docs/latency.md on a CPU, from their result files."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

Rows = list[tuple[str, ...]]

SEARCH_HEADER = ("data", "chosen by", "student", "runs", "test top-1", "MMACs", "epochs left for the final training")
CPU_HEADER = ("CPU", "learnt from", "predicted", "median error", "90 % are within", "in the interval", "MACs alone")


def search_rows(file: Path) -> Rows:
    """Return one line for each way of choosing a student on each data set.

    Args:
        file: CSV of `search_study.py`.
    """
    runs = list(csv.DictReader(file.open(encoding="utf-8")))
    groups = dict.fromkeys((run["data"], run["method"]) for run in runs)
    return [
        _chosen(data, method, [r for r in runs if (r["data"], r["method"]) == (data, method)])
        for data, method in groups
    ]


def _chosen(data: str, method: str, runs: list[dict[str, str]]) -> tuple[str, ...]:
    scores = [100 * float(run["test"]) for run in runs]
    spread = f" ± {stdev(scores):.2f}" if len(scores) > 1 else ""
    students = Counter(run["student"] for run in runs)
    mmacs, epochs = ([float(run[column]) for run in runs] for column in ("mmacs", "final_epochs"))
    return (
        data,
        method,
        f"`{students.most_common(1)[0][0]}`" + (f" and {len(students) - 1} more" if len(students) > 1 else ""),
        str(len(runs)),
        f"{fmean(scores):.2f}{spread} %",
        f"{median(mmacs):.2f}",
        f"{median(epochs):.0f}",
    )


def search_verdicts(file: Path) -> list[str]:
    """Return what the differences come to, as sentences.

    Args:
        file: JSON of `search_study.py`.
    """
    found = json.loads(file.read_text(encoding="utf-8"))
    return [_verdict(name, each) for name, each in found.items() if " minus " in name]


def _verdict(name: str, found: dict[str, Any]) -> str:
    pairs, better = found["pairs"], found["search_better_in"]
    points = f"{found['mean_points']:+.2f} ± {found['margin_points']:.2f} points"
    return f"{name.capitalize()}: {points}, the search better in {better} of {pairs}; {found['statement']}."


def cpu_rows(file: Path) -> Rows:
    """Return the line on predictions of a CPU.

    Args:
        file: JSON of `cpu_latency_study.py`.
    """
    found = json.loads(file.read_text(encoding="utf-8"))
    errors = ("median_error", "p90_error", "interval_coverage", "macs_baseline_median_error")
    shares = tuple(f"{100 * found[name]:.1f} %" for name in errors)
    return [(found["cpu"], f"{found['learnt_from']} measured", f"{found['predicted']} students", *shares)]
