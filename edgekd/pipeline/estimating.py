"""What the trainings of a run will take, before they are begun, and the batch that fits."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edgekd.core.artifacts import NetSpec
from edgekd.data import load_dataset
from edgekd.distill import Recipe, TrainSettings, load_recipe
from edgekd.distill.adapting import recipe_for
from edgekd.distill.estimate import StageEstimate, estimate, fitting_batch_size
from edgekd.distill.roles import Given, open_session
from edgekd.distill.run import augment_for
from edgekd.distill.session import Session
from edgekd.distill.teacher_cache import size_in_words
from edgekd.pipeline.asked import asked_of
from edgekd.pipeline.choosing import student_for
from edgekd.pipeline.config import RunConfig
from edgekd.pipeline.context import RunContext
from edgekd.pipeline.ledger import Ledger
from edgekd.pipeline.qat import require_trainable
from edgekd.pipeline.training import teacher_net, teacher_settings

_MIB = 1 << 20


@dataclass(frozen=True)
class TrainingEstimate:
    """What one kind of training of a run will take.

    Attributes:
        training: `teacher`, `alone` or `distilled`.
        network: The network that is trained.
        times: How often, for one seed each.
        batch_size: Inputs of a step.
        stages: Its stages.
    """

    training: str
    network: str
    times: int
    batch_size: int
    stages: tuple[StageEstimate, ...]

    @property
    def total_s(self) -> float:
        """Time of all of them."""
        return self.times * sum(stage.total_s for stage in self.stages)

    @property
    def memory_bytes(self) -> int:
        """What a step holds at most."""
        return max(stage.memory_bytes for stage in self.stages)


def estimated(config: RunConfig) -> tuple[TrainingEstimate, ...]:
    """Take a few steps of every training of a run on this machine, and say what all of it will take; nothing is kept.

    Raises:
        EdgeKDError: What the run would fail with before its first step.
    """
    asked = asked_of(config)
    with tempfile.TemporaryDirectory(prefix="edgekd-") as scratch, Ledger.open(Path(scratch) / "run") as ledger:
        known = (asked.budget, asked.target, asked.recipe)
        context = RunContext(config, *known, load_dataset(config.data), ledger, ledger.listen)
        require_trainable(context)
        teacher_spec, network = teacher_net(context)
        spec, _ = student_for(context, teacher_spec, network)
        context = sized(context, spec, (teacher_spec, network))
        return tuple(_trainings(context, spec, (teacher_spec, network)))


def sized(context: RunContext, student: NetSpec, teacher: Given) -> RunContext:
    """Return the run with the batch that fits, where that was asked for; what was found is kept in the ledger.

    Args:
        context: The run.
        student: The student's architecture.
        teacher: The teacher's architecture and network.

    Raises:
        ConfigError: Nothing fits, or a CPU's memory is not limited.
    """
    train = context.config.train
    if not train.auto_batch:
        return context
    processes = 1 if context.group is None else context.group.ranks.of
    inputs = {
        "recipe": context.recipe.digest,
        "student": student.digest,
        "teacher": teacher[0].digest,
        "data": context.dataset.digest,
        "settings": {**train.deciding(), "memory_mb": train.memory_mb},
        "processes": processes,
    }

    def work() -> dict[str, int]:
        # A process works through its part of a batch, in as many parts as was asked for.
        in_parts = train.model_copy(update={"accumulate": train.accumulate * processes})
        size = fitting_batch_size(
            recipe_for(context.recipe, context.dataset.task),
            _sessions(context, context.recipe, student, teacher),
            dataset=context.dataset,
            settings=in_parts,
            augment=augment_for(context.dataset, train),
        )
        return {"batch_size": size}

    size = context.ledger.stage("batch-size", inputs, work)["batch_size"]
    context.note("batch-size", f"batches of {size} fit; the learning rate stays {train.lr}")
    fitting = train.model_copy(update={"batch_size": size, "auto_batch": False})
    return dataclasses.replace(context, config=context.config.model_copy(update={"train": fitting}))


def estimate_text(trainings: tuple[TrainingEstimate, ...]) -> str:
    """Return estimates as lines for people."""
    lines = [_line(one) for one in trainings]
    total = _duration(sum(one.total_s for one in trainings))
    return "\n".join(["training, estimated from a few steps on this machine:", *lines, f"  together: {total}"])


def _line(one: TrainingEstimate) -> str:
    stages = ", ".join(f"{stage.name} {stage.steps} steps of {1000 * stage.step_s:.1f} ms" for stage in one.stages)
    memory = f"{one.memory_bytes / _MIB:.0f} MiB in steps of {one.batch_size}"
    kept = sum(stage.cache_bytes for stage in one.stages)
    if kept:
        memory += f", teacher outputs on disk {size_in_words(kept)} at most, all passes of the teacher timed"
    return f"  {one.training} {one.network}, {one.times} x: {_duration(one.total_s)}, {memory} ({stages})"


def _trainings(context: RunContext, spec: NetSpec, teacher: Given) -> list[TrainingEstimate]:
    config, seeds = context.config, context.config.seeds
    found = []
    if config.teacher.weights is None and teacher[0].family not in ("python", "timm"):
        settings = teacher_settings(context)
        found.append(_training(context, "teacher", load_recipe("plain"), (teacher[0], None), settings=settings))
    if config.compare_alone:
        baseline = load_recipe(context.recipe.baseline)
        found.append(_training(context, "alone", baseline, (spec, teacher), settings=config.train, times=seeds))
    found.append(_training(context, "distilled", context.recipe, (spec, teacher), settings=config.train, times=seeds))
    return found


def _training(
    context: RunContext,
    name: str,
    recipe: Recipe,
    nets: tuple[NetSpec, Given | None],
    *,
    settings: TrainSettings,
    times: int = 1,
) -> TrainingEstimate:
    student, teacher = nets
    session = _sessions(context, recipe, student, teacher)()
    with torch.random.fork_rng(devices=[]):
        stages = estimate(
            recipe_for(recipe, context.dataset.task),
            session,
            dataset=context.dataset,
            settings=settings,
            augment=augment_for(context.dataset, settings),
        )
    return TrainingEstimate(name, student.name, times, settings.batch_size, stages)


def _sessions(
    context: RunContext, recipe: Recipe, student: NetSpec, teacher: tuple[NetSpec, nn.Module] | None
) -> Callable[[], Session]:
    def opened() -> Session:
        dataset = context.dataset
        with torch.random.fork_rng(devices=[]):
            return open_session(
                recipe_for(recipe, dataset.task),
                student=student,
                teacher=teacher if recipe.needs_teacher else None,
                input_shape=dataset.input_shape,
                kind=dataset.task.kind,
                seed=0,
            )

    return opened


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
