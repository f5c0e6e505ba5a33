"""From a benchmark of the kernels to `choices.json`, by which `impl="auto"` chooses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Protocol

FUSED = ("torch", "triton", "cuda")


class Timed(Protocol):
    """What counts of a row of `kernels.py`."""

    loss: str
    student_dtype: str
    impl: str
    both_ms: str
    graph_ms: str
    input_bytes: str
    error: str
    capability: str


def choices(rows: Sequence[Timed]) -> str:
    """Return `choices.json`: by architecture, loss and the student's dtype, up to how many bytes which one was fastest.

    What counts is the GPU's work, `graph_ms`; one that cannot be captured waits for the GPU and counts with `both_ms`.
    Of sizes next to each other with one winner only the largest is kept, and beyond the largest size its winner stays.

    Args:
        rows: Of a result file from a GPU.
    """
    best: dict[tuple[str, str, str], dict[int, tuple[float, str]]] = {}
    for row in rows:
        if row.impl not in FUSED or row.error or not row.capability or not row.input_bytes:
            continue
        sizes = best.setdefault((row.capability, row.loss, row.student_dtype), {})
        candidate = float(row.graph_ms or row.both_ms), row.impl
        sizes[int(row.input_bytes)] = min(sizes.get(int(row.input_bytes), candidate), candidate)
    table: dict[str, dict[str, dict[str, list[tuple[int | None, str]]]]] = {}
    for (capability, loss, dtype), sizes in best.items():
        by_dtype = table.setdefault(capability, {}).setdefault(loss, {})
        by_dtype[dtype] = _limits({size: impl for size, (_, impl) in sizes.items()})
    return json.dumps(table, indent=1) + "\n"


def _limits(winners: Mapping[int, str]) -> list[tuple[int | None, str]]:
    ordered = sorted(winners.items())
    ends = [pair for pair, after in zip(ordered, [*ordered[1:], (0, "")], strict=True) if pair[1] != after[1]]
    return [*ends[:-1], (None, ends[-1][1])]
