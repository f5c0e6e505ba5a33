"""`edgekd search` as one function: profile the space, train candidates for a short while, measure the best."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgekd.core.artifacts import LatencyReport, NetSpec, TrainedModel
from edgekd.core.events import Event, Listener
from edgekd.latency import CpuModel, LayerGraph, calibrate_cpu
from edgekd.models import PRUNED, load_model
from edgekd.pipeline.candidates import Candidates, kernels_of
from edgekd.pipeline.choosing import require_opset
from edgekd.pipeline.config import RunConfig, write_config
from edgekd.pipeline.context import RunContext
from edgekd.pipeline.cpu_calibration import CpuSettings, calibration_points, measured_points
from edgekd.pipeline.event_log import broadcast
from edgekd.pipeline.finalists import Finals, finals_of
from edgekd.pipeline.gauges import CpuGauge, board_gauge
from edgekd.pipeline.ledger import Ledger
from edgekd.pipeline.run import RunRequest
from edgekd.pipeline.search_setting import SearchRequest, SearchSetting, macs_limit, predictor, setting_of, study_of
from edgekd.pipeline.search_workers import WorkerJob, run_workers
from edgekd.pipeline.student_space import space_for
from edgekd.pipeline.tracking import tracked
from edgekd.pipeline.training import load_teacher_for, teacher_net, teacher_of
from edgekd.profile import SystemHost
from edgekd.search import (
    SearchSpace,
    SpaceProfile,
    TrialRecord,
    open_storage,
    profile_space,
    queue_guesses,
    records_of,
    require_reachable,
    widest_fits,
)
from edgekd.targets import Target

_MODEL = "edgekd.cpu"


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        profile: What the space costs.
        records: Every trial.
        finals: Students returned and refused.
        storage: Where the study is kept.
        teacher: The teacher.
        folder: Where the files are.
    """

    profile: SpaceProfile
    records: tuple[TrialRecord, ...]
    finals: Finals
    storage: str
    teacher: TrainedModel
    folder: Path


def search(config: RunConfig, request: RunRequest) -> SearchResult:
    """Search students that keep a budget.

    Running it again resumes: the teacher and the study are kept, lost trials are tried again.

    Args:
        config: What to do.
        request: Where, and whom to tell.

    Returns:
        The students found, also written to the folder.

    Raises:
        BudgetExceeded: No student of the space keeps the budget.
        EdgeKDError: Any stage failed; what was finished is kept.
    """
    asked, started = SearchRequest.of(config), time.monotonic()
    with (
        tracked(config, request.folder) as tracking,
        Ledger.open(request.folder, fresh=request.fresh, listen=broadcast(request.listener, tracking)) as ledger,
    ):
        tracking.tell = ledger.listen
        context = RunContext(config, asked.budget, asked.target, asked.recipe, asked.dataset, ledger, ledger.listen)
        board = board_gauge(context)
        where = config.search.storage or str(ledger.folder / "study.journal")
        storage = open_storage(where)
        spec, network = teacher_net(context)
        space = space_for(config.search.space, asked.dataset, spec)
        _require_opsets(space, asked.target)
        model = _calibrated(context, space, (spec, network))
        draft = setting_of(asked, (spec, network), model, space)
        profile = profile_space(space, draft.plan.budget, draft.candidates.cost)
        context.note("profile", profile.statement())
        require_reachable(profile)
        if board is not None:
            board.require(draft.candidates.at(next(iter(space.families[0].points()))).spec)
        teacher = teacher_of(context, spec, network).model
        kept = ledger.folder / "trained" / config.search.name
        setting = setting_of(asked, (spec, load_model(teacher)), model, space, kept)
        study = study_of(setting, teacher, storage)
        write_config(config, ledger.folder)
        if model is not None:
            model = _shared_model(study, model)
            setting.candidates.predict = predictor(asked.target, model)
        _queue_first(study, setting)
        deadline = started + 60 * config.search.minutes if config.search.minutes else float("inf")
        _worked(setting, WorkerJob(config, where, teacher, model, kept), study, deadline, ledger.listen)
        records = tuple(records_of(study))
        gauge = board if model is None else CpuGauge(model, config.threads)
        finals = finals_of(
            records, setting.candidates, context, ledger.folder / "finalists", gauge=gauge, teacher=teacher
        )
        return SearchResult(profile, records, finals, where, teacher, ledger.folder)


def planned_space(config: RunConfig) -> tuple[SearchSpace, SpaceProfile | None]:
    """Return the space of a search, and what it costs where that is known without measuring; nothing is written.

    Raises:
        ConfigError: The space is empty or does not fit the data, or the teacher does not.
        TargetError: The target cannot be predicted.
    """
    asked = SearchRequest.of(config)
    teacher = load_teacher_for(config.teacher, asked.dataset)
    space = space_for(config.search.space, asked.dataset, teacher[0])
    if asked.target.kind == "cpu":
        return space, None
    _require_opsets(space, asked.target)
    draft = setting_of(asked, teacher, None, space)
    return space, profile_space(space, draft.plan.budget, draft.candidates.cost)


def _require_opsets(space: SearchSpace, target: Target) -> None:
    for one in space.families:
        if one.family != PRUNED:
            require_opset(one.family, target)


def _calibrated(context: RunContext, space: SearchSpace, teacher: tuple[NetSpec, torch.nn.Module]) -> CpuModel | None:
    """Measure about ten students on this CPU, should it be the target."""
    if context.target.kind != "cpu":
        return None
    wanted, host = context.config.search, SystemHost().state()
    max_macs = macs_limit(context.config, teacher)
    inputs = {
        "space": space.document(),
        "count": wanted.calibration,
        "max_macs": max_macs,
        "threads": context.config.threads,
        "cpu": [host.cpu_model, host.logical_cpus],
        "seed": wanted.seed,
    }

    def calibrate() -> dict[str, Any]:
        maker = Candidates(
            dataset=context.dataset,
            teacher=teacher,
            mean=context.config.student.mean or context.dataset.mean,
            std=context.config.student.std or context.dataset.std,
            recipe=context.recipe,
            settings=context.config.train,
            seed=wanted.seed,
            precision="fp32",
            predict=_unknown,
            inherit=False,
        )
        points = calibration_points(
            space,
            lambda point: kernels_of(maker.at(point).spec).macs,
            count=wanted.calibration,
            max_macs=max_macs,
            seed=wanted.seed,
        )
        specs = [maker.at(point).spec for point in points]
        context.note("calibrate", f"measuring {len(specs)} students on this CPU")
        settings = CpuSettings(threads=context.config.threads)
        return calibrate_cpu(measured_points([(spec, kernels_of(spec)) for spec in specs], settings)).document()

    return CpuModel.of_document(context.ledger.stage("calibrate", inputs, calibrate))


def _unknown(_graph: LayerGraph) -> LatencyReport:
    raise NotImplementedError("latencies are not known before the calibration")


def _worked(setting: SearchSetting, job: WorkerJob, study: Any, deadline: float, listener: Listener) -> None:
    listener(Event("start", "search", f"{setting.plan.trials} students, {job.config.search.workers} worker(s)"))
    started = time.monotonic()
    run_workers(setting, job, study, deadline, listener)
    listener(Event("end", "search", values={"seconds": time.monotonic() - started}))


def _queue_first(study: Any, setting: SearchSetting) -> None:
    if not study.get_trials(deepcopy=False):
        plan, candidates = setting.plan, setting.candidates
        queue_guesses(study, plan.space, widest_fits(plan.space, candidates.cost, plan.fits))


def _shared_model(study: Any, model: CpuModel) -> CpuModel:
    """Let every machine that joins a study on CPUs use the calibration of the first."""
    known = study.user_attrs.get(_MODEL)
    if known is None:
        study.set_user_attr(_MODEL, model.document())
        return model
    return CpuModel.of_document(known)
