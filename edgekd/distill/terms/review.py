"""Knowledge review: a student's shallow maps are compared together with all deeper ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.alignment import map_pairs
from edgekd.distill.terms.base import TERMS, Needs
from edgekd.distill.terms.pairs import Pairs
from edgekd.distill.trace import Trace, TraceSpec, shape_of

_WIDEST = 512


@TERMS.register("reviewkd")
class KnowledgeReview(nn.Module):
    """Student maps fused from deep to shallow by attention, each compared with the teacher's map of its level.

    The penultimate features of both networks, as maps of 1x1, are the deepest level. Every level's loss is the mean
    squared difference of the maps and of their pooled pyramids; levels are added.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which maps; the paper's choice is all stages.
        with_penultimate: Whether the penultimate features take part.

    Reference:
        arXiv 2104.09044.
    """

    row_claim = "apart"

    def __init__(
        self, student: TraceSpec, teacher: TraceSpec, *, pairs: Pairs = "all", with_penultimate: bool = True
    ) -> None:
        super().__init__()
        found = map_pairs(student, teacher, pairs)
        deepest = ((student.penultimate, teacher.penultimate),) if with_penultimate else ()
        self.levels = tuple(reversed((*found, *deepest)))
        width = min(_WIDEST, max(shape_of(student, on)[0] for on, _ in self.levels))
        self.fusions = nn.ModuleList(
            AttentionFusion(shape_of(student, on)[0], width, shape_of(teacher, to)[0], is_deepest=index == 0)
            for index, (on, to) in enumerate(self.levels)
        )
        self.needs = Needs(tuple(on for on, _ in self.levels), tuple(to for _, to in self.levels))

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        values: list[Tensor] = []
        deeper: Tensor | None = None
        for (on, to), fusion in zip(self.levels, self.fusions, strict=True):
            theirs = _as_map(teacher.feats[to])
            mine, deeper = fusion(_as_map(student.feats[on]), deeper, (theirs.shape[2], theirs.shape[3]))
            values.append(K.pooled_mse(mine, theirs))
        return torch.stack(values).sum(dim=0)


class AttentionFusion(nn.Module):
    """Mixes a level with everything deeper, position by position, and predicts the teacher's map from the mixture.

    Args:
        inputs: Channels of this level.
        width: Channels of the mixture, common to all levels.
        outputs: Channels of the teacher's map.
        is_deepest: Whether there is nothing deeper to mix in.
    """

    def __init__(self, inputs: int, width: int, outputs: int, *, is_deepest: bool) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(inputs, width, kernel_size=1, bias=False), nn.BatchNorm2d(width))
        self.attention = None if is_deepest else nn.Conv2d(2 * width, 2, kernel_size=1)
        self.predict = nn.Sequential(
            nn.Conv2d(width, outputs, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, level: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Fuse one level.

        Args:
            level: `[B, inputs, H, W]`.
            deeper: `[B, width, H', W']`, the mixture of the deeper levels; None at the deepest.
            size: Height and width of the teacher's map.

        Returns:
            The prediction `[B, outputs, *size]` and the mixture `[B, width, *size]`.
        """
        mixture: Tensor = self.reduce(level)
        if self.attention is not None and deeper is not None:
            deeper = _resized(deeper, (mixture.shape[2], mixture.shape[3]))
            shares = torch.sigmoid(self.attention(torch.cat([mixture, deeper], dim=1)))
            mixture = mixture * shares[:, :1] + deeper * shares[:, 1:]
        mixture = _resized(mixture, size)
        return self.predict(mixture), mixture


def _as_map(feature: Tensor) -> Tensor:
    return feature if feature.dim() == 4 else feature.flatten(1)[:, :, None, None]


def _resized(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    return feature_map if feature_map.shape[-2:] == size else F.interpolate(feature_map, size=size, mode="nearest")
