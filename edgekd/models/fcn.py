"""Fully convolutional networks for logits of pixels: the stages of a residual network, fused from deep to shallow.

The stages are those of `edgekd.models.resnet`. Each is brought to twice `width` channels, enlarged to the size of the
stage before it and added to that; two convolutions end in logits at the resolution of the input.

Reference: arXiv 1411.4038, whose skips add class scores; here the features are added before there are scores, so that
the fused map is one that distillation can tap.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.core.artifacts import NetSpec
from edgekd.models.family import Family
from edgekd.models.layers import conv1x1, conv3x3, conv_bn_relu, entry_pool, entry_stride
from edgekd.models.resnet import RESNET, SHORTCUTS, stage
from edgekd.models.strides import entry_halvings, stage_strides


class Merge(nn.Module):
    """A stage's map and the enlarged map of all deeper ones, added.

    Args:
        in_channels: Channels of the stage.
        width: Channels of the deeper map and of the result.
        size: Height and width of the stage's map in pixels.
    """

    def __init__(self, in_channels: int, width: int, *, size: int) -> None:
        super().__init__()
        self.lateral = nn.Sequential(conv1x1(in_channels, width), nn.BatchNorm2d(width))
        self.size = (size, size)

    def forward(self, stage_map: Tensor, deeper: Tensor) -> Tensor:
        """Turn `[B, in_channels, H, W]` and `[B, width, h, w]` into `[B, width, H, W]`."""
        enlarged = deeper if deeper.shape[2:] == self.size else F.interpolate(deeper, size=self.size, mode="nearest")
        return F.relu(self.lateral(stage_map) + enlarged)


class FullyConvolutional(nn.Module):
    """Three residual stages, fused.

    Args:
        spec: Its architecture, checked.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        width, blocks = spec.width, (spec.depth - 2) // 6
        shortcut = spec.options.get("shortcut", SHORTCUTS[0])
        widths = [width, 2 * width, 4 * width]
        first, second, third = stage_strides(spec.resolution, (1, 2, 2))
        entry = conv3x3(spec.in_channels, width, stride=entry_stride(spec.resolution))
        self.entry = nn.Sequential(*conv_bn_relu(entry), *entry_pool(spec.resolution).values())
        self.layer1 = stage(width, widths[0], blocks=blocks, stride=first, shortcut=shortcut)
        self.layer2 = stage(widths[0], widths[1], blocks=blocks, stride=second, shortcut=shortcut)
        self.layer3 = stage(widths[1], widths[2], blocks=blocks, stride=third, shortcut=shortcut)
        side = _halved(spec.resolution, entry_halvings(spec.resolution))
        fused = 2 * width
        self.lateral3 = nn.Sequential(*conv_bn_relu(conv1x1(widths[2], fused)))
        self.merge2 = Merge(widths[1], fused, size=_halved(side, second - 1))
        self.merge1 = Merge(widths[0], fused, size=side)
        self.fuse = nn.Sequential(*conv_bn_relu(conv3x3(fused, fused)))
        self.head = _head(fused, spec)

    def forward(self, inputs: Tensor) -> Tensor:
        """Turn normalised inputs `[B, C, H, W]` into logits `[B, K, H, W]`."""
        shallow = self.layer1(self.entry(inputs))
        middle = self.layer2(shallow)
        deep = self.lateral3(self.layer3(middle))
        logits: Tensor = self.head(self.fuse(self.merge1(shallow, self.merge2(middle, deep))))
        return logits


def _halved(side: int, times: int) -> int:
    for _ in range(times):
        side = (side + 1) // 2
    return side


def _head(width: int, spec: NetSpec) -> nn.Module:
    scores = nn.Conv2d(width, spec.num_classes, 1)
    if entry_halvings(spec.resolution) == 0:
        return scores
    size = (spec.resolution, spec.resolution)
    return nn.Sequential(scores, nn.Upsample(size=size, mode="bilinear", align_corners=False))


def _default_taps(_spec: NetSpec) -> tuple[str, ...]:
    return ("net.layer1", "net.layer2", "net.layer3", "net.fuse")


FCN = Family(
    build=FullyConvolutional,
    depth_rule=RESNET.depth_rule,
    has_depth=RESNET.has_depth,
    depths=RESNET.depths,
    widths=RESNET.widths,
    standard=(14, 16),
    default_taps=_default_taps,
    options=RESNET.options,
    penultimate="net.fuse.2",
    is_dense=True,
)
