"""Terms on where each channel of a feature map responds."""

from __future__ import annotations

import math

import torch
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.alignment import MapPairs, map_pairs, same_size, widths_of
from edgekd.distill.terms.base import TERMS
from edgekd.distill.terms.pairs import Pairs, needs_of
from edgekd.distill.trace import Trace, TraceSpec, shape_of


@TERMS.register("cwd")
class ChannelWiseKD(nn.Module):
    """Channel-wise distillation: each channel's softmax over positions brought to the teacher's.

    Where widths differ the student's map goes through a 1x1 convolution, without bias, which the softmax would not see.
    The larger map is average-pooled to the smaller one's size. Several pairs are added.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        temperature: Softens both sides; the loss is multiplied by its square.
        pairs: Which maps; the paper's choice is the last.

    Reference:
        arXiv 2011.13256.
    """

    row_claim = "apart"

    def __init__(
        self, student: TraceSpec, teacher: TraceSpec, *, temperature: float = 4.0, pairs: Pairs = "last"
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ConfigError(f"cwd: temperature must be positive, got {temperature}")
        self.temperature = temperature
        self.pairs = map_pairs(student, teacher, pairs)
        _require_positions(student, teacher, self.pairs)
        self.projectors = nn.ModuleList(
            nn.Identity() if mine == theirs else nn.Conv2d(mine, theirs, kernel_size=1, bias=False)
            for mine, theirs in widths_of(student, teacher, self.pairs)
        )
        self.needs = needs_of(self.pairs)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        values = []
        for (on, to), projector in zip(self.pairs, self.projectors, strict=True):
            mine, theirs = same_size(student.feats[on], teacher.feats[to])
            values.append(K.cwd(projector(mine), theirs, temperature=self.temperature))
        return torch.stack(values).sum(dim=0)


def _require_positions(student: TraceSpec, teacher: TraceSpec, pairs: MapPairs) -> None:
    for on, to in pairs:
        if min(math.prod(shape_of(student, on)[1:]), math.prod(shape_of(teacher, to)[1:])) < 2:
            raise ConfigError(f"cwd on {on!r} and {to!r}: a map of one position says nothing about where; take another")
