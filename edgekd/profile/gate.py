"""Whether a latency keeps its budget; a prediction is judged by its unfavourable end and says that it is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekd.core.artifacts import LatencyReport
from edgekd.core.budget import Budget
from edgekd.core.errors import DataError


@dataclass(frozen=True)
class GateVerdict:
    """Outcome of a latency gate.

    Attributes:
        is_kept: Every limit holds.
        kind: Whether that was measured or predicted.
        misses: One sentence for each limit that does not hold.
    """

    is_kept: bool
    kind: Literal["measured", "predicted"]
    misses: tuple[str, ...]


def verdict(report: LatencyReport, budget: Budget) -> GateVerdict:
    """Judge a report.

    A measurement is judged by its observed statistics. A prediction is judged by the upper end of its interval where
    the budget limits p50 or mean, and by its upper estimate of p99 where it limits p90 or p99.

    Args:
        report: Measured or predicted latency.
        budget: Limits that must all hold.

    Returns:
        The verdict; every miss names the target, and says so when it is predicted.

    Raises:
        ConfigError: The budget limits a statistic that the report does not have.
        DataError: The report calls itself neither measured nor predicted.
    """
    if report.kind == "predicted":
        upper, tail = report.high_ms, report.p99_ms
        words = f"{report.target}, predicted, not measured: upper estimate of "
        values = {"p50": upper, "mean": upper, "p90": tail, "p99": tail}
    elif report.kind == "measured":
        words = f"{report.target}, measured: "
        values = {"p50": report.p50_ms, "p99": report.p99_ms}
        for metric in ("p90", "mean"):
            if f"{metric}_ms" in report.conditions:
                values[metric] = float(report.conditions[f"{metric}_ms"])
    else:
        raise DataError(f"a latency report is measured or predicted, not {report.kind!r}")
    misses = tuple(words + miss for miss in budget.misses(values))
    return GateVerdict(not misses, report.kind, misses)
