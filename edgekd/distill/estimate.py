"""How long a training will take and how much memory it needs, from a few of its real steps.

On a GPU, memory is what its allocator says. On a CPU there is no such count: it is what a step is known to hold, that
is weights, gradients, what the optimiser keeps, and every tensor that the backward pass reads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgekd.core.errors import ConfigError
from edgekd.data import Augment, Batch, Dataset, train_batches
from edgekd.distill.evaluation import evaluate
from edgekd.distill.layer_rates import LayerRates
from edgekd.distill.layout import laid_out, lay_out, layout_told
from edgekd.distill.loop import make_accelerator, optimizer_of
from edgekd.distill.memory import is_out_of_memory
from edgekd.distill.preparation import prepare
from edgekd.distill.recipe import Recipe
from edgekd.distill.rehearsal import scheduled
from edgekd.distill.run import threads_of
from edgekd.distill.session import Session
from edgekd.distill.settings import TrainSettings
from edgekd.distill.stage import Stage, build_stage
from edgekd.distill.step import Step
from edgekd.distill.teacher_cache import require_within_limit
from edgekd.distill.threads import cpu_threads

_TIMED = 5
_WARM_UP = 2


@dataclass(frozen=True)
class StageEstimate:
    """What a stage will take.

    Attributes:
        name: Its name.
        epochs: Epochs.
        steps: Steps, of all epochs.
        step_s: Median time of a step.
        total_s: Time of the stage, the evaluations after epochs among it.
        memory_bytes: What a step holds at most.
        cache_bytes: What of teacher outputs is kept on disk at most.
    """

    name: str
    epochs: int
    steps: int
    step_s: float
    total_s: float
    memory_bytes: int
    cache_bytes: int = 0


def estimate(
    recipe: Recipe, session: Session, *, dataset: Dataset, settings: TrainSettings, augment: Augment
) -> tuple[StageEstimate, ...]:
    """Take a few steps of every stage of a recipe, with real batches, and say what all of them will take.

    Args:
        recipe: The method.
        session: Networks made for the purpose; their weights change.
        dataset: The data.
        settings: The run's settings.
        augment: Applied to batches.

    Raises:
        ConfigError: A stage does not fit the networks, or keeps more of teacher outputs than its limit.
        OutOfMemory: A step does not fit in memory.
    """
    accelerator = make_accelerator(settings)
    settings = lay_out(session, settings, accelerator.device)
    found = []
    with cpu_threads(threads_of(session, settings)):
        for spec in scheduled(recipe):
            stage = _ready(build_stage(spec, session, LayerRates()), session, dataset, accelerator.device)
            step = _Stepping(stage, settings, accelerator.device, accelerator.autocast)
            kept = require_within_limit(stage, session, settings, dataset=dataset, augment=augment)
            timed = _estimated(stage, step, dataset, settings, _batches(dataset, settings, augment))
            found.append(replace(timed, cache_bytes=kept))
            if spec.record:
                session.record(spec.learner, 1.0)
    return tuple(found)


def _estimated(
    stage: Stage, step: _Stepping, dataset: Dataset, settings: TrainSettings, batches: Iterator[Batch]
) -> StageEstimate:
    for _ in range(_WARM_UP):
        step(next(batches))
    each = statistics.median(_seconds(lambda: step(next(batches)), step.device) for _ in range(_TIMED))
    check_s = _seconds(lambda: evaluate(stage.learners.first.net.backbone, dataset.val), step.device)
    epochs = max(1, round(settings.epochs * stage.spec.epochs))
    steps = max(1, len(dataset.train) // settings.batch_size) * epochs
    total_s = steps * each + (epochs if stage.changes_answers else 1) * check_s
    return StageEstimate(stage.name, epochs, steps, each, total_s, step.memory_bytes(next(batches)))


def fitting_batch_size(
    recipe: Recipe, open_session: Callable[[], Session], *, dataset: Dataset, settings: TrainSettings, augment: Augment
) -> int:
    """Return the largest batch that fits in memory with every stage: `batch_size` times or by a power of two.

    Args:
        recipe: The method.
        open_session: Makes networks for one try.
        dataset: The data; a batch is never larger than the training split.
        settings: The run's settings. On a CPU, `memory_mb` says what may be filled.
        augment: Applied to batches.

    Raises:
        ConfigError: On a CPU without `memory_mb`; or not even two rows fit, with the numbers.
    """
    device = make_accelerator(settings).device
    if device.type == "cpu" and settings.memory_mb is None:
        raise ConfigError("train.auto_batch on a CPU needs to know what it may fill: set train.memory_mb")

    def fits(size: int) -> bool:
        needed = _memory_of(recipe, open_session(), dataset, settings.model_copy(update={"batch_size": size}), augment)
        return needed is not None and (settings.memory_mb is None or needed <= settings.memory_mb << 20)

    size = min(settings.batch_size, len(dataset.train))
    if fits(size):
        while 2 * size <= len(dataset.train) and fits(2 * size):
            size *= 2
        return size
    while size >= 4:
        size //= 2
        if fits(size):
            return size
    limit = "the memory of the device" if settings.memory_mb is None else f"train.memory_mb = {settings.memory_mb}"
    raise ConfigError(f"a batch of 2 rows does not fit in {limit}: take smaller networks or pictures, or more memory")


def _memory_of(
    recipe: Recipe, session: Session, dataset: Dataset, settings: TrainSettings, augment: Augment
) -> int | None:
    """Return what the largest stage holds at most, or None where it does not fit on the device."""
    accelerator = make_accelerator(settings)
    largest = 0
    try:
        settings = lay_out(session, settings, accelerator.device)
        for spec in recipe.stages:
            stage = _ready(build_stage(spec, session, LayerRates()), session, dataset, accelerator.device)
            step = _Stepping(stage, settings, accelerator.device, accelerator.autocast)
            largest = max(largest, step.memory_bytes(next(_batches(dataset, settings, augment))))
            if spec.record:
                session.record(spec.learner, 1.0)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    return largest


def _ready(stage: Stage, session: Session, dataset: Dataset, device: torch.device) -> Stage:
    stage.learners.to(device)
    prepare(stage, session, dataset.train, device)
    return stage


def _batches(dataset: Dataset, settings: TrainSettings, augment: Augment) -> Iterator[Batch]:
    epoch = 0
    while True:
        size = min(settings.batch_size, len(dataset.train))
        yield from train_batches(dataset.train, batch_size=size, epoch=epoch, seed=0, augment=augment)
        epoch += 1


class _Stepping:
    """Takes steps of a stage, all at one small rate.

    Args:
        stage: The stage, ready to train.
        settings: The run's settings.
        device: Where it trains.
        autocast: Makes the context of a forward pass.
    """

    def __init__(
        self, stage: Stage, settings: TrainSettings, device: torch.device, autocast: Callable[[], object]
    ) -> None:
        self._stage, self._settings, self.device, self._autocast = stage, settings, device, autocast
        self._optimizer = optimizer_of(stage, settings.model_copy(update={"lr": 1e-6}))
        self._count = 0

    def __call__(self, batch: Batch, before_part: Callable[[], None] = lambda: None) -> None:
        step = Step(self._count, 1 << 30, 0)
        self._count += 1
        parts = min(self._settings.accumulate, len(batch))
        size = -(-len(batch) // parts)
        for start in range(0, len(batch), size):
            before_part()
            rows = batch.rows(slice(start, start + size))
            for view in self._stage.views:
                rows = view(rows, step)
            with self._autocast(), layout_told():  # type: ignore[attr-defined]
                losses = self._stage.learners(laid_out(rows.to(self.device), self._settings), step)
            losses.total.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def memory_bytes(self, batch: Batch) -> int:
        """Take a step and return what it held at most."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self(batch)
            return torch.cuda.max_memory_allocated(self.device)
        modules = (self._stage.learners, *self._stage.nets)
        held = {value.data_ptr(): _bytes(value) for module in modules for value in module.state_dict().values()}
        saved = _Saved(held)
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
            self(batch, saved.begin)
        trained = sum(_bytes(value) for group in self._optimizer.param_groups for value in group["params"])
        kept = sum(_bytes(value) for state in self._optimizer.state.values() for value in _tensors(state))
        return sum(held.values()) + trained + kept + saved.most + _bytes(batch.inputs)


class _Saved:
    """Counts the bytes of the tensors that a backward pass reads, those that are held anyway left out.

    Args:
        held: Addresses of those.
    """

    def __init__(self, held: Collection[int]) -> None:
        self._held = frozenset(held)
        self._now, self._seen = 0, set[int]()
        self.most = 0

    def begin(self) -> None:
        """Count another pass; what the one before read is free by then."""
        self._now, self._seen = 0, set(self._held)

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is kept for the backward pass."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self._now += storage.nbytes()
            self.most = max(self.most, self._now)
        return tensor


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _tensors(state: dict[str, object]) -> Iterator[Tensor]:
    return (value for value in state.values() if isinstance(value, Tensor))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
