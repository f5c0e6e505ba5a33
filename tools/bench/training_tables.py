"""What training costs, as tables: steps beside published code, two processes, the teacher cache, reading pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from train_step import CACHED, LIVE, OWN, PEERS, gains, summary

STEP_HEADER = (
    *("method", "networks alone", *OWN, *PEERS, "edgekd over fastest peer", "cached over fastest peer"),
    "memory, edgekd / peer",
)
CACHE_HEADER = ("epoch", "turns", "processor time / plain epoch", "clock / plain epoch", "in the cache / plain epoch")
LOADING_HEADER = ("loader, storage", "pictures a processor second, no worker", "pictures a second, 2 workers")
SCALING_HEADER = ("method", "one process, 2 threads, ms", "two processes, 1 thread, ms", "ratio")


def step_rows(file: Path) -> list[tuple[str, ...]]:
    """Return a line for each method: milliseconds a step by engine, the ratio of steps, the peaks of memory.

    Args:
        file: A result of `train_step.py`.
    """
    runs = json.loads(file.read_text(encoding="utf-8"))["runs"]
    found = {(row["method"], row["engine"]): row for row in summary(runs)}
    by_engine = {engine: gains(runs, engine) for engine in OWN}
    lines = []
    for method in dict.fromkeys(run["method"] for run in runs):
        steps = tuple(_step(found.get((method, engine))) for engine in ("bare", *OWN, *PEERS))
        ratios = {engine: by_engine[engine][method] for engine in LIVE if method in by_engine[engine]}
        best = max(ratios, key=lambda engine: ratios[engine][0], default=None)
        gain = "" if best is None else f"{ratios[best][0]:.2f} ({best} / {ratios[best][1]})"
        cached = f"{by_engine[CACHED][method][0]:.2f}" if method in by_engine[CACHED] else ""
        own, peer = (_least_mb(found, method, engines) for engines in (OWN, PEERS))
        memory = "" if own is None or peer is None else f"{own:.0f} / {peer:.0f} MB"
        lines.append((f"`{method}`", *steps, gain, cached, memory))
    return lines


def step_verdicts(file: Path) -> list[str]:
    """Return in words how the engines compare over the methods.

    Args:
        file: A result of `train_step.py`.
    """
    runs = json.loads(file.read_text(encoding="utf-8"))["runs"]
    lines = []
    for engine in OWN:
        ratios = {method: ratio for method, (ratio, _) in gains(runs, engine).items()}
        if ratios:
            least = min(ratios, key=lambda method: ratios[method])
            lines.append(
                f"`{engine}`: {median(ratios.values()):.2f} times the fastest peer's speed in the median of "
                f"{len(ratios)} methods, {ratios[least]:.2f} at least (`{least}`)."
            )
    return lines


def scaling_rows(file: Path) -> list[tuple[str, ...]]:
    """Return a line for each method: both ways to use two cores, and the median ratio of their steps.

    Args:
        file: A result of `scaling.py`.
    """
    found: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["recipes"]
    return [
        (
            f"`{recipe}`",
            _listed(one["one_process_two_threads_ms"]),
            _listed(one["two_processes_one_thread_ms"]),
            f"{one['ratio_median']:.2f}",
        )
        for recipe, one in found.items()
    ]


def cache_rows(file: Path) -> list[tuple[str, ...]]:
    """Return a line for each kind of epoch: processor time over that of a plain epoch, and the share of the cache.

    Args:
        file: A result of `teacher_cache.py`.
    """
    epochs: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["epochs"]
    return [
        (
            kind,
            str(one["repeats"]),
            _ranged(one["cpu"]["ratio_to_plain"]),
            _ranged(one["wall"]["ratio_to_plain"]),
            f"{100 * one['recall_share_of_plain']['median']:.1f} %",
        )
        for kind, one in epochs.items()
        if kind != "plain"
    ]


def loading_rows(file: Path) -> list[tuple[str, ...]]:
    """Return a line for each loader and kind of storage of small pictures, and of large ones decoded in two ways.

    Args:
        file: A result of `data_loading.py`.
    """
    rates: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["rates"]
    with_two = {_source(row): f"{row['pictures_per_s']:,}" for row in rates if row.get("workers") == 2}
    return [
        (_source(row), f"{row['pictures_per_cpu_s']:,}", with_two.get(_source(row), ""))
        for row in rates
        if row.get("workers", 0) == 0
    ]


def _source(row: dict[str, Any]) -> str:
    shards = ", by shards" if row.get("shuffle") == "shards" else ""
    large = f", large JPEGs, `decode: {row['decode']}`" if row.get("pictures") == "large" else ""
    return f"{row['loader']}, {row['storage']}{shards}{large}"


def _ranged(ratio: dict[str, float]) -> str:
    median_, lowest, highest = (f"{ratio[name]:.2f}" for name in ("median", "min", "max"))
    return median_ if lowest == highest else f"{median_} ({lowest} to {highest})"


def _step(row: dict[str, Any] | None) -> str:
    """Return milliseconds, and behind them what the losses and the engine add to both networks alone."""
    if row is None:
        return ""
    above = row["above_bare_percent"]
    added = "" if row["engine"] == "bare" or above is None else f" ({above:+.0f} %)"
    return f"{row['step_ms']:.0f}{added}"


def _least_mb(found: dict[tuple[str, str], dict[str, Any]], method: str, engines: Sequence[str]) -> float | None:
    peaks = [found[method, engine]["peak_mb"] for engine in engines if (method, engine) in found]
    return min(peaks, default=None)


def _listed(steps_ms: list[float]) -> str:
    return ", ".join(f"{step:.0f}" for step in steps_ms)
