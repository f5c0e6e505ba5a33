"""Terms on relations between the samples of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.base import TERMS
from edgekd.distill.terms.pairs import Pairs, needs_of, resolve_pairs
from edgekd.distill.terms.vectors import Places, resolve_places
from edgekd.distill.trace import Trace, TraceSpec, shape_of


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

    row_claim = "together"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, pairs: Pairs = "last") -> None:
        super().__init__()
        self.pairs = resolve_pairs(student, teacher, pairs)
        self.needs = needs_of(self.pairs, least_rows=2)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        return _summed(K.similarity_preserving, self.pairs, student, teacher)


@TERMS.register("rkd-distance")
class RelationalDistance(nn.Module):
    """Distances between the samples of a batch, relative to their mean, brought together; no trainable part.

    Several pairs are added.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which features; the benchmark's choice is the penultimate one.

    Reference:
        arXiv 1904.05068.
    """

    row_claim = "together"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, pairs: Places = "penultimate") -> None:
        super().__init__()
        self.pairs = resolve_places(student, teacher, pairs)
        self.needs = needs_of(self.pairs, least_rows=2)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        return _summed(K.rkd_distance, self.pairs, student, teacher)


@TERMS.register("rkd-angle")
class RelationalAngle(nn.Module):
    """Angles between every three samples of a batch brought together; no trainable part.

    Several pairs are added. Time grows with the cube of the batch, memory with its square.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which features; the benchmark's choice is the penultimate one.

    Reference:
        arXiv 1904.05068.
    """

    row_claim = "together"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, pairs: Places = "penultimate") -> None:
        super().__init__()
        self.pairs = resolve_places(student, teacher, pairs)
        self.needs = needs_of(self.pairs, least_rows=3)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        return _summed(K.rkd_angle, self.pairs, student, teacher)


@TERMS.register("correlation-congruence")
class CorrelationCongruence(nn.Module):
    """Correlations between samples under a Gaussian kernel brought together.

    The student's feature goes through a learned linear embedding. The teacher's is taken as it is: correlations do not
    depend on widths, and were both embeddings learned, making both constant would be perfect. Several pairs are added.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        embedding_width: Outputs of the student's embedding.
        gamma: Inverse width of the kernel.
        order: Highest power of its Taylor series.
        pairs: Which features; the benchmark's choice is the penultimate one.

    Reference:
        arXiv 1904.01802.
    """

    row_claim = "together"

    def __init__(
        self,
        student: TraceSpec,
        teacher: TraceSpec,
        *,
        embedding_width: int = 128,
        gamma: float = 0.4,
        order: int = 2,
        pairs: Places = "penultimate",
    ) -> None:
        super().__init__()
        if embedding_width < 1 or not gamma > 0 or order < 1:
            raise ConfigError(
                f"correlation-congruence: embedding_width {embedding_width}, gamma {gamma} and order {order} "
                "must all be positive"
            )
        self.gamma, self.order = gamma, order
        self.pairs = resolve_places(student, teacher, pairs)
        self.embeddings = nn.ModuleList(
            nn.Linear(math.prod(shape_of(student, on)), embedding_width) for on, _ in self.pairs
        )
        self.needs = needs_of(self.pairs, least_rows=2)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        values = []
        for (on, to), embedding in zip(self.pairs, self.embeddings, strict=True):
            mine = embedding(student.feats[on].flatten(1))
            values.append(K.correlation_congruence(mine, teacher.feats[to], gamma=self.gamma, order=self.order))
        return torch.stack(values).sum(dim=0)


@TERMS.register("pkt")
class ProbabilisticTransfer(nn.Module):
    """Distributions over each sample's neighbours in the batch brought together; no trainable part.

    Several pairs are added.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which features; the benchmark's choice is the penultimate one.

    Reference:
        arXiv 1803.10837.
    """

    row_claim = "together"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, pairs: Places = "penultimate") -> None:
        super().__init__()
        self.pairs = resolve_places(student, teacher, pairs)
        self.needs = needs_of(self.pairs, least_rows=2)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        return _summed(K.pkt, self.pairs, student, teacher)


@TERMS.register("cka")
class KernelAlignment(nn.Module):
    """One minus the linear centred kernel alignment, with the biased estimator of HSIC; no trainable part.

    Several pairs are added.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which features.

    Reference:
        arXiv 1905.00414 (the measure).
    """

    row_claim = "together"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, pairs: Places = "penultimate") -> None:
        super().__init__()
        self.pairs = resolve_places(student, teacher, pairs)
        self.needs = needs_of(self.pairs, least_rows=2)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        return _summed(K.cka_dissimilarity, self.pairs, student, teacher)


def _summed(
    loss: Callable[[Tensor, Tensor], Tensor], pairs: tuple[tuple[str, str], ...], student: Trace, teacher: Trace
) -> Tensor:
    return torch.stack([loss(student.feats[on], teacher.feats[to]) for on, to in pairs]).sum(dim=0)
