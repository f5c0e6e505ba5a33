"""The steps of one epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from torch import nn

from edgekd.core.errors import OutOfMemory, StorageError, TrainingDiverged
from edgekd.core.events import Event, Listener, silent
from edgekd.core.seeds import derive_seed
from edgekd.data import (
    WHOLE,
    Augment,
    Batch,
    Dataset,
    Portion,
    ResidentSplit,
    SampleViews,
    batches_ahead,
    train_batches,
)
from edgekd.distill.blending import blended
from edgekd.distill.claims import divides
from edgekd.distill.ema import MovingAverage
from edgekd.distill.keeping import EpochWeights
from edgekd.distill.layout import laid_out, layout_told
from edgekd.distill.learner import Losses
from edgekd.distill.memory import is_out_of_memory, memory_in_words
from edgekd.distill.ranks import ALONE, Ranks
from edgekd.distill.resume import Bookmark, Remembering
from edgekd.distill.schedules import learning_rate
from edgekd.distill.settings import TrainSettings
from edgekd.distill.stage import Stage
from edgekd.distill.step import Step
from edgekd.distill.tally import Tally
from edgekd.distill.terms.base import Term
from edgekd.distill.tree_file import save_tree

_CHECK_EVERY_ON_GPU = 50


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
        ranks: This process among those that train together.
        views: The views of samples that epochs show, or None where augmentation is drawn by step.
        recalls: The teacher cache of the stage, written with every state; None without one.
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
    ranks: Ranks = ALONE
    views: SampleViews | None = None
    recalls: Remembering | None = None

    def name_of(self, stage: str) -> str:
        """Return what events call a stage."""
        return "/".join(filter(None, [self.label, stage]))

    def note(self, stage: str, message: str) -> None:
        """Tell the user something of a stage."""
        self.listener(Event("note", self.name_of(stage), message))


@dataclass(frozen=True)
class EpochRunner:
    """Runs the epochs of a stage.

    Attributes:
        stage: What to train.
        context: What to train it with.
        learners: The stage's learners, wrapped where several processes train.
        optimizer: Moves them.
        tally: Where the epoch stands.
        average: Follows the weights, or None.
        after_step: Called with the epoch after each step.
    """

    stage: Stage
    context: LoopContext
    learners: nn.Module
    optimizer: torch.optim.Optimizer
    tally: Tally
    average: MovingAverage | None
    after_step: Callable[[int], None]

    def run(self, epoch: int, steps: int, epochs: int) -> tuple[float, dict[str, float], float]:
        """Run an epoch from the step where it stands.

        Args:
            epoch: Its number, from 0.
            steps: Steps of an epoch.
            epochs: Epochs of the stage.

        Returns:
            Mean total loss, mean of each term, learning rate at the last step.

        Raises:
            TrainingDiverged: A loss became NaN or infinite.
            OutOfMemory: A step needs more memory than there is.
        """
        settings = self.context.settings
        milestones = self.stage.spec.milestones or settings.milestones
        seed = derive_seed(self.context.seed, "step", self.stage.name)
        for batch in self._batches(epoch):
            index = epoch * steps + self.tally.step
            step = Step(index, steps * epochs, epoch, seed)
            lr = learning_rate(settings, milestones, min(1.0, index / (steps * epochs)))
            for group in self.optimizer.param_groups:
                group["lr"] = lr * group["lr_scale"]
            losses = self._step_in_memory(batch, step)
            self.tally.count(losses, lr)
            self._check(losses, batch, step)
            self._tell(losses, lr * self.stage.spec.lr, step)
            if self.average is not None:
                self.average.follow(self.stage.learners)
            self.after_step(epoch)
        loss, terms = self.tally.record(self.context.ranks.mean)
        return loss, terms, self.tally.lr * self.stage.spec.lr

    @property
    def _mixes(self) -> bool:
        return bool(self.context.settings.mixup or self.context.settings.cutmix)

    def _batches(self, epoch: int) -> Iterator[Batch]:
        context, seed = self.context, derive_seed(self.context.seed, "order", self.stage.name)
        size, first = context.settings.batch_size, self.tally.step
        portion = WHOLE if self._mixes else context.ranks.portion
        if context.resident is not None:
            return context.resident.batches(
                batch_size=size, epoch=epoch, seed=seed, first=first, portion=portion, views=context.views
            )
        if context.settings.workers:
            return batches_ahead(
                context.dataset.train,
                batch_size=size,
                epoch=epoch,
                seed=seed,
                augment=context.augment,
                workers=context.settings.workers,
                first=first,
                portion=portion,
                views=context.views,
            )
        return train_batches(
            context.dataset.train,
            batch_size=size,
            epoch=epoch,
            seed=seed,
            augment=context.augment,
            first=first,
            portion=portion,
            views=context.views,
        )

    def _step_in_memory(self, batch: Batch, step: Step) -> Losses:
        """Take a step; where memory is short, halve what is worked through at once, one time."""
        try:
            return self._step(batch, step)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._make_do(len(batch), error)
        self.optimizer.zero_grad()
        try:
            return self._step(batch, step)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(self._shortage(len(batch))) from error

    def _make_do(self, rows: int, error: Exception) -> None:
        context, before = self.context, self.tally.parts
        least = max(2, *(cast(Term, term).needs.least_rows for one in self.stage.learners for term in one.terms))
        can = context.ranks.is_alone and divides(self.stage.spec) and rows // (2 * before) >= least
        if before > context.settings.accumulate or not can:
            raise OutOfMemory(self._shortage(rows)) from error
        self.tally.parts = 2 * before
        if context.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        context.note(
            self.stage.name,
            f"out of memory: batches of {rows} are now worked through in {2 * before} parts, which count as one step; "
            f"{memory_in_words(context.accelerator.device)}",
        )

    def _shortage(self, rows: int) -> str:
        parts = self.tally.parts
        return (
            f"out of memory in stage {self.stage.name!r}: {math.ceil(rows / parts)} rows at once do not fit; "
            f"{memory_in_words(self.context.accelerator.device)}. Set train.batch_size below {rows}, or "
            f"train.accumulate={2 * parts} to work through batches in parts"
        )

    def _step(self, batch: Batch, step: Step) -> Losses:
        if self._mixes:
            batch = blended(batch, step, self.context.settings)
            batch = batch.rows(self.context.ranks.portion.rows(len(batch)))
        parts = min(self.tally.parts, len(batch))
        if parts == 1:
            losses = self._backward(batch, step, 1.0)
        else:
            each = []
            for index in range(parts):
                rows = Portion(index, parts).rows(len(batch))
                with nullcontext() if index == parts - 1 else self._unshared():
                    share = (rows.stop - rows.start) / len(batch)
                    each.append(self._backward(batch.rows(rows), replace(step, part=index), share))
            losses = _added(each)
        if self.context.settings.max_grad_norm is not None:
            # Accelerate's own clipping unscales the gradients of every optimizer it ever saw, at each call.
            self.context.accelerator.unscale_gradients(self.optimizer)
            for learner in self.stage.learners:
                nn.utils.clip_grad_norm_(learner.parameters(), self.context.settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses

    def _backward(self, batch: Batch, step: Step, share: float) -> Losses:
        """Add the gradients of some rows of a batch; their losses count by their share of it."""
        accelerator = self.context.accelerator
        for view in self.stage.views:
            batch = view(batch, step)
        batch = laid_out(batch.to(accelerator.device), self.context.settings)
        if self.context.settings.compile != "no":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with accelerator.autocast(), layout_told():
            losses: Losses = self.learners(batch, step)
        if share != 1.0:
            losses = Losses(share * losses.total, {name: share * value for name, value in losses.by_term.items()})
        accelerator.backward(losses.total)
        return losses

    def _unshared(self) -> AbstractContextManager[None]:
        """Keep gradients to this process until the last part of a batch."""
        return cast(AbstractContextManager[None], self.context.accelerator.no_sync(self.learners))

    def _tell(self, losses: Losses, lr: float, step: Step) -> None:
        """Log a step's losses now and then; of several processes, those of the first one's rows."""
        context, done = self.context, step.index + 1
        if done % context.settings.log_every or context.listener is silent:
            return
        values = {"loss": losses.total.item(), "lr": lr}
        values |= {name: value.item() for name, value in losses.by_term.items()}
        context.listener(Event("step", context.name_of(self.stage.name), "", done, step.total, values))

    def _check(self, losses: Losses, batch: Batch, step: Step) -> None:
        count = self.tally.step
        if self.context.accelerator.device.type != "cpu" and count % _CHECK_EVERY_ON_GPU:
            return
        if math.isfinite(losses.total.item()):
            return
        values = ", ".join(f"{name} = {value.item():.4g}" for name, value in losses.by_term.items())
        where = f"stage {self.stage.name!r}, epoch {step.epoch + 1}, step {count}"
        kept = EpochWeights(self.context.folder, self.stage.name, self.context.listener).last_good
        raise TrainingDiverged(
            f"training diverged in {where}: total = {losses.total.item()} ({values}); "
            f"{kept}; {self._batch_kept(losses, batch, step)}"
            "lower the learning rate (--set train.lr=...) or the term's weight"
        )

    def _batch_kept(self, losses: Losses, batch: Batch, step: Step) -> str:
        """Keep the batch that the loss was found in; returns where, in words."""
        if self.context.folder is None:
            return ""
        path = self.context.folder / f"{self.stage.name}.diverged-rank{self.context.ranks.index}.safetensors"
        if self.context.ranks.is_alone:
            path = path.with_name(f"{self.stage.name}.diverged.safetensors")
        tree = {
            "stage": self.stage.name,
            "epoch": step.epoch,
            "step": step.index,
            "seed": step.seed,
            "inputs": batch.inputs,
            "labels": batch.labels,
            "ids": batch.ids,
            "is_labelled": batch.is_labelled,
            "terms": dict(losses.by_term),
        }
        try:
            save_tree(path, tree)
        except StorageError as error:
            return f"the batch could not be kept ({error}); "
        return f"the batch is kept in {path}; "


def _added(each: list[Losses]) -> Losses:
    total = torch.stack([losses.total.detach() for losses in each]).sum()
    names = each[0].by_term
    return Losses(total, {name: torch.stack([losses.by_term[name] for losses in each]).sum() for name in names})
