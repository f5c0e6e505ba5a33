"""The training loop of one stage, on Accelerate."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from edgekd.core.errors import ConfigError
from edgekd.core.events import Event
from edgekd.distill.ema import MovingAverage
from edgekd.distill.epochs import EpochRunner, LoopContext
from edgekd.distill.evaluation import Evaluation, evaluate
from edgekd.distill.keeping import EpochWeights, Keeper
from edgekd.distill.policies import Feedback
from edgekd.distill.ranks import losing_says_so
from edgekd.distill.resume import Remembering, ScalerMemory
from edgekd.distill.session import Session
from edgekd.distill.settings import TrainSettings
from edgekd.distill.shared_statistics import ranked
from edgekd.distill.stage import Stage
from edgekd.distill.tally import Tally


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


def make_accelerator(settings: TrainSettings) -> Accelerator:
    """Return the Accelerate front for these settings; raises `ConfigError` when the device is not there."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda was asked for, but torch sees no CUDA GPU; use --set train.device=cpu")
    # Accelerate keeps one state for a process; the next run in it may want another device or precision.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    wrapping = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True)
    return Accelerator(cpu=settings.device == "cpu", mixed_precision=settings.precision, kwargs_handlers=[wrapping])


def run_stage(stage: Stage, session: Session, context: LoopContext, history: list[Epoch]) -> None:
    """Train a stage's learners and leave its first with the epoch that was kept.

    Args:
        stage: What to train.
        session: The run it is a stage of, told of checkpoints.
        context: What to train it with.
        history: One record is added to it for each epoch.

    Raises:
        TrainingDiverged: A loss became NaN or infinite.
        OutOfMemory: A step needs more memory than there is.
        ProcessLost: Another process of the training is gone.
        Paused: The run's deadline is over.
    """
    run = _StageRun.of(stage, session, context, history)
    if stage.spec.record:
        session.trajectories[stage.learners.first.role] = []
    with losing_says_so(context.ranks), ranked(stage, context.ranks, context.settings):
        run.train()
    if stage.spec.record:
        recorded = session.trajectories[stage.learners.first.role]
        if recorded and recorded[-1].progress == 1.0:
            recorded.pop()
        session.record(stage.learners.first.role, 1.0)


@dataclass
class _StageRun:
    """One stage that runs, and all that its steps change.

    Attributes:
        epochs: Epochs of the stage.
        steps: Steps of an epoch.
        optimizer: As it was before it was wrapped.
        average: Averaged weights, where they are wanted.
    """

    stage: Stage
    session: Session
    context: LoopContext
    history: list[Epoch]
    epochs: int
    steps: int
    optimizer: torch.optim.Optimizer
    keeper: Keeper
    tally: Tally
    weights: EpochWeights
    average: MovingAverage | None = None
    evaluation: Evaluation | None = None

    @classmethod
    def of(cls, stage: Stage, session: Session, context: LoopContext, history: list[Epoch]) -> _StageRun:
        settings = context.settings
        wants_best = (stage.spec.keep or settings.select) == "best" and stage.changes_answers
        patience = settings.patience if stage.changes_answers else None
        average = None
        if settings.ema is not None:
            average = MovingAverage(stage.learners, decay=settings.ema, is_warming=settings.ema_warmup)
        return cls(
            stage,
            session,
            context,
            history,
            epochs=max(1, round(settings.epochs * stage.spec.epochs)),
            steps=max(1, len(context.dataset.train.labels) // settings.batch_size),
            optimizer=optimizer_of(stage, settings),
            keeper=Keeper(select_best=wants_best, patience=patience),
            tally=Tally(parts=settings.accumulate),
            weights=EpochWeights(context.folder if context.ranks.is_main else None, stage.name, context.listener),
            average=average,
        )

    def train(self) -> None:
        """Run the epochs that are left."""
        context, bookmark = self.context, self.context.bookmark
        with warnings.catch_warnings():
            # Newer torch renames `broadcast_buffers`, which Accelerate still passes on.
            warnings.simplefilter("ignore", FutureWarning)
            learners, optimizer = context.accelerator.prepare(self.stage.learners, self.optimizer)
        runner = EpochRunner(self.stage, context, learners, optimizer, self.tally, self.average, self._after_step)
        done = 0 if bookmark is None else bookmark.resumed(self.parts, self.session)
        for epoch in range(done, self.epochs):
            if self.keeper.is_out_of_patience:
                break
            loss, terms, lr = runner.run(epoch, self.steps, self.epochs)
            with nullcontext() if self.average is None else self.average.in_place(self.stage.learners):
                self._finish(epoch, loss, terms, lr)
            self.tally.begin()
            if bookmark is not None:
                bookmark.keep(epoch + 1, self.parts, self.session, self.history)
        if self.keeper.is_holding:
            self.keeper.restore(self.stage.learners)
        elif self.average is not None:
            self.average.settle(self.stage.learners)

    @property
    def parts(self) -> tuple[Any, ...]:
        """Everything that the stage's steps change."""
        weighers = [weigher for learner in self.stage.learners for weigher in learner.weighers()]
        scaler = self.context.accelerator.scaler
        more = (self.average, None if scaler is None else ScalerMemory(scaler), self.context.recalls)
        return (
            self.stage.learners,
            self.optimizer,
            self.keeper,
            self.tally,
            *(part for part in more if part is not None),
            *(one for one in weighers if isinstance(one, Remembering)),
        )

    def _after_step(self, epoch: int) -> None:
        bookmark = self.context.bookmark
        if bookmark is not None:
            done = epoch * self.steps + self.tally.step
            bookmark.keep_within(epoch, done, self.parts, self.session, self.history)

    def _finish(self, epoch: int, loss: float, terms: dict[str, float], lr: float) -> None:
        """Evaluate and record an epoch, with the weights that count."""
        stage, context = self.stage, self.context
        if stage.changes_answers or self.evaluation is None:
            self.evaluation = _evaluated(stage, context)
        evaluation = self.evaluation
        self.history.append(Epoch(stage.name, epoch + 1, loss, terms, lr, evaluation.score, self.tally.elapsed_s))
        is_best = self.keeper.offer(evaluation.score, stage.learners)
        self.weights.write(stage.learners.first.net, is_best=is_best)
        _announce(stage, context, self.history[-1], self.epochs, self.steps)
        if self.keeper.is_out_of_patience and epoch + 1 < self.epochs:
            context.note(stage.name, f"ends after epoch {epoch + 1}: no better score in {context.settings.patience}")
        _record(stage, self.session, epoch + 1, self.epochs)
        for name in stage.spec.learns:
            self.session.policies[name].observe(Feedback(evaluation.score, evaluation.nll))


def _evaluated(stage: Stage, context: LoopContext) -> Evaluation:
    """Evaluate a stage's own learner, in the first process; the others are told."""
    val = context.dataset.val

    def find() -> tuple[float, float]:
        found = evaluate(stage.learners.first.net.backbone, val)
        return found.score, found.nll

    score, nll = context.ranks.agreed(find)
    return Evaluation(score, nll, len(val))


def optimizer_of(stage: Stage, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return what moves a stage's parameters, its groups with the multiples of the rate as `lr_scale`."""
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


def _announce(stage: Stage, context: LoopContext, record: Epoch, epochs: int, steps: int) -> None:
    name = context.name_of(stage.name)
    values = {"loss": record.loss, "val_score": record.val_score, "lr": record.lr, **record.terms}
    values |= {"seconds": record.seconds, "step": record.epoch * steps}
    message = f"loss {record.loss:.4f}, held-out {context.dataset.task.metric.text(record.val_score)}"
    context.listener(Event("progress", name, message, record.epoch, epochs, values))
