"""The training loop of one stage, on Accelerate."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from edgekd.core.errors import ConfigError, TrainingDiverged
from edgekd.core.events import Event, Listener, silent
from edgekd.core.seeds import derive_seed
from edgekd.data import Augment, Batch, Dataset, ResidentSplit, train_batches
from edgekd.distill.evaluation import Evaluation, evaluate
from edgekd.distill.learner import Learners, Losses
from edgekd.distill.policies import Feedback
from edgekd.distill.resume import Bookmark, Remembering
from edgekd.distill.session import Session
from edgekd.distill.settings import TrainSettings, learning_rate
from edgekd.distill.stage import Stage
from edgekd.distill.step import Step
from edgekd.models import save_weights

_CHECK_EVERY_ON_GPU = 50


@dataclass(frozen=True)
class Epoch:
    """What one epoch did.

    Attributes:
        stage: Stage name.
        epoch: Counted from 1.
        loss: Mean total loss.
        terms: Mean of each term before its weight, and of each weight that differs from sample to sample or by chance.
        lr: Learning rate at its last step.
        val_score: Score of the learner's backbone on the held-out split, in the metric of the data set's task.
        seconds: Wall clock.
    """

    stage: str
    epoch: int
    loss: float
    terms: Mapping[str, float]
    lr: float
    val_score: float
    seconds: float


@dataclass(frozen=True)
class LoopContext:
    """What a stage runs with.

    Attributes:
        dataset: The data.
        settings: The run's settings.
        augment: Applied to training batches.
        seed: Decides order and augmentation.
        accelerator: Device placement, precision, processes.
        label: Prefix of the stage's name in events (`"distilled/seed0"`).
        folder: Where the last good checkpoint is kept, or None for nowhere.
        listener: Told of progress.
        resident: The training pictures, where they stay on the device.
        bookmark: Where the run stands, if it can be interrupted.
    """

    dataset: Dataset
    settings: TrainSettings
    augment: Augment
    seed: int
    accelerator: Accelerator
    label: str = ""
    folder: Path | None = None
    listener: Listener = field(default=silent)
    resident: ResidentSplit | None = None
    bookmark: Bookmark | None = None


def make_accelerator(settings: TrainSettings) -> Accelerator:
    """Return the Accelerate front for these settings; raises `ConfigError` when the device is not there."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda was asked for, but torch sees no CUDA GPU; use --set train.device=cpu")
    # Accelerate keeps one state for a process; the next run in it may want another device or precision.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(cpu=settings.device == "cpu", mixed_precision=settings.precision)


def run_stage(stage: Stage, session: Session, context: LoopContext, history: list[Epoch]) -> None:
    """Train a stage's learners and leave its first with the epoch that was kept.

    Args:
        stage: What to train.
        session: The run it is a stage of, told of checkpoints.
        context: What to train it with.
        history: One record is added to it for each epoch.

    Raises:
        TrainingDiverged: A loss became NaN or infinite.
        Paused: The run's deadline is over.
    """
    settings = context.settings
    epochs = max(1, round(settings.epochs * stage.spec.epochs))
    inner = _optimizer(stage, settings)
    learners, optimizer = context.accelerator.prepare(stage.learners, inner)
    steps = max(1, len(context.dataset.train.labels) // settings.batch_size)
    keeper = _Keeper(select_best=(stage.spec.keep or settings.select) == "best" and stage.changes_answers)
    evaluation: Evaluation | None = None
    if stage.spec.record:
        session.trajectories[stage.learners.first.role] = []
    weighers = [weigher for learner in stage.learners for weigher in learner.weighers()]
    parts = (stage.learners, inner, keeper, *(one for one in weighers if isinstance(one, Remembering)))
    done = 0 if context.bookmark is None else context.bookmark.resumed(parts, session)
    for epoch in range(done, epochs):
        started = time.perf_counter()
        loss, terms, lr = _EpochRunner(stage, context, learners, optimizer).run(epoch, steps, epochs)
        if stage.changes_answers or evaluation is None:
            evaluation = evaluate(stage.learners.first.net.backbone, context.dataset.val)
        seconds = time.perf_counter() - started
        history.append(Epoch(stage.name, epoch + 1, loss, terms, lr, evaluation.score, seconds))
        keeper.offer(evaluation.score, stage.learners)
        _checkpoint(stage, context)
        _announce(stage, context, history[-1], epochs)
        _record(stage, session, epoch + 1, epochs)
        for name in stage.spec.learns:
            session.policies[name].observe(Feedback(evaluation.score, evaluation.nll))
        if context.bookmark is not None:
            context.bookmark.keep(epoch + 1, parts, session, history)
    keeper.restore(stage.learners)
    if stage.spec.record:
        session.trajectories[stage.learners.first.role].pop()
        session.record(stage.learners.first.role, 1.0)


def _optimizer(stage: Stage, settings: TrainSettings) -> torch.optim.Optimizer:
    groups = [
        {
            "params": list(group.parameters),
            "lr_scale": group.lr,
            "weight_decay": settings.weight_decay if group.is_decayed else 0.0,
        }
        for group in stage.groups
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov)


def _record(stage: Stage, session: Session, done: int, epochs: int) -> None:
    """Keep a checkpoint whenever one more of the equal parts that the recipe asked for is done."""
    parts = stage.spec.record
    if done * parts // epochs > (done - 1) * parts // epochs:
        session.record(stage.learners.first.role, done / epochs)


class _Keeper:
    """Holds the weights of the best epoch so far, in memory; the later of two equal ones."""

    def __init__(self, *, select_best: bool) -> None:
        self._select_best = select_best
        self._score = -math.inf
        self._state: dict[str, Tensor] | None = None

    def offer(self, score: float, learners: Learners) -> None:
        if self._select_best and score >= self._score:
            self._score, self._state = score, copy.deepcopy(learners.state_dict())

    def restore(self, learners: Learners) -> None:
        if self._state is not None:
            learners.load_state_dict(self._state)

    def memory(self) -> dict[str, Any]:
        return {"score": self._score, "state": self._state}

    def remember(self, memory: Mapping[str, Any]) -> None:
        self._score, self._state = memory["score"], memory["state"]


@dataclass(frozen=True)
class _EpochRunner:
    stage: Stage
    context: LoopContext
    learners: nn.Module
    optimizer: torch.optim.Optimizer

    def run(self, epoch: int, steps: int, epochs: int) -> tuple[float, dict[str, float], float]:
        settings = self.context.settings
        milestones = self.stage.spec.milestones or settings.milestones
        seed = derive_seed(self.context.seed, "step", self.stage.name)
        device = self.context.accelerator.device
        total = torch.zeros((), dtype=torch.float64, device=device)
        sums: dict[str, Tensor] = {}
        lr = 0.0
        count = 0
        for count, batch in enumerate(self._batches(epoch), start=1):
            index = epoch * steps + count - 1
            step = Step(index, steps * epochs, epoch, seed)
            lr = learning_rate(settings, milestones, min(1.0, index / (steps * epochs)))
            for group in self.optimizer.param_groups:
                group["lr"] = lr * group["lr_scale"]
            for view in self.stage.views:
                batch = view(batch, step)  # noqa: PLW2901
            losses = self._step(self._laid_out(batch.to(device)), step)
            self._check(losses, epoch, count)
            total += losses.total.detach().double()
            for name, value in losses.by_term.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
        return (
            total.item() / count,
            {name: value.item() / count for name, value in sums.items()},
            lr * self.stage.spec.lr,
        )

    def _batches(self, epoch: int) -> Iterator[Batch]:
        context, seed = self.context, derive_seed(self.context.seed, "order", self.stage.name)
        size = context.settings.batch_size
        if context.resident is not None:
            return context.resident.batches(batch_size=size, epoch=epoch, seed=seed)
        return train_batches(context.dataset.train, batch_size=size, epoch=epoch, seed=seed, augment=context.augment)

    def _laid_out(self, batch: Batch) -> Batch:
        if not self.context.settings.channels_last or batch.inputs.dim() != 4:
            return batch
        return replace(batch, inputs=batch.inputs.contiguous(memory_format=torch.channels_last))

    def _step(self, batch: Batch, step: Step) -> Losses:
        accelerator = self.context.accelerator
        if self.context.settings.compile != "no":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with accelerator.autocast():
            losses: Losses = self.learners(batch, step)
        accelerator.backward(losses.total)
        if self.context.settings.max_grad_norm is not None:
            # Accelerate's own clipping unscales the gradients of every optimizer it ever saw, at each call.
            accelerator.unscale_gradients(self.optimizer)
            for learner in self.stage.learners:
                nn.utils.clip_grad_norm_(learner.parameters(), self.context.settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses

    def _check(self, losses: Losses, epoch: int, count: int) -> None:
        if self.context.accelerator.device.type != "cpu" and count % _CHECK_EVERY_ON_GPU:
            return
        if math.isfinite(losses.total.item()):
            return
        values = ", ".join(f"{name} = {value.item():.4g}" for name, value in losses.by_term.items())
        where = f"stage {self.stage.name!r}, epoch {epoch + 1}, step {count}"
        raise TrainingDiverged(
            f"training diverged in {where}: total = {losses.total.item()} ({values}); "
            f"{_kept(self.stage, self.context)}; lower the learning rate (--set train.lr=...) or the term's weight"
        )


def _checkpoint_path(stage: Stage, context: LoopContext) -> Path | None:
    return None if context.folder is None else context.folder / f"{stage.name}.safetensors"


def _checkpoint(stage: Stage, context: LoopContext) -> None:
    path = _checkpoint_path(stage, context)
    if path is not None and context.accelerator.is_main_process:
        save_weights(stage.learners.first.net, path, {"stage": stage.name})


def _kept(stage: Stage, context: LoopContext) -> str:
    path = _checkpoint_path(stage, context)
    return f"the last good checkpoint is {path}" if path is not None and path.exists() else "no epoch had finished"


def _announce(stage: Stage, context: LoopContext, record: Epoch, epochs: int) -> None:
    name = "/".join(filter(None, [context.label, stage.name]))
    values = {"loss": record.loss, "val_score": record.val_score, "lr": record.lr, **record.terms}
    message = f"loss {record.loss:.4f}, held-out {context.dataset.task.metric.text(record.val_score)}"
    context.listener(Event("progress", name, message, record.epoch, epochs, values))
