"""From the trials of a search to the students that it returns: the budget is kept for sure, or they are refused.

On this CPU each is built and measured, the measurements go back into the latency model, and the next candidates are
weighed by the refitted model. For another target the upper end of the prediction decides, and is called a prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekd.core.artifacts import LatencyReport, TrainedModel, to_json
from edgekd.core.errors import BudgetExceeded
from edgekd.latency import CpuModel, CpuPoint, refit_cpu
from edgekd.pipeline.candidates import Candidates, kernels_of
from edgekd.pipeline.context import RunContext
from edgekd.pipeline.cpu_calibration import CpuSettings, measured_report
from edgekd.pipeline.found import write_found
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
        model: The CPU's latency model after the measurements; None for other targets.
    """

    finalists: tuple[Finalist, ...]
    refused: tuple[Refusal, ...]
    front: tuple[int, ...]
    model: CpuModel | None


def finals_of(
    records: Sequence[TrialRecord],
    candidates: Candidates,
    context: RunContext,
    folder: Path,
    *,
    model: CpuModel | None,
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
        model: The CPU's latency model, where the target is this CPU.
        teacher: The teacher.

    Raises:
        BudgetExceeded: None keeps the budget; says what the measured ones reach.
    """
    counted = [record for record in records if record.is_counted and record.point is not None]
    ranked = sorted(counted, key=lambda one: (-one.epochs, -(one.score or 0.0), one.number))
    finalists: list[Finalist] = []
    refused: list[Refusal] = []
    for record in ranked:
        if len(finalists) == context.config.search.finalists:
            break
        cost, model = _judged(record, candidates, context, model)
        misses = context.budget.misses(cost.figures) if context.budget is not None else ()
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
    return Finals(tuple(finalists), tuple(refused), _front(counted), model)


def _judged(
    record: TrialRecord, candidates: Candidates, context: RunContext, model: CpuModel | None
) -> tuple[Cost, CpuModel | None]:
    """Return what a student costs, measured where the target is this CPU, and the model that has learnt from it."""
    point = _point(record)
    cost = candidates.cost(point)
    if context.target.kind != "cpu" or model is None:
        return cost, model
    latest = model.predict(kernels_of(candidates.at(point).spec))
    if context.budget is not None and _is_hopeless(latest, cost, context):
        return _with_latency(cost, latest), model
    spec = candidates.at(point).spec
    settings = CpuSettings(threads=context.config.threads)

    def measured() -> LatencyReport:
        return measured_report(spec, settings)

    report = context.noun(LatencyReport, f"measure/{spec.digest[:12]}", {"spec": spec.digest}, measured)
    refitted = refit_cpu(model, [CpuPoint(kernels_of(spec), report.p50_ms, report.p99_ms, spec.name)])
    return _with_latency(cost, report), refitted


def _is_hopeless(predicted: LatencyReport, cost: Cost, context: RunContext) -> bool:
    """Say whether even the lower end of the prediction misses the budget: then measuring tells nothing new."""
    low = {"p50": predicted.low_ms, "mean": predicted.low_ms, "p90": predicted.low_ms, "p99": predicted.low_ms}
    return context.budget is not None and bool(context.budget.misses({**low, "memory": cost.figures["memory"]}))


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
