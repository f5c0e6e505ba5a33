"""Terms that have the student generate the teacher's feature map from an incomplete one."""

from __future__ import annotations

import torch
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.alignment import map_pairs, same_size, width_adapter, widths_of
from edgekd.distill.terms.base import TERMS
from edgekd.distill.terms.pairs import Pairs, needs_of
from edgekd.distill.trace import Trace, TraceSpec


@TERMS.register("mgd")
class MaskedGeneration(nn.Module):
    """The teacher's whole map generated from the student's map with whole channels masked at random.

    The student's map is adapted to the teacher's width by a 1x1 convolution where they differ, masked, and passed
    through `conv3x3 - ReLU - conv3x3`. Masks come from torch's generator. The squared difference is summed over
    channels and positions; several pairs are added.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which maps; the paper's choice for classification is the last.
        mask_ratio: Chance of a channel to be masked, in [0, 1).

    Reference:
        arXiv 2205.01529.
    """

    row_claim = "together"

    def __init__(
        self, student: TraceSpec, teacher: TraceSpec, *, pairs: Pairs = "last", mask_ratio: float = 0.15
    ) -> None:
        super().__init__()
        if not 0 <= mask_ratio < 1:
            raise ConfigError(f"mgd: mask_ratio must be at least 0 and below 1, got {mask_ratio}")
        self.pairs, self.mask_ratio = map_pairs(student, teacher, pairs), mask_ratio
        widths = widths_of(student, teacher, self.pairs)
        self.adapters = nn.ModuleList(width_adapter(*each) for each in widths)
        self.generators = nn.ModuleList(_generator(theirs) for _, theirs in widths)
        self.needs = needs_of(self.pairs)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        values = []
        for (on, to), adapter, generator in zip(self.pairs, self.adapters, self.generators, strict=True):
            mine, theirs = same_size(student.feats[on], teacher.feats[to])
            values.append(K.mgd(generator(self._masked(adapter(mine))), theirs))
        return torch.stack(values).sum(dim=0)

    def _masked(self, feature_map: Tensor) -> Tensor:
        draws = torch.rand(*feature_map.shape[:2], 1, 1, device=feature_map.device)
        return feature_map * (draws >= self.mask_ratio)


def _generator(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, kernel_size=3, padding=1),
    )
