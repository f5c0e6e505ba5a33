"""Where a stage's targets come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from edgekd.core.errors import ConfigError
from edgekd.core.registry import Registry
from edgekd.data import Batch
from edgekd.distill.net import TracedNet
from edgekd.distill.terms.base import Step
from edgekd.distill.trace import Trace, select


class Source(Protocol):
    """Gives the traces that terms match."""

    def __call__(self, batch: Batch, step: Step, own: Trace) -> tuple[Trace, ...]:
        """Return one trace for each teacher, cut off from the graph where gradients must not flow.

        Args:
            batch: The batch the learner saw.
            step: Where training stands.
            own: The learner's trace of this batch.
        """
        ...


SourceBuilder = Callable[[Mapping[str, TracedNet], Sequence[str]], Source]

SOURCES: Registry[SourceBuilder] = Registry("source")


@dataclass(frozen=True)
class FrozenTeacher:
    """A frozen teacher in evaluation mode, seeing the learner's inputs.

    Attributes:
        net: The teacher.
        mean_of: Parts of its trace whose mean, taken before any softmax, becomes the target logits.
    """

    net: TracedNet
    mean_of: tuple[str, ...] = ("logits",)

    def __call__(self, batch: Batch, step: Step, own: Trace) -> tuple[Trace, ...]:
        """Run the teacher without a graph."""
        with torch.no_grad():
            trace = self.net(batch.inputs)
            if self.mean_of == ("logits",):
                return (trace,)
            parts = torch.stack([select(trace, part) for part in self.mean_of])
            return (replace(trace, logits=parts.mean(dim=0)),)


@dataclass(frozen=True)
class OwnOutputs:
    """The learner's own trace, detached: heads learn from the network they sit on."""

    def __call__(self, batch: Batch, step: Step, own: Trace) -> tuple[Trace, ...]:
        """Return the learner's trace without its graph."""
        return (own.detached(),)


@SOURCES.register("frozen")
def frozen(roles: Mapping[str, TracedNet], mean_of: Sequence[str]) -> Source:
    """Build the source that reads the network in the role of teacher."""
    if "teacher" not in roles:
        raise ConfigError("this recipe needs a teacher and none was given")
    roles["teacher"].freeze()
    return FrozenTeacher(roles["teacher"], tuple(mean_of))


@SOURCES.register("self")
def own_outputs(roles: Mapping[str, TracedNet], mean_of: Sequence[str]) -> Source:
    """Build the source that reads the learner itself."""
    return OwnOutputs()
