"""The stages that train: the teacher where none is given, students with it and without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import TypeAdapter
from torch import Tensor, nn

from edgekd.core.artifacts import NetSpec, TrainedModel, from_json, to_json
from edgekd.core.atomic import write_json
from edgekd.core.digest import sha256_of_arrays, sha256_of_json
from edgekd.core.errors import ConfigError
from edgekd.core.events import Event
from edgekd.data import Dataset
from edgekd.distill import (
    Epoch,
    Recipe,
    Resumption,
    RunOptions,
    TrainSettings,
    check_recipe,
    evaluate,
    load_recipe,
)
from edgekd.distill.jobs import Job
from edgekd.models import build, count_params, load_model, save_weights, teacher_start
from edgekd.pipeline.config import TeacherConfig
from edgekd.pipeline.context import RunContext
from edgekd.pipeline.networks import network_for
from edgekd.pipeline.starting import settings_of, start_of

_EPOCHS = TypeAdapter(tuple[Epoch, ...])

CHECKPOINTS = "checkpoints"
"""Where in a run folder trainings keep what they need to go on."""


Role: TypeAlias = Literal["teacher", "alone", "distilled"]
Trained: TypeAlias = tuple[nn.Module, tuple[Epoch, ...]]


@dataclass(frozen=True)
class Training:
    """A trained network and how its training went.

    Attributes:
        model: The network.
        history: Every epoch; empty for a network that was given.
    """

    model: TrainedModel
    history: tuple[Epoch, ...]


@dataclass(frozen=True)
class _Plan:
    role: Role
    recipe: Recipe
    spec: NetSpec
    settings: TrainSettings
    seed: int
    start: Mapping[str, Tensor]


@dataclass(frozen=True)
class _Facts:
    role: Role
    spec: NetSpec
    method: str
    seed: int
    parents: tuple[str, ...] = ()

    @property
    def stage(self) -> str:
        return self.role if self.role == "teacher" else f"{self.role}/seed{self.seed}"


def teacher_net(context: RunContext) -> tuple[NetSpec, nn.Module]:
    """Make the teacher's network of a run, see `load_teacher_for`."""
    return load_teacher_for(context.config.teacher, context.dataset)


def load_teacher_for(config: TeacherConfig, dataset: Dataset) -> tuple[NetSpec, nn.Module]:
    """Make a teacher's network, with its weights where they are given.

    Raises:
        ConfigError: The teacher does not fit the data.
    """
    weights = None if config.weights is None else Path(config.weights)
    if weights is not None and not weights.is_file():
        raise ConfigError(f"teacher weights {weights}: no such file")
    return network_for(config.net, dataset, role="teacher", mean=config.mean, std=config.std, weights=weights)


def require_fitting(context: RunContext, student: NetSpec, teacher: NetSpec, teacher_net: nn.Module) -> None:
    """Refuse, before anything is trained, a method that does not fit these networks or this data.

    Raises:
        ConfigError: It does not.
    """
    start = _start(context, student, teacher, lambda: teacher_net)
    for recipe in (context.recipe, *([load_recipe(context.recipe.baseline)] if context.config.compare_alone else [])):
        check_recipe(
            recipe,
            student=student,
            teacher=(teacher, teacher_net),
            dataset=context.dataset,
            batch_size=context.config.train.batch_size,
            start=start,
            settings=context.config.train,
        )
    _note_drawn(context, student, start)


def teacher_of(context: RunContext, spec: NetSpec, module: nn.Module) -> Training:
    """Take the teacher that was given, or train one of the zoo. A Python function gives its network with weights.

    A folder of a BERT without a classifier gives the weights that its training starts from.

    Args:
        context: The run.
        spec: Its architecture.
        module: Its network, as `teacher_net` made it.

    Raises:
        ConfigError: It came without weights and cannot be trained, or it knows nothing about the data.
    """
    config, dataset = context.config.teacher, context.dataset
    if spec.family == "timm" and config.weights is None:
        raise ConfigError(
            f"teacher {config.net} comes without weights, none are downloaded: give --teacher-weights FILE"
        )
    start = {} if config.weights is not None else teacher_start(config.net, spec)
    is_whole = bool(start) and start.keys() == module.state_dict().keys()
    if config.weights is not None or spec.family == "python" or is_whole:
        _require_knowledge(context, config.net, module)
        state = {name: value.cpu().numpy() for name, value in module.state_dict().items()}
        inputs = {"spec": spec.digest, "weights": sha256_of_arrays(state), "data": dataset.digest}
        return _kept(context, _Facts("teacher", spec, "given", seed=0), inputs, lambda: (module, ()))
    plan = _Plan("teacher", load_recipe("plain"), spec, teacher_settings(context), seed=0, start=start)
    return _trained(context, plan, None)


def _require_knowledge(context: RunContext, name: str, module: nn.Module) -> None:
    task = context.dataset.task
    score = evaluate(module, context.dataset.val).score
    if not task.is_skilled(score):
        raise ConfigError(
            f"teacher {name} has {task.metric.text(score)} on held-out inputs, where one answer to everything reaches "
            f"{task.metric.text(task.no_skill)}: its weights, class order or normalisation "
            "(--set teacher.mean=[...], teacher.std=[...]) do not fit this data"
        )


def student_of(
    context: RunContext, role: Literal["alone", "distilled"], spec: NetSpec, teacher: TrainedModel, seed: int
) -> Training:
    """Train one student, with the teacher (`"distilled"`) or without (`"alone"`), from the same weights and batches."""
    recipe = context.recipe if role == "distilled" else load_recipe(context.recipe.baseline)
    start = _start(context, spec, teacher.spec, lambda: load_model(teacher))
    return _trained(context, _Plan(role, recipe, spec, settings_of(context.config.train, spec), seed, start), teacher)


def _start(
    context: RunContext, student: NetSpec, teacher: NetSpec, network: Callable[[], nn.Module]
) -> Mapping[str, Tensor]:
    return start_of(context.config.student, context.dataset, student, teacher, network)


def _note_drawn(context: RunContext, student: NetSpec, start: Mapping[str, Tensor]) -> None:
    drawn = [name for name, _ in build(student).named_parameters() if name not in start]
    if context.config.student.weights is not None and drawn:
        context.note("student", f"{context.config.student.weights} has no {', '.join(drawn)} that fit: these are drawn")


def teacher_settings(context: RunContext) -> TrainSettings:
    """Return the settings that a run trains its teacher with: it has no teacher itself, so no cache and its views."""
    config = context.config.teacher
    own = {"epochs": config.epochs, "lr": config.lr}
    given = {name: value for name, value in own.items() if value is not None}
    return context.config.train.model_copy(update={"teacher_cache": None, "augment_views": None, **given})


def _trained(context: RunContext, plan: _Plan, teacher: TrainedModel | None) -> Training:
    used = teacher if plan.recipe.needs_teacher else None
    facts = _Facts(plan.role, plan.spec, plan.recipe.name, plan.seed, (used.digest,) if used else ())
    inputs = {
        "recipe": plan.recipe.digest,
        "spec": plan.spec.digest,
        "teacher": used.digest if used else None,
        "data": context.dataset.digest,
        "settings": plan.settings.deciding(),
        "seed": plan.seed,
        "start": sha256_of_arrays({name: value.cpu().numpy() for name, value in plan.start.items()}),
    }

    def train() -> Trained:
        folder = context.folder / CHECKPOINTS / facts.stage
        resume = Resumption(
            folder / f"state-{sha256_of_json(inputs)[:12]}.safetensors",
            every_s=plan.settings.checkpoint_every_s,
            keep=plan.settings.keep_checkpoints,
        )
        job = Job(
            plan.recipe,
            plan.spec,
            (used.spec, load_model(used)) if used else None,
            context.dataset.digest,
            plan.settings,
            RunOptions(plan.seed, facts.stage, folder, start=plan.start, resume=resume),
        )
        if context.group is None:
            outcome = job.run(context.dataset, context.listener)
        else:
            outcome = context.group.train(job, folder / "job", context.dataset, context.listener)
        forget_states(folder)
        return outcome.student, outcome.history

    return _kept(context, facts, inputs, train)


def forget_states(folder: Path) -> None:
    """Remove the states of trainings under a folder, which would otherwise be gone on from."""
    for state in folder.rglob("state-*.safetensors"):
        state.unlink(missing_ok=True)


def _kept(context: RunContext, facts: _Facts, inputs: dict[str, Any], train: Callable[[], Trained]) -> Training:
    def work() -> dict[str, Any]:
        module, history = train()
        folder = context.folder / ("teacher" if facts.role == "teacher" else "student")
        path = folder / f"{facts.stage.replace('/', '-')}.safetensors"
        weights = save_weights(module, path, {"role": facts.role, "net": facts.spec.name})
        splits = {"val": context.dataset.val, "test": context.dataset.test}
        scores = {name: evaluate(module, split).score for name, split in splits.items()}
        told = {f"{name}_score": score for name, score in scores.items()}
        context.listener(Event("result", facts.stage, "", values={**told, "params": count_params(module)}))
        model = TrainedModel(facts.role, facts.spec, weights, scores, facts.method, facts.seed, facts.parents)
        write_json(path.with_suffix(".json"), to_json(model))
        return {"model": to_json(model), "history": [dataclasses.asdict(epoch) for epoch in history]}

    result = context.ledger.stage(facts.stage, inputs, work)
    return Training(from_json(TrainedModel, result["model"]), _EPOCHS.validate_python(result["history"]))
