"""Measures how many candidates a second a search can have predicted on one core, and keeps the figures.

    python tools/bench/latency_speed.py

`first` is the rate at the first sight of a space, when each width and resolution of each depth is analysed once;
`again` is the rate from then on. Both count processor seconds of one thread, analyses and templates included.
"""

from __future__ import annotations

import csv
import itertools
import time
from pathlib import Path

import torch
from keep_result import RESULTS, clean_commit, cpu_name

from edgekd.core.artifacts import NetSpec
from edgekd.latency.spec_templates import SpecTemplates
from edgekd.models import FAMILIES, spec_for
from edgekd.targets import get_target

RESOLUTIONS = tuple(range(32, 225, 16))
CANDIDATES = 2000
REPEATS = 5


def space(family: str) -> list[NetSpec]:
    """Return every member of a family's ladder at every resolution."""
    channels = {"bert": 0, "towers": 4}.get(family, 3)
    known = FAMILIES[family]
    return [
        spec_for(
            family,
            depth=depth,
            width=width,
            in_channels=channels,
            num_classes=10,
            resolution=resolution,
            mean=(0.5,) * channels,
            std=(0.2,) * channels,
            vocabulary=1000 if family == "bert" else 0,
        )
        for depth, width, resolution in itertools.product(known.depths, known.widths, RESOLUTIONS)
    ]


def measured(family: str) -> dict[str, object]:
    """Predict a family's space once, and then the same number of candidates again and again."""
    specs, templates, target = space(family), SpecTemplates(), get_target("jetson-orin")
    warm_up = SpecTemplates()
    warm_up.predict(specs[:1], target, "fp16")
    started = time.process_time()
    templates.predict(specs, target, "fp16")
    first = time.process_time() - started
    many = (specs * (CANDIDATES // len(specs) + 1))[:CANDIDATES]
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        templates.predict(many, target, "fp16")
        times.append(time.process_time() - started)
    return {
        "family": family,
        "space": len(specs),
        "first_per_s": round(len(specs) / first),
        "again_per_s": round(CANDIDATES / sorted(times)[REPEATS // 2]),
        "slowest_again_per_s": round(CANDIDATES / max(times)),
    }


def main() -> None:
    """Measure every family and write one CSV."""
    rows = [measured(family) for family in FAMILIES]
    for older in RESULTS.glob("latency-speed_*.csv"):
        older.unlink()
    version = torch.__version__.partition("+")[0]
    path: Path = RESULTS / f"latency-speed_cpu-{cpu_name()}_torch{version}_{clean_commit()}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
