"""Whether a latency keeps its budget; a prediction is judged by its unfavourable end and says that it is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgekd.core.artifacts import LatencyReport
from edgekd.core.budget import Budget, ClauseVerdict
from edgekd.core.errors import DataError


@dataclass(frozen=True)
class GateVerdict:
    """Outcome of a latency gate.

    Attributes:
        is_kept: Every limit holds.
        kind: Whether that was measured or predicted.
        misses: One sentence for each limit that does not hold.
        clauses: Each clause with its own verdict, in the order of the budget.
    """

    is_kept: bool
    kind: Literal["measured", "predicted"]
    misses: tuple[str, ...]
    clauses: tuple[ClauseVerdict, ...] = ()


def verdict(report: LatencyReport, budget: Budget, resources: Mapping[str, float] | None = None) -> GateVerdict:
    """Judge a report, each clause of the budget on its own.

    A measurement is judged by its observed statistics. A prediction is judged by the upper end of its interval where
    the budget limits p50 or mean, and by its upper estimate of p99 where it limits p90 or p99.

    Args:
        report: Measured or predicted latency.
        budget: Limits that must all hold.
        resources: `memory` in MB and `energy` in mJ, where the budget limits them.

    Returns:
        The verdict; every miss names the target, and says so when it is predicted.

    Raises:
        ConfigError: The budget limits a figure that is not known.
        DataError: The report calls itself neither measured nor predicted.
    """
    if report.kind not in ("predicted", "measured"):
        raise DataError(f"a latency report is measured or predicted, not {report.kind!r}")
    how = "measured: " if report.kind == "measured" else "predicted, not measured: upper estimate of "
    clauses = budget.judge({**report.judged_ms, **(resources or {})})
    misses = tuple(f"{report.target}, {how}{clause}" for clause in clauses if not clause.is_kept)
    return GateVerdict(not misses, report.kind, misses, clauses)
