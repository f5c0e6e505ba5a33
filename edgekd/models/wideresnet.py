"""Wide residual networks: shallower and wider than ResNet, pre-activation blocks.

Reference: arXiv 1605.07146, without dropout; inputs above 56 pixels are reduced first (see `edgekd.models.strides`).
The first convolution has 16 channels as published, fewer only where the first stage is narrower than that.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.core.artifacts import NetSpec
from edgekd.models.family import Family
from edgekd.models.layers import classifier, conv1x1, conv3x3, entry_pool, entry_stride
from edgekd.models.strides import stage_strides

_STEM_CHANNELS = 16


class PreActivationBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions; the shortcut projects where shapes differ.

    Args:
        in_channels: Channels of its input.
        out_channels: Channels of its output.
        stride: Stride of the first convolution and of the projection.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride=stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        is_same = stride == 1 and in_channels == out_channels
        self.shortcut = None if is_same else conv1x1(in_channels, out_channels, stride=stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Turn `[B, C, H, W]` into `[B, out_channels, ceil(H / stride), ceil(W / stride)]`, not rectified."""
        active = F.relu(self.bn1(maps))
        skipped = maps if self.shortcut is None else self.shortcut(active)
        residual: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return residual + skipped


def _stage(in_channels: int, out_channels: int, *, blocks: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(in_channels, out_channels, stride=stride)
    rest = [PreActivationBlock(out_channels, out_channels, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def _build(spec: NetSpec) -> nn.Module:
    blocks = (spec.depth - 4) // 6
    channels = min(_STEM_CHANNELS, spec.width)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=conv3x3(spec.in_channels, channels, stride=entry_stride(spec.resolution))
    )
    layers.update(entry_pool(spec.resolution))
    for index, stride in enumerate(stage_strides(spec.resolution, (1, 2, 2))):
        grown = spec.width << index
        layers[f"layer{index + 1}"] = _stage(channels, grown, blocks=blocks, stride=stride)
        channels = grown
    layers["bn1"] = nn.BatchNorm2d(channels)
    layers["relu"] = nn.ReLU()
    layers.update(classifier(channels, spec.num_classes))
    return nn.Sequential(layers)


def _has_depth(depth: int) -> bool:
    return depth >= 10 and depth % 6 == 4


def _default_taps(_spec: NetSpec) -> tuple[str, ...]:
    return ("net.layer1", "net.layer2", "net.layer3")


WRN = Family(
    build=_build,
    depth_rule="6n+4",
    has_depth=_has_depth,
    depths=(10, 16, 22, 28, 40),
    widths=(8, 16, 32, 48, 64, 96, 128, 160),
    standard=(16, 32),
    default_taps=_default_taps,
)
