"""The last stage: everything the others found, as one report."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgekd import __version__
from edgekd.core.artifacts import Bundle, Engine, FileRef, LatencyReport, TrainedModel
from edgekd.core.events import Event
from edgekd.data import CORRUPT_FILE, Dataset, Task
from edgekd.latency import graph_from_onnx
from edgekd.models import count_macs, count_params, deploy, load_model
from edgekd.pipeline.config import CONFIG_FILE
from edgekd.pipeline.context import RunContext
from edgekd.pipeline.exporting import Exported, PrecisionChoice
from edgekd.pipeline.tracking import RUN
from edgekd.pipeline.training import Training
from edgekd.report import (
    ArtifactRow,
    BudgetResult,
    CorruptInputRow,
    Curve,
    CurvePoint,
    DataFacts,
    FidelityRow,
    LatencyRow,
    LayerTable,
    PairedGain,
    Parity,
    PrecisionDecision,
    PrecisionVerdict,
    RunReport,
    Scores,
    ScoreSummary,
    SizeRow,
    TargetRef,
    TaskFacts,
    Verdict,
)
from edgekd.search import memory_bytes

_PACKAGES = ("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "numpy")


@dataclass(frozen=True)
class Findings:
    """What the stages made.

    Attributes:
        teacher: The teacher.
        alone: Students trained without it, one a seed.
        distilled: Students trained with it, one a seed.
        student: The distilled student that is shipped.
        fidelity: How well each student follows the teacher.
        exported: It as ONNX, with parity.
        choice: Its precisions.
        engines: Engines built.
        latencies: Timings, the chosen model on the target first.
        bundle: What is shipped.
        notes: What the reader should know.
    """

    teacher: Training
    alone: tuple[Training, ...]
    distilled: tuple[Training, ...]
    student: TrainedModel
    fidelity: tuple[FidelityRow, ...]
    exported: Exported
    choice: PrecisionChoice
    engines: tuple[Engine, ...]
    latencies: tuple[LatencyReport, ...]
    bundle: Bundle
    notes: tuple[str, ...]


def report_of(context: RunContext, findings: Findings, command: str) -> RunReport:
    """Put the report together."""
    scores = _scores(findings)
    gain = None if scores.alone is None else PairedGain.of(scores.distilled, scores.alone)
    budget = _budget(context, findings)
    dataset = context.dataset
    return RunReport(
        name=context.folder.name,
        created=context.ledger.created,
        command=command,
        verdict=Verdict.of(budget),
        budget=budget,
        target=TargetRef(name=context.target.name, title=context.target.title),
        data=_data(dataset),
        method=context.recipe.name,
        task=_task(dataset.task),
        scores=scores,
        gain=gain,
        fidelity=findings.fidelity,
        latency=tuple(LatencyRow.of(report) for report in findings.latencies),
        parity=_parity(findings.exported),
        precision=_decision(context, findings.choice),
        sizes=(_size(findings.teacher.model), _size(findings.student, findings.choice)),
        curves=_curves(findings),
        artifacts=_artifacts(context, findings),
        notes=(*dataset.notes, *findings.notes),
        environment=_environment(),
    )


def result_of(report: RunReport) -> Event:
    """Return the figures that a run ends with, for its log and for trackers."""
    scores = {"teacher": report.scores.teacher, "alone": report.scores.alone, "distilled": report.scores.distilled}
    values = {f"{role}_score": summary.mean for role, summary in scores.items() if summary is not None}
    if report.gain is not None:
        values["gain"] = report.gain.mean
    for row in report.latency:
        name = f"{row.target} {row.precision} {row.network} {row.kind}"
        values |= {f"{name} p50_ms": row.p50_ms, f"{name} p99_ms": row.p99_ms}
    for size in report.sizes:
        values |= {f"{size.network}_params": size.params, f"{size.network}_macs": size.macs}
        values |= {f"{size.network} {precision} onnx_bytes": count for precision, count in size.onnx_bytes.items()}
    return Event("result", RUN, "", values=values)


def _data(dataset: Dataset) -> DataFacts:
    corrupt = () if dataset.corrupt is None else dataset.corrupt.records()
    return DataFacts(
        name=dataset.name,
        digest=dataset.digest,
        targets=len(dataset.task.targets),
        train=len(dataset.train),
        val=len(dataset.val),
        test=len(dataset.test),
        unlabelled=int((~dataset.train.has_label).sum()),
        shards=None if dataset.shards is None else dataset.shards.count,
        missing_shards=() if dataset.shards is None else dataset.shards.missing,
        corrupt=tuple(CorruptInputRow.model_validate(asdict(record)) for record in corrupt),
    )


def _task(task: Task) -> TaskFacts:
    metric = task.metric
    return TaskFacts(
        kind=task.kind, metric=metric.name, is_share=metric.is_share, agreement=task.agreement_measure.name
    )


def _scores(findings: Findings) -> Scores:
    return Scores(
        teacher=_summary([findings.teacher]),
        alone=_summary(findings.alone) if findings.alone else None,
        distilled=_summary(findings.distilled),
    )


def _summary(trainings: Sequence[Training]) -> ScoreSummary:
    by_seed = {training.model.seed: training.model.scores["test"] for training in trainings}
    return ScoreSummary.of(trainings[0].model.spec.name, "test", by_seed)


def _budget(context: RunContext, findings: Findings) -> BudgetResult | None:
    if context.budget is None:
        return None
    latency, figures = findings.latencies[0], dict(findings.latencies[0].judged_ms)
    if context.budget.only(("memory",)).clauses:
        graph = graph_from_onnx(Path(findings.exported.model.file.path))
        figures["memory"] = memory_bytes(graph, findings.choice.chosen.precision) / 1e6
    return BudgetResult.of(context.budget, kind=latency.kind, judged_ms=figures)


def _parity(exported: Exported) -> Parity:
    report = exported.parity
    return Parity(
        max_abs=report.max_abs,
        max_rel=report.max_rel,
        agreement=report.agreement,
        n=report.n,
        tolerance=report.tolerance,
        is_ok=report.is_ok,
    )


def _decision(context: RunContext, choice: PrecisionChoice) -> PrecisionDecision:
    return PrecisionDecision(
        chosen=choice.chosen.precision,
        flavour=choice.chosen.flavour,
        max_drop=context.config.max_drop,
        verdicts=tuple(PrecisionVerdict(**verdict) for verdict in choice.verdicts),
        variant=choice.variant,
        layers=None if choice.layers is None else LayerTable.model_validate_json(json.dumps(choice.layers)),
    )


def _size(model: TrainedModel, choice: PrecisionChoice | None = None) -> SizeRow:
    module = deploy(load_model(model))
    files = {} if choice is None else {role: onnx.file.size_bytes for role, onnx in choice.models.items()}
    return SizeRow(
        network="teacher" if choice is None else "student",
        net=model.spec.name,
        params=count_params(module),
        macs=count_macs(module, model.spec.input_shape),
        onnx_bytes=files,
    )


def _curves(findings: Findings) -> tuple[Curve, ...]:
    groups = [("teacher", (findings.teacher,)), ("alone", findings.alone), ("distilled", findings.distilled)]
    return tuple(curve for role, trainings in groups for training in trainings for curve in _of(role, training))


def _of(role: str, training: Training) -> list[Curve]:
    points: dict[str, list[CurvePoint]] = defaultdict(list)
    for epoch in training.history:
        point = CurvePoint(epoch=epoch.epoch, loss=epoch.loss, val_score=epoch.val_score)
        points[epoch.stage].append(point)
    return [
        Curve(stage=role if stage == "student" else stage, seed=training.model.seed, points=tuple(rows))
        for stage, rows in points.items()
    ]


def _artifacts(context: RunContext, findings: Findings) -> tuple[ArtifactRow, ...]:
    files: list[tuple[str, FileRef]] = [("teacher", findings.teacher.model.weights)]
    files += [(f"{t.model.role} seed {t.model.seed}", t.model.weights) for t in (*findings.alone, *findings.distilled)]
    files += [(f"onnx {role}", model.file) for role, model in findings.choice.models.items()]
    files += [
        (f"engine {engine.backend} {engine.target} {engine.precision}", engine.file) for engine in findings.engines
    ]
    files.append(("bundle manifest", findings.bundle.manifest))
    return tuple(ArtifactRow.of(kind, file, folder=context.folder) for kind, file in files)


def _environment() -> dict[str, str]:
    versions = {"edgekd": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def shipped(distilled: Sequence[Training]) -> TrainedModel:
    """Return the student to ship: the best on the held-out split, the first of equal ones."""
    return max(distilled, key=lambda training: training.model.scores["val"]).model


def run_files(folder: Path) -> list[str]:
    """List what a run writes, for `--dry-run`."""
    names = [CONFIG_FILE, "run.json", "log.jsonl", CORRUPT_FILE]
    folders = ["teacher/", "student/", "checkpoints/", "onnx/", "engines/", "bundle/"]
    return [str(folder / name) for name in (*names, *folders, "report.json", "report.html")]
