"""Numbers that multiply terms, for each sample and target."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from edgekd.core.errors import ConfigError
from edgekd.core.registry import Registry
from edgekd.data import Batch
from edgekd.distill.ranks import ALONE, Ranks
from edgekd.distill.step import Step
from edgekd.distill.trace import Trace, class_logits


@dataclass(frozen=True)
class Moment:
    """What a weigher sees of one term at one step.

    Attributes:
        values: `[B, S]`, the term by sample and target, detached.
        own: The learner's trace, in its graph.
        targets: The traces the term compared with, S of them.
        batch: The batch.
        step: Where training stands.
        named: All targets of the learner by name, those of its other terms too.
        ranks: The processes that train together; what a weigher sees are the rows of this one.
    """

    values: Tensor
    own: Trace
    targets: tuple[Trace, ...]
    batch: Batch
    step: Step
    named: Mapping[str, Trace] = field(default_factory=dict)
    ranks: Ranks = ALONE


class Weigher(Protocol):
    """Decides how much a term counts."""

    def __call__(self, moment: Moment) -> float | Tensor:
        """Return a number or a tensor that broadcasts to `[B, S]` (samples, targets)."""
        ...


WEIGHERS: Registry[Callable[..., Weigher]] = Registry("weigher")


@dataclass(frozen=True)
class Constant:
    """One weight for everything."""

    value: float

    def __call__(self, moment: Moment) -> float | Tensor:
        """Return the weight."""
        return self.value


@dataclass(frozen=True)
class LinearRamp:
    """A weight that moves linearly from `start` to `end` over the first part of the stage, then stays.

    Attributes:
        start: Weight at the first step.
        end: Weight once `over` of the stage has passed.
        over: Share of the stage's steps, in (0, 1].
    """

    start: float
    end: float
    over: float

    def __call__(self, moment: Moment) -> float | Tensor:
        """Return the weight at this step."""
        progress = min(1.0, moment.step.index / max(1.0, self.over * moment.step.total))
        return self.start + (self.end - self.start) * progress


class RunningMean:
    """The mean of a quantity over the steps so far, the latest counting most.

    Args:
        share: Of the mean that the next step keeps, in [0, 1).
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._total: Tensor | None = None
        self._mass = 0.0

    @property
    def is_known(self) -> bool:
        """Whether a step was counted yet."""
        return self._total is not None

    @property
    def mean(self) -> Tensor:
        """The mean, `[]`; raises `ValueError` before the first step."""
        return self._known() / self._mass

    def take(self, value: Tensor) -> None:
        """Count a step's value, `[]`."""
        before = torch.zeros_like(value) if self._total is None else self._total
        self._total = self._share * before + (1 - self._share) * value
        self._mass = self._share * self._mass + (1 - self._share)

    def scale(self, size: float | Tensor) -> Tensor:
        """Return what brings a positive quantity to a size on average; raises `ValueError` before the first step."""
        return size * self._mass / self._known().clamp(min=torch.finfo(torch.float32).tiny)

    def memory(self) -> dict[str, Any]:
        """Return all that it has counted, for a run that is interrupted."""
        return {"total": self._total, "mass": self._mass}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take up what `memory` returned."""
        self._total, self._mass = memory["total"], memory["mass"]

    def _known(self) -> Tensor:
        if self._total is None:
            raise ValueError("no step was counted yet")
        return self._total


def size_of(values: Tensor) -> Tensor:
    """Return the mean magnitude of a term's values, `[]`."""
    return values.float().abs().mean()


@WEIGHERS.register("balanced")
class Balanced:
    """A term on its own scale: its weight is divided by the running mean of its size, so weights are preferences.

    Args:
        value: What the term counts on average.
        memory: Share of the running mean that the next step keeps, in [0, 1).
    """

    row_claim = "together"

    def __init__(self, *, value: float = 1.0, memory: float = 0.99) -> None:
        if not 0 <= memory < 1:
            raise ConfigError(f"balanced: memory must be in [0, 1), got {memory}")
        self._value, self._size = value, RunningMean(memory)

    def __call__(self, moment: Moment) -> float | Tensor:
        """Return the weight, this step's values included in the mean."""
        self._size.take(moment.ranks.mean(size_of(moment.values)))
        return self._size.scale(self._value)

    def memory(self) -> dict[str, Any]:
        """Return the running mean, for a run that is interrupted."""
        return self._size.memory()

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take up what `memory` returned."""
        self._size.remember(memory)


@WEIGHERS.register("teacher-confidence")
class TeacherConfidence:
    """One minus the entropy of a teacher's prediction over the log of the number of classes, for each sample.

    Of logits of pixels it is the mean over pixels.

    Args:
        value: What a sample of which the teacher is certain counts.
        temperature: Softens the prediction; 1 in the paper's spirit, since higher ones drive every weight to 0.

    Reference:
        Gore et al. 2025, arXiv 2511.18826.
    """

    row_claim = "apart"

    def __init__(self, *, value: float = 1.0, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise ConfigError(f"teacher-confidence: temperature must be positive, got {temperature}")
        self._value, self._temperature = value, temperature

    def __call__(self, moment: Moment) -> float | Tensor:
        """Return `[B, S]`, in 0..value."""
        return self._value * torch.stack([self._confidence(target) for target in moment.targets], dim=1)

    def _confidence(self, target: Trace) -> Tensor:
        logits = class_logits(target, "weigher teacher-confidence").detach().float()
        logs = (logits / self._temperature).log_softmax(dim=1)
        entropy = -(logs.exp() * logs).sum(dim=1).view(len(logits), -1).mean(dim=1)
        return (1 - entropy / math.log(logits.shape[1])).clamp(0, 1)


@WEIGHERS.register("random-drop")
class RandomDrop:
    """Some targets, drawn anew for each batch, do not count; one always does.

    Args:
        value: Weight of those that count.
        drop: How many targets to leave out; at most all but one.
        is_rescaled: Whether the others make up for those left out.

    Reference:
        Son et al. 2021, arXiv 2009.08825; the authors' code drops one and does not rescale.
    """

    row_claim = "apart"

    def __init__(self, *, value: float = 1.0, drop: int = 1, is_rescaled: bool = False) -> None:
        if drop < 0:
            raise ConfigError(f"random-drop: drop must not be negative, got {drop}")
        self._value, self._drop, self._is_rescaled = value, drop, is_rescaled

    def __call__(self, moment: Moment) -> float | Tensor:
        """Return `[1, S]`."""
        count = len(moment.targets)
        kept = max(1, count - self._drop)
        order = torch.randperm(count, generator=moment.step.generator("random-drop"))
        weights = torch.zeros(1, count)
        weights[0, order[:kept]] = self._value * (count / kept if self._is_rescaled else 1.0)
        return weights.to(moment.values.device)
