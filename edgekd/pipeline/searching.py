"""`edgekd search` as one function: profile the space, train candidates for a short while, measure the best."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from edgekd.core.artifacts import LatencyReport, NetSpec, TrainedModel
from edgekd.core.budget import LATENCY_METRICS, Budget, parse_budget
from edgekd.core.errors import EdgeKDError, StorageError
from edgekd.core.events import Event, Listener, silent
from edgekd.data import Dataset, load_dataset
from edgekd.distill import Recipe, load_recipe
from edgekd.latency import CpuModel, LayerGraph, calibrate_cpu, predict
from edgekd.models import PRUNED, count_macs, load_model
from edgekd.pipeline.candidates import Candidates, kernels_of
from edgekd.pipeline.choosing import precision_on, require_opset
from edgekd.pipeline.config import RunConfig
from edgekd.pipeline.context import RunContext
from edgekd.pipeline.cpu_calibration import CpuSettings, calibration_points, measured_points
from edgekd.pipeline.finalists import Finals, finals_of
from edgekd.pipeline.gauges import CpuGauge, board_gauge
from edgekd.pipeline.ledger import Ledger
from edgekd.pipeline.run import RunRequest
from edgekd.pipeline.student_space import space_for
from edgekd.pipeline.training import load_teacher_for, teacher_net, teacher_of
from edgekd.profile import SystemHost
from edgekd.search import (
    Plan,
    SearchSpace,
    SpaceProfile,
    TrialRecord,
    open_storage,
    open_study,
    profile_space,
    queue_guesses,
    records_of,
    require_reachable,
    sampler_for,
    storage_errors,
    widest_fits,
    work,
    worker_name,
)
from edgekd.targets import Target, get_target

_MODEL = "edgekd.cpu"
_RESTARTS = 3


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


@dataclass(frozen=True)
class _Request:
    """What was asked, read and loaded: the same in every process of a search."""

    config: RunConfig
    target: Target
    budget: Budget | None
    recipe: Recipe
    dataset: Dataset

    @classmethod
    def of(cls, config: RunConfig) -> _Request:
        budget = parse_budget(config.budget) if config.budget else None
        target, recipe = get_target(config.target), load_recipe(config.search.method)
        if budget is not None:
            where = target.name if config.search.device is None else f"{config.search.device} ({target.name})"
            budget.require_known(_known(config), where)
        return cls(config, target, budget, recipe, load_dataset(config.data))


@dataclass(frozen=True)
class _Setting:
    """A search ready to begin: the students, and what to do with them."""

    request: _Request
    candidates: Candidates
    plan: Plan


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
    asked, started = _Request.of(config), time.monotonic()
    with Ledger.open(request.folder, fresh=request.fresh, listen=request.listener) as ledger:
        context = RunContext(config, asked.budget, asked.target, asked.recipe, asked.dataset, ledger, ledger.listen)
        board = board_gauge(context)
        where = config.search.storage or str(ledger.folder / "study.journal")
        storage = open_storage(where)
        spec, network = teacher_net(context)
        space = space_for(config.search.space, asked.dataset, spec)
        _require_opsets(space, asked.target)
        model = _calibrated(context, space, (spec, network))
        draft = _setting(asked, (spec, network), model, space)
        profile = profile_space(space, draft.plan.budget, draft.candidates.cost)
        context.note("profile", profile.statement())
        require_reachable(profile)
        if board is not None:
            board.require(draft.candidates.at(next(iter(space.families[0].points()))).spec)
        teacher = teacher_of(context, spec, network).model
        kept = ledger.folder / "trained" / config.search.name
        setting = _setting(asked, (spec, load_model(teacher)), model, space, kept)
        study = _study(setting, teacher, storage)
        if model is not None:
            model = _shared_model(study, model)
            setting.candidates.predict = _predictor(asked.target, model)
        _queue_first(study, setting)
        deadline = started + 60 * config.search.minutes if config.search.minutes else float("inf")
        _run_workers(setting, _Job(config, where, teacher, model, kept), deadline, ledger.listen)
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
    asked = _Request.of(config)
    teacher = load_teacher_for(config.teacher, asked.dataset)
    space = space_for(config.search.space, asked.dataset, teacher[0])
    if asked.target.kind == "cpu":
        return space, None
    _require_opsets(space, asked.target)
    draft = _setting(asked, teacher, None, space)
    return space, profile_space(space, draft.plan.budget, draft.candidates.cost)


def _known(config: RunConfig) -> tuple[str, ...]:
    """Return what a budget can limit: energy where a board measures it."""
    return (*LATENCY_METRICS, "memory", *(() if config.search.device is None else ("energy",)))


def _require_opsets(space: SearchSpace, target: Target) -> None:
    for one in space.families:
        if one.family != PRUNED:
            require_opset(one.family, target)


@dataclass(frozen=True)
class _Job:
    """What a worker process is sent: plain data, no networks."""

    config: RunConfig
    storage: str
    teacher: TrainedModel
    model: CpuModel | None
    kept: Path


def _setting(
    asked: _Request,
    teacher: tuple[NetSpec, torch.nn.Module],
    model: CpuModel | None,
    space: SearchSpace,
    kept: Path | None = None,
) -> _Setting:
    config, target, dataset = asked.config, asked.target, asked.dataset
    wanted = config.search
    candidates = Candidates(
        dataset=dataset,
        teacher=teacher,
        mean=config.student.mean or dataset.mean,
        std=config.student.std or dataset.std,
        recipe=asked.recipe,
        settings=config.train.model_copy(update={"epochs": wanted.rungs[-1]}),
        seed=wanted.seed,
        precision=precision_on(target),
        predict=_predictor(target, model),
        is_measured_later=target.kind == "cpu" or wanted.device is not None,
        inherit=wanted.inherit,
        kept=kept,
        multiple=4 if target.kind == "cpu" else 8,
    )
    plan = Plan(
        space=space,
        budget=None if asked.budget is None else asked.budget.only((*LATENCY_METRICS, "memory")),
        objectives=wanted.objectives,
        rungs=wanted.rungs,
        share=wanted.share,
        trials=wanted.trials,
        no_skill=dataset.task.no_skill,
        seed=wanted.seed,
        sampler=wanted.sampler,
        max_macs=_max_macs(config, teacher),
    )
    return _Setting(asked, candidates, plan)


def _max_macs(config: RunConfig, teacher: tuple[NetSpec, torch.nn.Module]) -> int:
    return int(config.student.max_share * count_macs(teacher[1], teacher[0].input_shape))


def _predictor(target: Target, model: CpuModel | None) -> Callable[[LayerGraph], LatencyReport]:
    if target.kind != "cpu":
        return lambda graph: predict(graph, target, precision_on(target))
    if model is None:
        raise StorageError("this CPU was not calibrated; run edgekd search again with --fresh")
    return model.predict


def _calibrated(context: RunContext, space: SearchSpace, teacher: tuple[NetSpec, torch.nn.Module]) -> CpuModel | None:
    """Measure about ten students on this CPU, should it be the target."""
    if context.target.kind != "cpu":
        return None
    wanted, host = context.config.search, SystemHost().state()
    max_macs = _max_macs(context.config, teacher)
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


def _study(setting: _Setting, teacher: TrainedModel, storage: Any, worker: int = 0) -> Any:
    plan, asked = setting.plan, setting.request
    config, host = asked.config, SystemHost().state()
    facts = {
        "space": plan.space.document(),
        "budget": str(plan.budget) if plan.budget else None,
        "target": asked.target.digest,
        "cpu": host.cpu_model if asked.target.kind == "cpu" else None,
        "threads": config.threads,
        "data": asked.dataset.digest,
        "teacher": teacher.weights.sha256,
        "method": setting.candidates.recipe.digest,
        "train": setting.candidates.settings.model_dump(mode="json"),
        "rungs": list(plan.rungs),
        "share": plan.share,
        "objectives": list(plan.objectives),
        "max_macs": plan.max_macs,
        "inherit": config.search.inherit,
        "seed": plan.seed,
        **({} if config.search.device is None else {"device": config.search.device}),
    }
    name = config.search.name
    study = open_study(storage, name, directions=plan.directions, facts=facts, sampler=None)
    study.sampler = sampler_for(plan, worker, begun=len(study.get_trials(deepcopy=False)))
    return study


def _queue_first(study: Any, setting: _Setting) -> None:
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


def _run_workers(setting: _Setting, job: _Job, deadline: float, listener: Listener) -> None:
    count = job.config.search.workers
    if count == 1:
        _work(replace(setting, plan=replace(setting.plan, stop_at=deadline)), job, 0, listener)
        return
    spawn = multiprocessing.get_context("spawn")

    def start(index: int) -> Any:
        left = deadline - time.monotonic()
        process = spawn.Process(target=_worker_process, args=(job, index, left), name=f"edgekd search {index}")
        process.start()
        return process

    running = {index: start(index) for index in range(count)}
    restarts = dict.fromkeys(running, 0)
    try:
        while running:
            for index, process in list(running.items()):
                process.join(timeout=0.2)
                if process.is_alive():
                    continue
                del running[index]
                if process.exitcode == 0:
                    continue
                listener(Event("note", "search", f"worker {index} ended with {process.exitcode}; its trial is retried"))
                restarts[index] += 1
                if restarts[index] > _RESTARTS:
                    raise EdgeKDError(
                        f"worker {index} ended {restarts[index]} times, last with {process.exitcode}; run with "
                        "--workers 1 to see why, and again to go on"
                    )
                running[index] = start(index)
    finally:
        for process in running.values():
            process.terminate()


def _worker_process(job: _Job, index: int, seconds_left: float) -> None:
    torch.set_num_threads(1)
    asked = _Request.of(job.config)
    teacher = (job.teacher.spec, load_model(job.teacher))
    space = space_for(job.config.search.space, asked.dataset, job.teacher.spec)
    setting = _setting(asked, teacher, job.model, space, job.kept)
    plan = replace(setting.plan, stop_at=time.monotonic() + seconds_left)
    _work(replace(setting, plan=plan), job, index, silent)


def _work(setting: _Setting, job: _Job, index: int, listener: Listener) -> None:
    study = _study(setting, job.teacher, open_storage(job.storage), index)
    with storage_errors(job.storage):
        work(study, setting.plan, setting.candidates, worker=worker_name(index), listener=listener)
