"""What int8 costs and wins back, from a file of `precision_study.py`."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean

from paired import paired

PRECISION_HEADER = ("data", "student", "way", "seeds", "test", "points against fp32", "worst seed", "held out, points")
Row = Mapping[str, str]


def precision_rows(file: Path) -> list[tuple[str, ...]]:
    """Return a line for each student and way: test score, and what it lost or won against the same weights in fp32.

    A way without any model has no line.

    Args:
        file: Of `precision_study.py`.
    """
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    lines = []
    for data, student in dict.fromkeys((row["data"], row["student"]) for row in rows):
        own = [row for row in rows if (row["data"], row["student"]) == (data, student)]
        reference = {split: _by_seed(own, "fp32", split) for split in ("test_score", "val_score")}
        for way in dict.fromkeys(row["way"] for row in own):
            lines += [_line(data, student, way, own, reference)] if _by_seed(own, way, "test_score") else []
    return lines


def _line(
    data: str, student: str, way: str, rows: Iterable[Row], reference: Mapping[str, Mapping[int, float]]
) -> tuple[str, ...]:
    rows = list(rows)
    test, held_out = (_by_seed(rows, way, split) for split in ("test_score", "val_score"))
    seeds, mean = str(len(test)), f"{100 * fmean(test.values()):.2f} %"
    if way == "fp32":
        return (data, f"`{student}`", way, seeds, mean, "", "", "")
    worst = min(100 * (test[seed] - reference["test_score"][seed]) for seed in test)
    change, kept = _points(test, reference["test_score"]), _points(held_out, reference["val_score"])
    return (data, f"`{student}`", way, seeds, mean, change, f"{worst:+.2f}", kept)


def _by_seed(rows: Iterable[Row], way: str, split: str) -> dict[int, float]:
    return {int(row["seed"]): float(row[split]) for row in rows if row["way"] == way and row[split]}


def _points(scores: Mapping[int, float], reference: Mapping[int, float]) -> str:
    found = paired({seed: 100 * value for seed, value in scores.items()}, {k: 100 * v for k, v in reference.items()})
    if found is None:
        return ""
    return f"{found.mean:+.2f}" + (f" ± {found.margin:.2f}" if math.isfinite(found.margin) else "")
