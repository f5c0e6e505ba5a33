"""Terms on feature maps: FitNet's hint and variational information distillation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.data import Batch
from edgekd.distill.terms.base import TERMS, Needs, Step
from edgekd.distill.terms.pairs import Pairs, resolve_pairs
from edgekd.distill.trace import Trace, TraceSpec, shape_of

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

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, pairs: Pairs = "middle") -> None:
        super().__init__()
        self.pairs = resolve_pairs(student, teacher, pairs)
        self.projectors = nn.ModuleList(
            _projector(shape_of(student, on)[0], shape_of(teacher, to)[0]) for on, to in self.pairs
        )
        self.needs = Needs(tuple(on for on, _ in self.pairs), tuple(to for _, to in self.pairs))

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        values = []
        for (on, to), projector in zip(self.pairs, self.projectors, strict=True):
            mine, theirs = _same_size(student.feats[on], teacher.feats[to])
            values.append(K.hint_mse(projector(mine), theirs))
        return torch.stack(values).mean(dim=0)


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

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, pairs: Pairs = "all") -> None:
        super().__init__()
        self.pairs = resolve_pairs(student, teacher, pairs)
        self.regressors = nn.ModuleList(
            _regressor(shape_of(student, on)[0], shape_of(teacher, to)[0]) for on, to in self.pairs
        )
        start = math.log(math.expm1(_INITIAL_VARIANCE - _VARIANCE_FLOOR))
        self.raw_variances = nn.ParameterList(
            nn.Parameter(torch.full((shape_of(teacher, to)[0],), start)) for _, to in self.pairs
        )
        self.needs = Needs(
            tuple(on for on, _ in self.pairs), tuple(to for _, to in self.pairs), undecayed=("raw_variances",)
        )

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`; it can be negative."""
        values = []
        for (on, to), regressor, raw in zip(self.pairs, self.regressors, self.raw_variances, strict=True):
            mine, theirs = _same_size(student.feats[on], teacher.feats[to])
            values.append(K.vid(regressor(mine), theirs, raw, epsilon=_VARIANCE_FLOOR))
        return torch.stack(values).sum(dim=0)


def _projector(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel_size=1, bias=False), nn.BatchNorm2d(outputs))


def _regressor(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 1, bias=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 1, bias=False),
    )


def _same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    size = min(student.shape[-2:], teacher.shape[-2:], key=math.prod)
    return _pooled(student, size), _pooled(teacher, size)


def _pooled(feature_map: Tensor, size: torch.Size) -> Tensor:
    height, width = size
    return feature_map if feature_map.shape[-2:] == size else F.adaptive_avg_pool2d(feature_map, (height, width))
