"""From the trials of a search to the students that it returns: the budget is kept for sure, or they are refused.

On this CPU, and on a board that is attached, each is built and measured, and what was measured corrects the predictions
of the next candidates. For other targets the upper end of the prediction decides, and is called a prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekd.core.artifacts import LatencyReport, TrainedModel, to_json
from edgekd.core.budget import LATENCY_METRICS, Budget
from edgekd.core.errors import BudgetExceeded, BuildError
from edgekd.pipeline.candidates import Candidates, kernels_of
from edgekd.pipeline.context import RunContext
from edgekd.pipeline.found import write_found
from edgekd.pipeline.gauges import Gauge
from edgekd.search import Cost, TrialRecord, front


@dataclass(frozen=True)
class Finalist:
    """A student that is returned.

    Attributes:
        file: What `edgekd distill --student` takes.
        record: Its trial.
        cost: What it costs, measured where that is possible.
    """

    file: Path
    record: TrialRecord
    cost: Cost


@dataclass(frozen=True)
class Refusal:
    """A student that is not returned.

    Attributes:
        record: Its trial.
        cost: What it costs.
        reason: Why not, in words.
    """

    record: TrialRecord
    cost: Cost
    reason: str


@dataclass(frozen=True)
class Finals:
    """The end of a search.

    Attributes:
        finalists: Students that keep the budget, the best score first.
        refused: Students with good scores that do not.
        front: Numbers of the trials that no other beats in score, latency and memory at once.
        gauge: What measured them and has learnt from it; None where nothing was measured.
    """

    finalists: tuple[Finalist, ...]
    refused: tuple[Refusal, ...]
    front: tuple[int, ...]
    gauge: Gauge | None


def finals_of(
    records: Sequence[TrialRecord],
    candidates: Candidates,
    context: RunContext,
    folder: Path,
    *,
    gauge: Gauge | None,
    teacher: TrainedModel,
) -> Finals:
    """Choose the students to return.

    Those that were trained longest come first, of these the best; each is measured, or judged by the upper end of its
    prediction, until enough keep the budget.

    Args:
        records: All trials.
        candidates: The students.
        context: The run.
        folder: Where the files of the students go.
        gauge: What measures students of the target, or None.
        teacher: The teacher.

    Raises:
        BudgetExceeded: None keeps the budget; says what the measured ones reach.
        EdgeKDError: Nothing can be measured now; what was measured is kept.
    """
    counted = [record for record in records if record.is_counted and record.point is not None]
    ranked = sorted(counted, key=lambda one: (-one.epochs, -(one.score or 0.0), one.number))
    finalists: list[Finalist] = []
    refused: list[Refusal] = []
    for record in ranked:
        if len(finalists) == context.config.search.finalists:
            break
        try:
            cost = _judged(record, candidates, context, gauge)
            misses = _misses(cost, context.budget)
        except BuildError as error:
            cost, misses = candidates.cost(_point(record)), (f"it cannot be built there: {error}",)
        if misses:
            refused.append(Refusal(record, cost, f"{cost.basis}: {'; '.join(misses)}"))
            context.note("finalists", f"{cost.name} is refused, {refused[-1].reason}")
            continue
        path = folder / f"student{len(finalists) + 1}.json"
        point = _point(record)
        facts = {"trial": record.document(), "cost": cost.document(), "teacher": to_json(teacher)["digest"]}
        write_found(path, candidates.at(point).spec, candidates.start_of(point), facts)
        finalists.append(Finalist(path, record, cost))
        context.note("finalists", f"{cost.name} keeps {context.budget or 'no budget'}: {path}")
    if not finalists:
        raise _none_keeps(context, refused)
    return Finals(tuple(finalists), tuple(refused), _front(counted), gauge)


def _judged(record: TrialRecord, candidates: Candidates, context: RunContext, gauge: Gauge | None) -> Cost:
    """Return what a student costs, measured where that is possible and may change the verdict."""
    point = _point(record)
    cost = candidates.cost(point)
    if gauge is None:
        return cost
    spec = candidates.at(point).spec
    graph = kernels_of(spec)
    latest = gauge.expected(graph)
    if _is_hopeless(latest, cost, context):
        return _with_latency(cost, latest)
    inputs = {"spec": spec.digest, **gauge.facts}
    report = context.noun(LatencyReport, f"measure/{spec.digest[:12]}", inputs, lambda: gauge.measure(spec))
    gauge.learn(spec.name, graph, report)
    return _with_latency(cost, report)


def _misses(cost: Cost, budget: Budget | None) -> tuple[str, ...]:
    """Return the clauses that do not hold; energy that was not measured counts only once the rest holds."""
    if budget is None:
        return ()
    known = budget.only(tuple(cost.figures))
    unknown = [clause for clause in budget.clauses if clause not in known.clauses]
    return known.misses(cost.figures) or tuple(f"{one.metric} was not measured, the budget is {one}" for one in unknown)


def _is_hopeless(predicted: LatencyReport, cost: Cost, context: RunContext) -> bool:
    """Say whether even the lower end of the prediction misses the budget: then measuring tells nothing new."""
    if context.budget is None:
        return False
    low = {**dict.fromkeys(LATENCY_METRICS, predicted.low_ms), "memory": cost.figures["memory"]}
    return bool(context.budget.only(tuple(low)).misses(low))


def _with_latency(cost: Cost, latency: LatencyReport) -> Cost:
    return replace(cost, latency=latency)


def _point(record: TrialRecord) -> dict[str, Any]:
    if record.point is None:
        raise ValueError(f"trial {record.number} has no student")
    return record.point


def _front(records: Sequence[TrialRecord]) -> tuple[int, ...]:
    fitting = [one for one in records if one.cost is not None and one.score is not None]
    losses = [
        (-float(one.score or 0.0), float(one.cost["figures"]["p99"]), float(one.cost["memory_bytes"]))
        for one in fitting
        if one.cost is not None
    ]
    return tuple(fitting[place].number for place in front(losses))


def _none_keeps(context: RunContext, refused: Sequence[Refusal]) -> BudgetExceeded:
    if not refused:
        return BudgetExceeded(
            f"no student was trained that keeps {context.budget}: every one tried is over it; give more --trials, "
            "smaller students (--set search.space...) or a larger budget"
        )
    fastest = min(refused, key=lambda one: one.cost.latency.p99_ms)
    return BudgetExceeded(
        f"none of the {len(refused)} students trained keeps {context.budget}; the fastest, {fastest.cost.name}: "
        f"{fastest.reason}"
    )
