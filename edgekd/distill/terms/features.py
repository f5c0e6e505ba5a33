"""Terms that predict the teacher's feature map from the student's: hints, correlation, likelihood."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.alignment import (
    map_pairs,
    normalised_projection,
    same_size,
    width_adapter,
    widths_of,
)
from edgekd.distill.terms.base import TERMS
from edgekd.distill.terms.pairs import Pairs, needs_of
from edgekd.distill.trace import Trace, TraceSpec

_INITIAL_VARIANCE = 5.0
_VARIANCE_FLOOR = 1e-5


@TERMS.register("fitnet")
class FitNetHint(nn.Module):
    """Mean squared difference between the teacher's map and a 1x1 projection of the student's.

    The projection is a convolution with batch normalisation, without which a weight of 100 makes it unstable. The
    larger map is average-pooled to the smaller one's size. Several pairs are averaged.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which maps; FitNet's own choice is one in the middle.

    Reference:
        arXiv 1412.6550.
    """

    row_claim = "apart"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, pairs: Pairs = "middle") -> None:
        super().__init__()
        self.pairs = map_pairs(student, teacher, pairs)
        self.projectors = nn.ModuleList(normalised_projection(*w) for w in widths_of(student, teacher, self.pairs))
        self.needs = needs_of(self.pairs)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        predicted, taught = [], []
        for (on, to), projector in zip(self.pairs, self.projectors, strict=True):
            mine, theirs = same_size(student.feats[on], teacher.feats[to])
            predicted.append(projector(mine))
            taught.append(theirs)
        return K.hint_mse_grouped(predicted, taught, weights=[1 / len(taught)] * len(taught))


@TERMS.register("fitnet-normalized")
class NormalizedHint(nn.Module):
    """FitNet's hint between feature vectors of unit length: only their direction at each location counts.

    Projection, pooling and averaging over pairs are those of `FitNetHint`.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which maps; FitNet's own choice is one in the middle.
    """

    row_claim = "apart"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, pairs: Pairs = "middle") -> None:
        super().__init__()
        self.pairs = map_pairs(student, teacher, pairs)
        self.projectors = nn.ModuleList(normalised_projection(*w) for w in widths_of(student, teacher, self.pairs))
        self.needs = needs_of(self.pairs)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        values = []
        for (on, to), projector in zip(self.pairs, self.projectors, strict=True):
            mine, theirs = same_size(student.feats[on], teacher.feats[to])
            values.append(K.hint_l2(projector(mine), theirs))
        return torch.stack(values).mean(dim=0)


@TERMS.register("pooled-pyramid")
class PooledPyramid(nn.Module):
    """Mean squared difference of the teacher's map and a 1x1 projection of the student's, at several resolutions.

    Beside the maps themselves their averages over 4x4, 2x2 and 1x1 windows are compared, each coarser level with half
    the weight of the one before: where a response is, and how much of it there is in all. The projection is that of
    `FitNetHint`; the larger map is average-pooled to the smaller one's size. Several pairs are averaged.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which maps.
        levels: Sides of the pooled maps; those not below a map's own side are left out.

    Reference:
        The hierarchical context loss of arXiv 2104.09044, without its fusion of levels.
    """

    row_claim = "apart"

    def __init__(
        self,
        student: TraceSpec,
        teacher: TraceSpec,
        *,
        pairs: Pairs = "all",
        levels: tuple[int, ...] = (4, 2, 1),
    ) -> None:
        super().__init__()
        if any(level < 1 for level in levels):
            raise ConfigError(f"pooled-pyramid: levels must be positive, got {list(levels)}")
        self.pairs, self.levels = map_pairs(student, teacher, pairs), tuple(levels)
        self.projectors = nn.ModuleList(normalised_projection(*w) for w in widths_of(student, teacher, self.pairs))
        self.needs = needs_of(self.pairs)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        values = []
        for (on, to), projector in zip(self.pairs, self.projectors, strict=True):
            mine, theirs = same_size(student.feats[on], teacher.feats[to])
            values.append(K.pooled_mse(projector(mine), theirs, levels=self.levels))
        return torch.stack(values).mean(dim=0)


@TERMS.register("pkd")
class PearsonCorrelation(nn.Module):
    """One minus the correlation of the student's and the teacher's channels over batch and positions.

    A 1x1 convolution adapts the width where it differs; where it agrees there is no trainable part. The larger map is
    average-pooled to the smaller one's size. Several pairs are added.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which maps; the paper's are all levels of a feature pyramid.

    Reference:
        arXiv 2207.02039.
    """

    row_claim = "together"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, pairs: Pairs = "all") -> None:
        super().__init__()
        self.pairs = map_pairs(student, teacher, pairs)
        self.adapters = nn.ModuleList(width_adapter(*w) for w in widths_of(student, teacher, self.pairs))
        self.needs = needs_of(self.pairs)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        values = []
        for (on, to), adapter in zip(self.pairs, self.adapters, strict=True):
            mine, theirs = same_size(student.feats[on], teacher.feats[to])
            values.append(K.pkd(adapter(mine), theirs))
        return torch.stack(values).sum(dim=0)


@TERMS.register("vid")
class VariationalInformation(nn.Module):
    """Gaussian likelihood of the teacher's map given the student's, with one learned variance for each channel.

    The mean is predicted by three 1x1 convolutions without bias, the variance starts at 5. Several pairs are added.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which maps; the benchmark's choice is all.

    Reference:
        arXiv 1904.05835.
    """

    row_claim = "apart"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, pairs: Pairs = "all") -> None:
        super().__init__()
        self.pairs = map_pairs(student, teacher, pairs)
        widths = widths_of(student, teacher, self.pairs)
        self.regressors = nn.ModuleList(_regressor(mine, theirs) for mine, theirs in widths)
        start = math.log(math.expm1(_INITIAL_VARIANCE - _VARIANCE_FLOOR))
        self.raw_variances = nn.ParameterList(nn.Parameter(torch.full((theirs,), start)) for _, theirs in widths)
        self.needs = replace(needs_of(self.pairs), undecayed=("raw_variances",))

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`; it can be negative."""
        values = []
        for (on, to), regressor, raw in zip(self.pairs, self.regressors, self.raw_variances, strict=True):
            mine, theirs = same_size(student.feats[on], teacher.feats[to])
            values.append(K.vid(regressor(mine), theirs, raw, epsilon=_VARIANCE_FLOOR))
        return torch.stack(values).sum(dim=0)


def _regressor(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 1, bias=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 1, bias=False),
    )
