"""The ends and the middle of a space on its target, so that an unreachable budget is refused before training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgekd.core.budget import Budget
from edgekd.core.errors import BudgetExceeded
from edgekd.search.costs import Cost, excesses
from edgekd.search.space import Point, SearchSpace


@dataclass(frozen=True)
class ProfileRow:
    """One member of a family.

    Attributes:
        family: Its family.
        corner: `min`, `centre` or `max`; `nearest`, which misses least, where those of all families miss.
        point: Which member.
        cost: What it costs.
        misses: Clauses of the budget that it misses, in words.
    """

    family: str
    corner: str
    point: Point
    cost: Cost
    misses: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "family": self.family,
            "corner": self.corner,
            "point": self.point,
            "misses": list(self.misses),
            **self.cost.document(),
        }


@dataclass(frozen=True)
class SpaceProfile:
    """What a space costs on a target.

    Attributes:
        rows: Three or four members of every family.
        budget: What they were held against.
    """

    rows: tuple[ProfileRow, ...]
    budget: Budget | None

    @property
    def fitting(self) -> tuple[str, ...]:
        """Families of which a member is known that keeps the budget."""
        return tuple(dict.fromkeys(row.family for row in self.rows if not row.misses))

    def statement(self) -> str:
        """Say in one sentence what can be reached."""
        if self.budget is None:
            return "no budget was given: every student of the space may be chosen"
        if not self.fitting:
            return f"no family reaches {self.budget}: {_floor(self.rows, self.budget)}"
        out = [row.family for row in self.rows if row.corner == "min" and row.family not in self.fitting]
        without = f"; not even the smallest of {', '.join(out)}" if out else ""
        if all(not row.misses for row in self.rows):
            return f"all of {', '.join(self.fitting)} keep {self.budget}: the budget does not limit this space"
        return f"{self.budget} can be kept by {', '.join(self.fitting)}{without}"


def profile_space(space: SearchSpace, budget: Budget | None, cost_of: Callable[[Point], Cost]) -> SpaceProfile:
    """Cost the smallest, the central and the largest member of every family.

    The upper end of a prediction can fall as a network grows towards those that the model was fitted to, so where all
    of these miss, every other member is costed before the budget is called unreachable.

    Args:
        space: What may be chosen.
        budget: The limits, or None.
        cost_of: What a member costs on the target.
    """

    def row(family: str, corner: str, point: Point) -> ProfileRow:
        cost = cost_of(point)
        return ProfileRow(family, corner, point, cost, budget.misses(cost.figures) if budget is not None else ())

    rows = [row(one.family, corner, point) for one in space.families for corner, point in one.corners().items()]
    if budget is not None and all(each.misses for each in rows):
        for one in space.families:
            members = (row(one.family, "nearest", point) for point in one.points())
            rows.append(min(members, key=lambda each: max(excesses(each.cost, budget))))
    return SpaceProfile(tuple(rows), budget)


def require_reachable(profile: SpaceProfile) -> None:
    """Refuse a budget that not even the smallest members keep.

    Raises:
        BudgetExceeded: Says what the floor is.
    """
    if profile.budget is not None and not profile.fitting:
        raise BudgetExceeded(
            f"{profile.statement()}; allow smaller students (--space, --set search.space...) or a larger budget"
        )


def _floor(rows: Sequence[ProfileRow], budget: Budget) -> str:
    """Say what the least excessive member reaches."""
    best = min(rows, key=lambda row: max(excesses(row.cost, budget)))
    figures = best.cost.figures
    reached = ", ".join(f"{clause.metric}<{figures[clause.metric]:.4g}{clause.unit}" for clause in budget.clauses)
    how = [best.cost.basis] if budget.limits else []
    how += ["memory counted"] if budget.only(("memory",)).clauses else []
    return f"the floor on {best.cost.latency.target} is {reached} ({', '.join([*how, best.cost.name])})"
