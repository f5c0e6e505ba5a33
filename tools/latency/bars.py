"""The bars that the evidence is held against, and whether each is met. One that is missed says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        bar: What was asked for.
        limit: The limit.
        worst: The worst figure among the rows it covers.
        where: The row of that figure.
        met: Whether every row keeps the limit.
    """

    bar: str
    limit: float
    worst: float
    where: str
    met: bool


_ORINS = ("jetson-agx-orin-64gb", "agx-orin-devkit-32gb", "jetson-orin-nano-8gb")


def bars_of(rows: Sequence[Any]) -> list[Bar]:
    """Hold rows of `evaluate` against the bars; those that have no row yet are left out."""
    asked: list[tuple[str, str, str, float, Callable[[str], bool]]] = [
        ("C", "new Orin board from its data sheet: MAPE", "mape", 0.08, lambda case: case in _ORINS),
        ("C", "new Orin board from its data sheet: within 10 %", "hit10", 0.75, lambda case: case in _ORINS),
        ("C", "new Orin board from its data sheet: Spearman", "spearman", 0.99, lambda case: case in _ORINS),
        ("D", "any board after ten points: MAPE", "mape", 0.06, lambda case: True),
        ("B", "new YOLO family: MAPE", "mape", 0.08, lambda case: True),
        ("F", "new family of classifiers, T4: MAPE", "mape", 0.18, lambda case: True),
        ("G", "90 % intervals cover at least", "coverage", 0.85, lambda case: True),
        ("G", "90 % intervals cover at most", "coverage", 0.95, lambda case: True),
    ]
    found = []
    for test, name, figure, limit, concerns in asked:
        own = [row for row in rows if row.test == test and _is_ours(row) and concerns(row.case)]
        if own:
            found.append(_held_against(name, figure, limit, own, is_least=_is_least(name, figure)))
    return found


def _is_ours(row: Any) -> bool:
    return getattr(row, "predictor", "OPS") == "OPS"


def _is_least(name: str, figure: str) -> bool:
    return figure in ("hit10", "spearman") or name.endswith("at least")


def _held_against(name: str, figure: str, limit: float, rows: Iterable[Any], *, is_least: bool) -> Bar:
    choose = min if is_least else max
    worst = choose(rows, key=lambda row: getattr(row, figure))
    value = float(getattr(worst, figure))
    return Bar(name, limit, value, worst.case, value >= limit if is_least else value <= limit)
