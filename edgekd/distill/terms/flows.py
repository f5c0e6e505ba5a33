"""The term on the flow between a network's own layers."""

from __future__ import annotations

from itertools import pairwise

import torch
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.base import TERMS
from edgekd.distill.terms.pairs import Pairs, needs_of, resolve_pairs
from edgekd.distill.trace import Trace, TraceSpec, shape_of


@TERMS.register("fsp")
class SolutionFlow(nn.Module):
    """Inner products between the channels of consecutive maps brought together, added over consecutive maps.

    Where a student's map is not as wide as the teacher's it first goes through a 1x1 convolution with batch
    normalisation; the paper has no such projection and takes networks of equal widths.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which maps, at least two, shallow to deep.

    Reference:
        Yim, Joo, Bae, Kim, A Gift from Knowledge Distillation, CVPR 2017.
    """

    row_claim = "apart"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, pairs: Pairs = "all") -> None:
        super().__init__()
        self.pairs = resolve_pairs(student, teacher, pairs)
        if len(self.pairs) < 2:
            raise ConfigError(f"fsp compares the flow between consecutive maps: it needs two pairs, got {self.pairs}")
        self.projectors = nn.ModuleList(_projector(*_widths(student, teacher, on, to)) for on, to in self.pairs)
        self.needs = needs_of(self.pairs)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        mine = [project(student.feats[on]) for (on, _), project in zip(self.pairs, self.projectors, strict=True)]
        theirs = [teacher.feats[to] for _, to in self.pairs]
        flows = zip(pairwise(mine), pairwise(theirs), strict=True)
        return torch.stack([K.fsp(*one, *other) for one, other in flows]).sum(dim=0)


def _widths(student: TraceSpec, teacher: TraceSpec, on: str, to: str) -> tuple[int, int]:
    mine, theirs = shape_of(student, on), shape_of(teacher, to)
    if len(mine) != 3 or len(theirs) != 3:
        raise ConfigError(f"fsp needs feature maps; student {on} has shape {mine}, teacher {to} has shape {theirs}")
    return mine[0], theirs[0]


def _projector(inputs: int, outputs: int) -> nn.Module:
    if inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel_size=1, bias=False), nn.BatchNorm2d(outputs))
