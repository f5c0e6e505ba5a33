"""What a search is asked and begins with: read and loaded, the same in every process of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgekd.core.artifacts import LatencyReport, NetSpec, TrainedModel
from edgekd.core.budget import LATENCY_METRICS, Budget, parse_budget
from edgekd.core.errors import StorageError
from edgekd.data import Dataset, load_dataset
from edgekd.distill import Recipe, load_recipe
from edgekd.latency import CpuModel, LayerGraph, predict
from edgekd.models import count_macs
from edgekd.pipeline.candidates import Candidates
from edgekd.pipeline.choosing import multiple_on, precision_on
from edgekd.pipeline.config import RunConfig
from edgekd.profile import SystemHost
from edgekd.search import Plan, SearchSpace, open_study, sampler_for
from edgekd.targets import Target, get_target


@dataclass(frozen=True)
class SearchRequest:
    """What was asked, read and loaded: the same in every process of a search."""

    config: RunConfig
    target: Target
    budget: Budget | None
    recipe: Recipe
    dataset: Dataset

    @classmethod
    def of(cls, config: RunConfig) -> SearchRequest:
        """Read and load what a configuration asks for.

        Raises:
            ConfigError: Something in it is not known, or the budget limits what this target cannot say.
        """
        budget = parse_budget(config.budget) if config.budget is not None else None
        target, recipe = get_target(config.target), load_recipe(config.search.method)
        if budget is not None:
            where = target.name if config.search.device is None else f"{config.search.device} ({target.name})"
            budget.require_known(_known(config), where)
        return cls(config, target, budget, recipe, load_dataset(config.data))


@dataclass(frozen=True)
class SearchSetting:
    """A search ready to begin: the students, and what to do with them."""

    request: SearchRequest
    candidates: Candidates
    plan: Plan


def setting_of(
    asked: SearchRequest,
    teacher: tuple[NetSpec, torch.nn.Module],
    model: CpuModel | None,
    space: SearchSpace,
    kept: Path | None = None,
) -> SearchSetting:
    """Return the students of a search and what to do with them.

    Args:
        asked: What was asked.
        teacher: The teacher's architecture and network.
        model: Predicts latencies where this CPU is the target; None before its calibration.
        space: What may be chosen.
        kept: Folder where trained students are kept, or None.
    """
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
        predict=predictor(target, model),
        is_measured_later=target.kind == "cpu" or wanted.device is not None,
        inherit=wanted.inherit,
        kept=kept,
        multiple=multiple_on(target),
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
        max_macs=macs_limit(config, teacher),
    )
    return SearchSetting(asked, candidates, plan)


def macs_limit(config: RunConfig, teacher: tuple[NetSpec, torch.nn.Module]) -> int:
    """Return how many multiply-accumulates a student may have, by its share of the teacher's."""
    return int(config.student.max_share * count_macs(teacher[1], teacher[0].input_shape))


def predictor(target: Target, model: CpuModel | None) -> Callable[[LayerGraph], LatencyReport]:
    """Return what predicts a network's latency on the target."""
    if target.kind != "cpu":
        return lambda graph: predict(graph, target, precision_on(target))
    if model is None:
        raise StorageError("this CPU was not calibrated; run edgekd search again with --fresh")
    return model.predict


def study_of(setting: SearchSetting, teacher: TrainedModel, storage: Any, worker: int = 0) -> Any:
    """Return the Optuna study of a search, begun or gone on with; a search of something else is refused."""
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


def _known(config: RunConfig) -> tuple[str, ...]:
    """Return what a budget can limit: energy where a board measures it."""
    return (*LATENCY_METRICS, "memory", *(() if config.search.device is None else ("energy",)))
