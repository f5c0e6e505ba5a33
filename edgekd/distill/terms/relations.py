"""Terms on relations between the samples of a batch."""

from __future__ import annotations

import torch
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.data import Batch
from edgekd.distill.terms.base import TERMS, Needs, Step
from edgekd.distill.terms.pairs import Pairs, resolve_pairs
from edgekd.distill.trace import Trace, TraceSpec


@TERMS.register("similarity-preserving")
class SimilarityPreserving(nn.Module):
    """Row-normalised batch Gram matrices of student and teacher brought together; no trainable part.

    Several pairs are added, as in the paper's sum over layer pairs.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which maps; the paper's best choice is the last.

    Reference:
        arXiv 1907.09682.
    """

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, pairs: Pairs = "last") -> None:
        super().__init__()
        self.pairs = resolve_pairs(student, teacher, pairs)
        self.needs = Needs(tuple(on for on, _ in self.pairs), tuple(to for _, to in self.pairs))

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        return torch.stack(
            [K.similarity_preserving(student.feats[on], teacher.feats[to]) for on, to in self.pairs]
        ).sum(dim=0)
