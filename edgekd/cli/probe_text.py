"""What probes found as text for the terminal: one table for each probe and split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekd.cli.table import format_table

if TYPE_CHECKING:
    from edgekd.pipeline.comparison import Comparison, Spread

_HEADER = ("figure", "distilled", "std", "independent", "std", "teacher", "chance")


def comparison_text(comparisons: Sequence[Comparison]) -> str:
    """Return figures of distilled students next to independent ones.

    Args:
        comparisons: What `compare` returned.

    Returns:
        Tables, and below each what a student that has nothing to do with the teacher gives.
    """
    from edgekd.distill.probes import PROBES

    parts = []
    for found in comparisons:
        probe = PROBES[found.probe]
        rows = [
            (row.name, *_cells(row.distilled), *_cells(row.independent), _number(row.teacher), _number(row.chance))
            for row in found.rows
        ]
        seeds = len(found.rows[0].distilled.values) if found.rows else 0
        title = f"{found.probe} on {found.data} {found.split}, {seeds} seed(s): {probe.title}"
        parts.append(f"{title}\n\n{format_table(_HEADER, rows)}\n\nchance: {probe.chance}")
    return "\n\n\n".join(parts)


def _cells(spread: Spread | None) -> tuple[str, str]:
    return ("-", "-") if spread is None else (_number(spread.mean), _number(spread.std))


def _number(value: float | None) -> str:
    from edgekd.report.wording import figure

    return "-" if value is None else figure(value)
