"""Which students no other beats in everything, and which of a rung go on."""

from __future__ import annotations

import math
from collections.abc import Sequence

Losses = tuple[float, ...]
"""What is to be small, one number an objective."""


def dominates(one: Losses, other: Losses) -> bool:
    """Say whether `one` is nowhere worse and somewhere better."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


def front(losses: Sequence[Losses]) -> list[int]:
    """Return the places of what nothing dominates; of equals the first.

    Args:
        losses: One entry a student.
    """
    return [
        place
        for place, mine in enumerate(losses)
        if not any(dominates(other, mine) for other in losses) and mine not in losses[:place]
    ]


def goes_on(mine: Losses, others: Sequence[Losses], *, share: float) -> bool:
    """Say whether a student passes a rung, given all that reached it before: asynchronous successive halving.

    Students are ranked by how many dominate them, so that a small student is not judged by the score of a large one.
    It passes when fewer than `ceil(share * n)` of all n rank before it; the first to arrive therefore passes.

    Args:
        mine: Its losses at the rung.
        others: Those of the others there.
        share: Share that passes.
    """
    everyone = [mine, *others]
    beaten_by = [sum(dominates(other, one) for other in everyone) for one in everyone]
    before = sum(count < beaten_by[0] for count in beaten_by)
    return before < math.ceil(share * len(everyone))
