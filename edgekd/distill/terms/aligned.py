"""The term of KCD: the student follows the teacher's channels in the order in which it has its own."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.channel_alignment import Alignment, align_channels, channel_moments
from edgekd.distill.step import Step
from edgekd.distill.terms.alignment import map_pairs, same_size, widths_of
from edgekd.distill.terms.base import TERMS, Preparation
from edgekd.distill.terms.pairs import Pairs, needs_of
from edgekd.distill.trace import Trace, TraceSpec

_LEAST_SCALE = 0.1


@TERMS.register("aligned-features")
class AlignedFeatures(nn.Module):
    """Mean squared difference between the student's map and the teacher's, its channels first aligned to the student's.

    The alignment is computed once, before the stage, from features of training images at the student's state of that
    moment, and stays; nothing in this term is trained. Both maps are standardised channel by channel with the
    statistics of those images; where the student varied by less than a tenth of its strongest channel, both sides are
    divided by that tenth, or a channel that was silent then would outweigh all others once it answers. The larger map
    is average-pooled to the smaller one's size. Several pairs are averaged.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which maps.
        alignment: See `align_channels`.
        images: Training images that the alignment is computed from.
        ridge: Regularisation of the linear alignment.

    Reference:
        arXiv 2103.16844; a reconstruction, the paper's equations could not be seen.
    """

    row_claim = "apart"

    def __init__(
        self,
        student: TraceSpec,
        teacher: TraceSpec,
        *,
        pairs: Pairs = "last",
        alignment: Alignment = "permute",
        images: int = 512,
        ridge: float = 0.01,
    ) -> None:
        super().__init__()
        self.pairs = map_pairs(student, teacher, pairs)
        self.alignment, self.images, self.ridge = alignment, images, ridge
        widths = widths_of(student, teacher, self.pairs)
        if images < 2 or not ridge > 0:
            raise ConfigError(f"aligned-features: images {images} must be at least 2 and ridge {ridge} positive")
        for (on, to), (mine, theirs) in zip(self.pairs, widths, strict=True):
            if alignment != "linear" and mine > theirs:
                raise ConfigError(
                    f"aligned-features: {alignment} gives each of the {mine} channels of the student's {on} one of the "
                    f"teacher's {to}, which has {theirs}; take alignment: linear"
                )
        self.frozen = nn.ModuleList(_FrozenAlignment(*width) for width in widths)
        self.needs = needs_of(self.pairs)

    def prepare(self, preparation: Preparation) -> None:
        """Align the channels of every pair."""
        for pair, frozen in zip(self.pairs, self.frozen, strict=True):
            moments = channel_moments(self._maps(preparation, *pair))
            aligned = align_channels(moments, self.alignment, ridge=self.ridge)
            scale = moments.scale.clamp(min=_LEAST_SCALE * moments.scale.max())
            share = moments.scale / scale
            for name, values in (
                ("mean", moments.mean),
                ("scale", scale),
                ("weight", share.unsqueeze(1) * aligned.weight),
                ("bias", share * aligned.bias),
            ):
                getattr(frozen, name).copy_(values)
            preparation.note(
                f"channels of the teacher's {pair[1]}, aligned to the student's {pair[0]}, correlate with them by "
                f"{aligned.agreement.mean():.2f} on average"
            )

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        maps = [
            frozen(*same_size(student.feats[on], teacher.feats[to]))
            for (on, to), frozen in zip(self.pairs, self.frozen, strict=True)
        ]
        predicted, taught = zip(*maps, strict=True)
        return K.hint_mse_grouped(predicted, taught, weights=[1 / len(maps)] * len(maps))

    def _maps(self, preparation: Preparation, on: str, to: str) -> Iterator[tuple[Tensor, Tensor]]:
        for student, teacher in preparation.traces(self.images):
            yield same_size(student.feats[on], teacher.feats[to])


class _FrozenAlignment(nn.Module):
    """Standardises the student's map and aligns the teacher's, by numbers that no optimiser sees."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, mine: int, theirs: int) -> None:
        super().__init__()
        for name, shape in (("mean", (mine,)), ("scale", (mine,)), ("weight", (mine, theirs)), ("bias", (mine,))):
            self.register_buffer(name, torch.full(shape, torch.nan), persistent=False)

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
        """Return both as `[B, C_s, H, W]`."""
        mean, scale = (values.view(-1, 1, 1) for values in (self.mean, self.scale))
        return (student_map - mean) / scale, F.conv2d(teacher_map, self.weight[:, :, None, None], self.bias)
