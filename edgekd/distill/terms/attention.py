"""Terms on where a network responds: spatial attention and the selectivity of its neurons. They train nothing."""

from __future__ import annotations

import torch
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.alignment import map_pairs
from edgekd.distill.terms.base import TERMS
from edgekd.distill.terms.pairs import Pairs, needs_of
from edgekd.distill.trace import Trace, TraceSpec


@TERMS.register("attention-transfer")
class AttentionTransfer(nn.Module):
    """Spatial attention maps of student and teacher brought together; several pairs are added.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which maps; the benchmark's choice is all.
        p: Power of the activations.

    Reference:
        arXiv 1612.03928.
    """

    row_claim = "apart"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, pairs: Pairs = "all", p: float = 2.0) -> None:
        super().__init__()
        if not p >= 1:
            raise ConfigError(f"attention-transfer: p must be 1 or more, got {p}")
        self.pairs, self.p = map_pairs(student, teacher, pairs), p
        self.needs = needs_of(self.pairs)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        values = [K.attention_transfer(student.feats[on], teacher.feats[to], p=self.p) for on, to in self.pairs]
        return torch.stack(values).sum(dim=0)


@TERMS.register("neuron-selectivity")
class NeuronSelectivity(nn.Module):
    """The distributions of what student and teacher neurons select brought together; several pairs are added.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which maps; the benchmark's choice is all.

    Reference:
        arXiv 1707.01219.
    """

    row_claim = "apart"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, pairs: Pairs = "all") -> None:
        super().__init__()
        self.pairs = map_pairs(student, teacher, pairs)
        self.needs = needs_of(self.pairs)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        return torch.stack([K.nst(student.feats[on], teacher.feats[to]) for on, to in self.pairs]).sum(dim=0)
