"""`edgekd distill` as one function: every stage in order, each kept in the ledger, a report at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.core import atomic
from edgekd.core.artifacts import NetSpec, TrainedModel
from edgekd.core.events import Event, Listener, silent
from edgekd.data import CORRUPT_FILE, load_dataset
from edgekd.distill import TrainSettings
from edgekd.distill.group import Group
from edgekd.models import PRUNED, has_normalization, load_model
from edgekd.pipeline.asked import asked_of
from edgekd.pipeline.building import engines, latencies
from edgekd.pipeline.choosing import student_for
from edgekd.pipeline.config import RunConfig, write_config
from edgekd.pipeline.context import TOKENIZER_FILE, RunContext
from edgekd.pipeline.estimating import sized
from edgekd.pipeline.event_log import broadcast
from edgekd.pipeline.exporting import PrecisionChoice, exported, precisions
from edgekd.pipeline.ledger import Ledger
from edgekd.pipeline.packing import bundle_of
from edgekd.pipeline.probing import fidelities
from edgekd.pipeline.qat import fine_tuned, require_trainable
from edgekd.pipeline.reporting import Findings, report_of, result_of, shipped
from edgekd.pipeline.starting import settings_of
from edgekd.pipeline.timing import timed_precisions
from edgekd.pipeline.tracking import tracked
from edgekd.pipeline.training import (
    CHECKPOINTS,
    forget_states,
    require_fitting,
    student_of,
    teacher_net,
    teacher_of,
)
from edgekd.report import RunReport, write_report
from edgekd.targets import describe


@dataclass(frozen=True)
class RunRequest:
    """Where and how to run.

    Attributes:
        folder: The run folder.
        command: The command that makes or resumes the run, for the report.
        fresh: Start over instead of resuming.
        listener: Told of progress.
        group: The processes that train together, this one the first, or None.
    """

    folder: Path
    command: str
    fresh: bool = False
    listener: Listener = silent
    group: Group | None = None


def distill(config: RunConfig, request: RunRequest) -> RunReport:
    """Distil a student under a latency budget, export, quantise, build, time and pack it.

    Running it again resumes: stages whose inputs and files are unchanged are kept.

    Args:
        config: What to do.
        request: Where, and whom to tell.

    Returns:
        The report, also written to the run folder.

    Raises:
        EdgeKDError: Any stage failed; what was finished is kept.
    """
    asked = asked_of(config, processes=1 if request.group is None else request.group.ranks.of)
    with (
        tracked(config, request.folder) as tracking,
        Ledger.open(request.folder, fresh=request.fresh, listen=broadcast(request.listener, tracking)) as ledger,
    ):
        tracking.tell = ledger.listen
        if request.fresh:
            forget_states(ledger.folder / CHECKPOINTS)
            (ledger.folder / CORRUPT_FILE).unlink(missing_ok=True)
        write_config(config, ledger.folder)
        ledger.listen(Event("note", "target", describe(asked.target)))
        dataset = load_dataset(config.data, corrupt_file=ledger.folder / CORRUPT_FILE)
        known = (asked.budget, asked.target, asked.recipe)
        context = RunContext(config, *known, dataset, ledger, ledger.listen, request.group)
        if context.dataset.tokenizer is not None:
            atomic.write_text(ledger.folder / TOKENIZER_FILE, context.dataset.tokenizer.json)
        findings = _findings(context)
        report = report_of(context, findings, request.command)
        write_report(report, ledger.folder)
        ledger.listen(result_of(report))
        return report


def _findings(context: RunContext) -> Findings:
    require_trainable(context)
    teacher_spec, network = teacher_net(context)
    spec, reason = student_for(context, teacher_spec, network)
    context = sized(context, spec, (teacher_spec, network))
    require_fitting(context, spec, teacher_spec, network)
    teacher = teacher_of(context, teacher_spec, network)
    seeds = range(context.config.seeds)
    alone = [student_of(context, "alone", spec, teacher.model, seed) for seed in seeds if context.config.compare_alone]
    distilled = [student_of(context, "distilled", spec, teacher.model, seed) for seed in seeds]
    unlearned = _unlearned(context, [training.model for training in (teacher, *alone, *distilled)])
    student = shipped(distilled)
    fp32 = exported(context, student)
    tuned = fine_tuned(context, student, teacher.model) if context.config.precision.qat else None
    choice = precisions(context, fp32.model, tuned)
    built, of_engines = engines(context, choice)
    notes = (*_beginning(context, spec), *unlearned, *of_engines, *_untimed(context, choice))
    return Findings(
        teacher=teacher,
        alone=tuple(alone),
        distilled=tuple(distilled),
        student=student,
        fidelity=fidelities(context, teacher.model, [training.model for training in (*alone, *distilled)]),
        exported=fp32,
        choice=choice,
        engines=built,
        latencies=latencies(context, choice),
        bundle=bundle_of(context, student, choice),
        notes=(reason, *notes, *_caching(context.config.train)),
    )


def _beginning(context: RunContext, student: NetSpec) -> list[str]:
    if student.family != PRUNED:
        return []
    rate = settings_of(context.config.train, student).student_lr
    return [
        f"{student.name} begins with the teacher's weights, also where it is trained without the teacher, and its "
        f"layers learn at {rate:g} of the learning rate"
    ]


def _unlearned(context: RunContext, models: Sequence[TrainedModel]) -> list[str]:
    """Tell of networks that know no more than one answer to everything: to keep a budget is no use to them."""
    task, told = context.dataset.task, []
    for model in models:
        if task.is_skilled(model.scores["val"]):
            continue
        words = (
            f"{model.role}, seed {model.seed}, did not learn: {task.metric.text(model.scores['val'])} on held-out "
            f"inputs, where one answer to everything reaches {task.metric.text(task.no_skill)}"
        )
        if not has_normalization(load_model(model)):
            words += "; networks without normalisation layers often need train.optimizer=adamw and train.lr=0.001"
        context.note(f"{model.role}/seed{model.seed}", words)
        told.append(words)
    return told


def _caching(settings: TrainSettings) -> list[str]:
    if settings.teacher_cache is None:
        return []
    logits = "all logits" if settings.cache_top_k is None else f"the {settings.cache_top_k} largest logits"
    views = "a new view" if settings.augment_views is None else f"one of {settings.augment_views} views"
    return [
        f"students were trained with the teacher cache {settings.teacher_cache}: {logits}, rounded to "
        f"{settings.cache_dtype}; an epoch shows {views} of each sample"
    ]


def _untimed(context: RunContext, choice: PrecisionChoice) -> list[str]:
    missing = {model.precision for model in choice.models.values()} - set(timed_precisions(context.target))
    return [f"{precision} was not considered: {context.target.name} does not run it at speed" for precision in missing]
