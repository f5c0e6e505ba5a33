"""What a search tries first: the largest student of each family that keeps the budget, which is the rule to beat."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from edgekd.search.costs import Cost
from edgekd.search.space import FamilySpace, Point, SearchSpace, parameters_of

_SCALES = ("width", "keep")


def widest_fits(space: SearchSpace, cost_of: Callable[[Point], Cost], fits: Callable[[Cost], bool]) -> list[Point]:
    """Return the largest member of each family that fits, the largest of all first.

    For every choice of the other dimensions the width (of pruned students the share kept) is bisected, since cost grows
    with it; over the other dimensions nothing is assumed.

    Args:
        space: What may be chosen.
        cost_of: What a member costs.
        fits: Says whether that keeps the budget.
    """
    found = [one for family in space.families for one in _largest(family, cost_of, fits)]
    return [point for _, point in sorted(found, key=lambda one: -one[0])]


def queue_guesses(study: Any, space: SearchSpace, guesses: list[Point]) -> None:
    """Queue students of a study that has not begun; a study that has is left as it is."""
    if not study.get_trials(deepcopy=False):
        for point in guesses:
            study.enqueue_trial(parameters_of(point, space))


def _largest(
    family: FamilySpace, cost_of: Callable[[Point], Cost], fits: Callable[[Cost], bool]
) -> list[tuple[int, Point]]:
    names = [dimension.name for dimension in family.dimensions]
    scale = next((name for name in names if name in _SCALES), names[0])
    others = [one.values if one.name != scale else (None,) for one in family.dimensions]
    sizes = family.dimensions[names.index(scale)].values
    best: tuple[int, Point] | None = None
    for values in itertools.product(*others):
        low, high = 0, len(sizes)
        while low < high:
            middle = (low + high) // 2
            chosen = [sizes[middle] if name == scale else value for name, value in zip(names, values, strict=True)]
            point = family.point(chosen)
            cost = cost_of(point)
            if not fits(cost):
                high = middle
                continue
            low = middle + 1
            if best is None or cost.macs > best[0]:
                best = (cost.macs, point)
    return [] if best is None else [best]
