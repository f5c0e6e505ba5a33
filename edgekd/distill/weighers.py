"""Numbers that multiply terms, for each sample and source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from edgekd.data import Batch
from edgekd.distill.terms.base import Step
from edgekd.distill.trace import Trace


class Weigher(Protocol):
    """Decides how much a term counts."""

    def __call__(self, own: Trace, sources: tuple[Trace, ...], batch: Batch, step: Step) -> float | Tensor:
        """Return a number or a tensor that broadcasts to `[B, S]` (samples, sources)."""
        ...


@dataclass(frozen=True)
class Constant:
    """One weight for everything."""

    value: float

    def __call__(self, own: Trace, sources: tuple[Trace, ...], batch: Batch, step: Step) -> float | Tensor:
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

    def __call__(self, own: Trace, sources: tuple[Trace, ...], batch: Batch, step: Step) -> float | Tensor:
        """Return the weight at this step."""
        progress = min(1.0, step.index / max(1.0, self.over * step.total))
        return self.start + (self.end - self.start) * progress
