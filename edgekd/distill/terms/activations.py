"""Terms on which neurons fire: overhauled feature distillation and activation boundaries.

In both, a projection of the student's map stands for its responses before a ReLU, and shallower pairs count half as
much as the next deeper one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.alignment import map_pairs, normalised_projection, same_size, widths_of
from edgekd.distill.terms.base import TERMS
from edgekd.distill.terms.pairs import Pairs, needs_of
from edgekd.distill.trace import Trace, TraceSpec


@TERMS.register("ofd")
class OverhauledFeatures(nn.Module):
    """Squared difference to the teacher's margin ReLU, forgiven where both sides are silent.

    The margin of a channel is the teacher's mean negative response, taken over all batches seen so far. Taps behind a
    ReLU show no negative response: the margin is 0 there, and what remains is to forgive a student that is negative
    where the teacher is 0.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which maps; the paper's choice is all stages.

    Reference:
        arXiv 1904.01866.
    """

    row_claim = "together"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, pairs: Pairs = "all") -> None:
        super().__init__()
        self.pairs = map_pairs(student, teacher, pairs)
        widths = widths_of(student, teacher, self.pairs)
        self.projectors = nn.ModuleList(normalised_projection(mine, theirs) for mine, theirs in widths)
        self.negatives = nn.ModuleList(NegativeMean(theirs) for _, theirs in widths)
        self.needs = needs_of(self.pairs)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        values = []
        for (on, to), projector, negatives in zip(self.pairs, self.projectors, self.negatives, strict=True):
            mine, theirs = same_size(student.feats[on], teacher.feats[to])
            values.append(K.partial_l2(projector(mine), theirs, negatives(theirs)))
        return _halved_towards_the_input(values)


@TERMS.register("activation-boundary")
class ActivationBoundary(nn.Module):
    """Squared hinge that has the student's projected responses fire where the teacher's do.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which maps; the paper's choice is all stages.
        margin: Distance from zero that suffices.

    Reference:
        arXiv 1811.03233.
    """

    row_claim = "apart"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, pairs: Pairs = "all", margin: float = 1.0) -> None:
        super().__init__()
        if not margin > 0:
            raise ConfigError(f"activation-boundary: margin must be positive, got {margin}")
        self.pairs, self.margin = map_pairs(student, teacher, pairs), margin
        self.projectors = nn.ModuleList(
            normalised_projection(*each) for each in widths_of(student, teacher, self.pairs)
        )
        self.needs = needs_of(self.pairs)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        values = []
        for (on, to), projector in zip(self.pairs, self.projectors, strict=True):
            mine, theirs = same_size(student.feats[on], teacher.feats[to])
            values.append(K.activation_boundary(projector(mine), theirs, margin=self.margin))
        return _halved_towards_the_input(values)


class NegativeMean(nn.Module):
    """Mean of the negative values of each channel over all maps seen in training mode; 0 for a channel without any.

    Args:
        width: Channels.
    """

    total: Tensor
    count: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(width, dtype=torch.float64))

    def forward(self, feature_map: Tensor) -> Tensor:
        """Take in a map `[B, C, H, W]` and return the means `[C]`."""
        if self.training:
            seen = feature_map.detach().double()
            self.total += seen.clamp(max=0).sum(dim=(0, 2, 3))
            self.count += (seen < 0).sum(dim=(0, 2, 3))
        return self.total / self.count.clamp(min=1)


def _halved_towards_the_input(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([0.5**steps * value for steps, value in enumerate(reversed(values))]).sum(dim=0)
