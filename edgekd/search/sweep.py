"""A sweep over one family: the largest member that keeps the budget, and what is reachable when none does.

Where members are measured, latency grows with width within one depth, so each depth is bisected; over depths nothing is
assumed. A prediction is judged by its upper end, which can fall as a network grows towards those that the model was
fitted to, so predicted members are tried from the largest down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgekd.core.artifacts import LatencyReport, NetSpec
from edgekd.core.budget import Budget
from edgekd.core.errors import BudgetExceeded, ConfigError
from edgekd.search.space import PRUNED


@dataclass(frozen=True)
class Space:
    """Members of one family to choose from.

    Attributes:
        family: Family name.
        depths: Depths allowed.
        widths: Widths allowed.
    """

    family: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]


@dataclass(frozen=True)
class Considered:
    """A member that was timed.

    Attributes:
        spec: The member.
        macs: Multiply-accumulates of one inference.
        latency: Its latency, measured or predicted.
        figures: What the budget is held against, by metric: milliseconds, and `memory` in MB where it is limited.
        is_kept: Whether it keeps the budget.
    """

    spec: NetSpec
    macs: int
    latency: LatencyReport
    figures: Mapping[str, float]
    is_kept: bool


@dataclass(frozen=True)
class Choice:
    """The student, and why.

    Attributes:
        spec: The member chosen.
        reason: One sentence.
        considered: Every member that was timed, smallest first.
    """

    spec: NetSpec
    reason: str
    considered: tuple[Considered, ...]


@dataclass(frozen=True)
class Sized:
    """A member and its cost.

    Attributes:
        spec: The member.
        macs: Multiply-accumulates of one inference.
    """

    spec: NetSpec
    macs: int


def candidates(
    space: Space, *, make: Callable[[int, int], NetSpec], macs_of: Callable[[NetSpec], int], max_macs: int
) -> tuple[Sized, ...]:
    """List the members of a space that are not too large.

    Args:
        space: Family, depths, widths.
        make: Depth and width to a spec.
        macs_of: Multiply-accumulates of a spec.
        max_macs: Members above this are left out.

    Returns:
        The members, smallest first.

    Raises:
        ConfigError: None is left.
    """
    specs = [make(depth, width) for depth in sorted(set(space.depths)) for width in sorted(set(space.widths))]
    named = f"{space.family} of depths {list(space.depths)} and widths {list(space.widths)}"
    return not_above(max_macs, specs, macs_of=macs_of, named=named)


def not_above(
    max_macs: int, specs: Sequence[NetSpec], *, macs_of: Callable[[NetSpec], int], named: str
) -> tuple[Sized, ...]:
    """List the networks that are not too large, smallest first.

    Args:
        max_macs: Those above this are left out.
        specs: What there is.
        macs_of: Multiply-accumulates of a spec.
        named: What they are, for the message.

    Raises:
        ConfigError: None is left.
    """
    sized = sorted((Sized(spec, macs_of(spec)) for spec in specs), key=lambda member: member.macs)
    kept = tuple(member for member in sized if member.macs <= max_macs)
    if not kept:
        raise ConfigError(
            f"no {named} has at most {max_macs:,} MACs; the smallest, {sized[0].spec.name}, has {sized[0].macs:,}: "
            "--set student.max_share allows a larger share of the teacher's, above 1 too"
        )
    return kept


def choose_student(
    members: Sequence[Sized],
    budget: Budget | None,
    *,
    latency_of: Callable[[NetSpec], LatencyReport],
    memory_mb_of: Callable[[NetSpec], float] | None = None,
    grows: bool = True,
) -> Choice:
    """Choose the largest member that keeps the budget.

    A prediction is held against the budget by its upper end.

    Args:
        members: What to choose from, smallest first.
        budget: The limits, or None to take the largest member.
        latency_of: Measures or predicts a member.
        memory_mb_of: Counts a member's memory in MB of 10^6 bytes, should the budget limit it.
        grows: Whether what is judged grows with width within a depth: then it is called as seldom as bisection allows.

    Returns:
        The choice.

    Raises:
        BudgetExceeded: No member keeps the budget; says what the nearest one reaches.
    """
    if budget is None:
        largest = members[-1].spec
        return Choice(largest, f"{largest.name} is the largest student allowed; no latency budget was given", ())
    timed: dict[str, Considered] = {}

    def consider(member: Sized) -> Considered:
        if member.spec.digest not in timed:
            latency = latency_of(member.spec)
            figures = dict(latency.judged_ms)
            if memory_mb_of is not None and budget.only(("memory",)).clauses:
                figures["memory"] = memory_mb_of(member.spec)
            is_kept = not budget.misses(figures)
            timed[member.spec.digest] = Considered(member.spec, member.macs, latency, figures, is_kept)
        return timed[member.spec.digest]

    winner = (_bisected if grows else _swept)(members, consider)
    considered = tuple(sorted(timed.values(), key=lambda item: item.macs))
    if winner is None:
        raise _unreachable(budget, considered)
    return Choice(winner.spec, _reason(winner, budget, len(members)), considered)


def _swept(members: Sequence[Sized], consider: Callable[[Sized], Considered]) -> Considered | None:
    return next((item for item in map(consider, reversed(members)) if item.is_kept), None)


def _bisected(members: Sequence[Sized], consider: Callable[[Sized], Considered]) -> Considered | None:
    depths = dict.fromkeys(member.spec.depth for member in members)
    largest_of_depth = [_largest([m for m in members if m.spec.depth == depth], consider) for depth in depths]
    winners = [winner for winner in largest_of_depth if winner is not None]
    return max(winners, key=lambda item: item.macs, default=None)


def _largest(members: Sequence[Sized], consider: Callable[[Sized], Considered]) -> Considered | None:
    low, high = 0, len(members)
    best: Considered | None = None
    while low < high:
        middle = (low + high) // 2
        considered = consider(members[middle])
        if considered.is_kept:
            best, low = considered, middle + 1
        else:
            high = middle
    return best


def _reason(winner: Considered, budget: Budget, members: int) -> str:
    how = "measured" if winner.latency.kind == "measured" else "upper end, predicted, not measured"
    told = {one.metric: f"{one.metric} {winner.figures[one.metric]:.4g} {one.unit}" for one in budget.clauses}
    latencies, counted = (", ".join(told[one.metric] for one in part) for part in (budget.limits, budget.resources))
    judged = [*([f"{latencies} ({how})"] if latencies else []), *([f"{counted} (counted)"] if counted else [])]
    return f"{winner.spec.name} is the largest of {members} students that keeps {budget}: {', '.join(judged)}"


def _unreachable(budget: Budget, considered: Sequence[Considered]) -> BudgetExceeded:
    nearest = min(considered, key=lambda item: max(item.figures[one.metric] / one.limit for one in budget.clauses))
    judged = ", ".join(f"{one.metric}<{nearest.figures[one.metric]:.4g}{one.unit}" for one in budget.clauses)
    how = "measured" if nearest.latency.kind == "measured" else "predicted, upper end"
    how += ", memory counted" if budget.resources else ""
    sizes = "student.keeps=..." if nearest.spec.family == PRUNED else "student.widths=..., student.depths=..."
    more = f"allow smaller students (--set {sizes}), another family," if len(considered) > 1 else "take another student"
    return BudgetExceeded(
        f"no student keeps {budget} on {nearest.latency.target}: the smallest reachable is {judged} "
        f"({how}, {nearest.spec.name}); {more} or a larger budget"
    )
