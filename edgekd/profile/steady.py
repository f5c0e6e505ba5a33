"""When a network has warmed up: its latency no longer falls, as far as its own noise lets one see.

A fixed number of warm-up runs is too few for a clock that ramps up and too many for a slow network. The runs are looked
at in windows instead: as soon as the interval of the median of the newest window overlaps that of the window two
before it, nothing that was still speeding up can be seen any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.profile.statistics import median_ranks

WINDOW = 10
"""Runs of a window; the interval of its median is that of the 2nd and 9th run, 97.9 %."""
FEWEST_RUNS = 3 * WINDOW
_LEAST_DRIFT = 0.02


@dataclass(frozen=True)
class Drift:
    """How far latency moved between the first and the last third of a series.

    Attributes:
        start_ms: Median of the first third.
        end_ms: Median of the last third.
        is_seen: The intervals of both medians are apart, and the medians by more than 2 %.
    """

    start_ms: float
    end_ms: float
    is_seen: bool

    @property
    def change(self) -> float:
        """Relative change, above 0 where it grew slower."""
        return self.end_ms / self.start_ms - 1


def is_steady(samples_ms: Sequence[float]) -> bool:
    """Say whether the newest runs are no faster than those before them.

    Args:
        samples_ms: Milliseconds of every run so far, in order.

    Returns:
        False below three windows of runs, and while the newest window is visibly faster than the third last.
    """
    if len(samples_ms) < FEWEST_RUNS:
        return False
    newest, older = samples_ms[-WINDOW:], samples_ms[-FEWEST_RUNS : -2 * WINDOW]
    return _interval(newest)[2] >= _interval(older)[0]


def drift_of(samples_ms: Sequence[float]) -> Drift | None:
    """Compare the ends of a series.

    Args:
        samples_ms: Milliseconds of each run, in order.

    Returns:
        The drift; None where a third is too short for an interval.
    """
    third = len(samples_ms) // 3
    if third < WINDOW:
        return None
    first, last = _interval(samples_ms[:third]), _interval(samples_ms[-third:])
    is_apart = first[2] < last[0] or last[2] < first[0]
    return Drift(first[1], last[1], is_apart and abs(last[1] / first[1] - 1) > _LEAST_DRIFT)


def _interval(samples_ms: Sequence[float]) -> tuple[float, float, float]:
    ordered = sorted(samples_ms)
    low, high, _ = median_ranks(len(ordered))
    return ordered[low - 1], ordered[(len(ordered) - 1) // 2], ordered[high - 1]
