"""What methods came to on a task: figures that `tools/bench/evidence.py` takes from result files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Evidence:
    """One method on one task. Figures of different tasks do not compare.

    Attributes:
        task: Name of the task.
        pair: Teacher and student, where the task has several pairs; else empty.
        result_file: The file under `tools/bench/results` that the figures are from.
        top1_mean: Mean test top-1 over seeds, in percent.
        top1_std: Its sample standard deviation; None for one seed.
        seeds: How many seeds.
        over_plain: Mean over shared seeds of the difference to plain training, in points; None where there is none.
        over_plain_margin: Half of its 95 % interval; None for one seed.
    """

    task: str
    pair: str
    result_file: str
    top1_mean: float
    top1_std: float | None
    seeds: int
    over_plain: float | None
    over_plain_margin: float | None


def evidence_of(method: str) -> tuple[Evidence, ...]:
    """Return what is known of a method by name, task by task; nothing for what was never studied."""
    return tuple(Evidence(**one) for one in _shipped()["methods"].get(method, ()))


@cache
def _shipped() -> Any:
    text = (resources.files("edgekd.distill") / "evidence.json").read_text(encoding="utf-8")
    return json.loads(text)
