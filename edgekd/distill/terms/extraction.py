"""The term of curriculum extraction: a student's layer learns a random projection of the teacher's."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.base import TERMS, Needs, Preparation
from edgekd.distill.trace import Depth, Trace, TraceSpec, map_at, shape_of

_IMAGES = 512


@TERMS.register("random-projection")
class RandomProjection(nn.Module):
    """Squared distance between the student's map and a frozen random projection of the teacher's channels.

    The projection has independent entries of variance `1/k`, k being its outputs, so that it preserves lengths on
    average. It is drawn once for each stage, by the run's seed alone. The teacher's map is average-pooled to the size
    of the student's. Each position counts as one feature vector.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        at: Which map of each network.
        width: Outputs of the projection. By default as many as the student's map has channels, which themselves must
            then carry the projection; otherwise a trained 1x1 convolution reads them.
        is_centred: Whether the teacher's channels are taken less their mean over training images. Our addition for
            maps after a ReLU: channels that would have to be negative throughout only die.

    Reference:
        arXiv 2503.17494; a reconstruction from the abstract.
    """

    row_claim = "apart"

    projection: Tensor
    mean: Tensor

    def __init__(
        self,
        student: TraceSpec,
        teacher: TraceSpec,
        *,
        at: Depth = "last",
        width: int | None = None,
        is_centred: bool = False,
    ) -> None:
        super().__init__()
        if width is not None and width < 1:
            raise ConfigError(f"random-projection: width must be positive, got {width}")
        on, to = map_at(student, at), map_at(teacher, at)
        mine, theirs = shape_of(student, on)[0], shape_of(teacher, to)[0]
        self.needs = Needs((on,), (to,))
        self.reader = nn.Identity() if width is None else nn.Conv2d(mine, width, kernel_size=1, bias=False)
        self.is_centred = is_centred
        self.register_buffer("projection", torch.full((width or mine, theirs), torch.nan), persistent=False)
        self.register_buffer("mean", torch.zeros(theirs), persistent=False)

    def prepare(self, preparation: Preparation) -> None:
        """Draw the projection, and find the mean of the teacher's channels."""
        drawn = torch.randn(self.projection.shape, generator=preparation.generator("projection"))
        self.projection.copy_(drawn / math.sqrt(len(drawn)))
        if self.is_centred:
            (to,) = self.needs.teacher
            means = [teacher.feats[to].mean(dim=(2, 3)) for _, teacher in preparation.traces(_IMAGES)]
            self.mean.copy_(torch.cat(means).mean(dim=0))

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        (on,), (to,) = self.needs.student, self.needs.teacher
        mine = student.feats[on]
        centred = teacher.feats[to] - self.mean.view(-1, 1, 1)
        theirs = F.adaptive_avg_pool2d(centred, (mine.shape[-2], mine.shape[-1]))
        return K.projected_match(self.reader(mine), theirs, self.projection)
