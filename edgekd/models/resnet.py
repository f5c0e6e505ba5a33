"""CIFAR-style residual networks, the usual small teachers and students.

State dicts have the key names of `akamaster/pytorch_resnet_cifar10`, whose checkpoints therefore load.

The distillation benchmark's resnet8x4 and resnet32x4 are depth 8 and 32, width 64, `stem=half`, `shortcut=B`.

Reference: arXiv 1512.03385 section 4.2; inputs above 56 pixels are reduced first (see `edgekd.models.strides`). The
variants with a narrow stem are those of arXiv 1910.10699.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.core.artifacts import NetSpec
from edgekd.models.family import Family
from edgekd.models.layers import classifier, conv1x1, conv3x3, entry_pool, entry_stride
from edgekd.models.strides import stage_strides

SHORTCUTS = ("A", "B")
_STEMS = ("full", "half")


class PadShortcut(nn.Module):
    """Option A: take every `stride`-th pixel and add channels of zeros on both sides, no parameters.

    Args:
        extra_channels: Channels to add, half before and the rest after the real ones.
        stride: Distance of the pixels kept.
    """

    def __init__(self, extra_channels: int, stride: int) -> None:
        super().__init__()
        self.before = extra_channels // 2
        self.after = extra_channels - self.before
        self.stride = stride

    def forward(self, maps: Tensor) -> Tensor:
        """Turn `[B, C, H, W]` into `[B, C + extra, ceil(H / stride), ceil(W / stride)]`."""
        kept = maps[:, :, :: self.stride, :: self.stride] if self.stride > 1 else maps
        return F.pad(kept, (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, ReLU after the sum.

    Args:
        in_channels: Channels of its input.
        out_channels: Channels of its output.
        stride: Stride of the first convolution and of the shortcut.
        shortcut: `"A"` pads with zeros, `"B"` projects by a 1x1 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride=stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride=stride, option=shortcut)

    def forward(self, maps: Tensor) -> Tensor:
        """Turn `[B, C, H, W]` into `[B, out_channels, ceil(H / stride), ceil(W / stride)]`."""
        hidden = F.relu(self.bn1(self.conv1(maps)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(maps))


def _shortcut(in_channels: int, out_channels: int, *, stride: int, option: str) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if option == "A":
        return PadShortcut(out_channels - in_channels, stride)
    return nn.Sequential(conv1x1(in_channels, out_channels, stride=stride), nn.BatchNorm2d(out_channels))


def stage(in_channels: int, out_channels: int, *, blocks: int, stride: int, shortcut: str) -> nn.Sequential:
    """Return a stage of `blocks` basic blocks, the first of which has the stride and changes the channels."""
    first = BasicBlock(in_channels, out_channels, stride=stride, shortcut=shortcut)
    rest = [BasicBlock(out_channels, out_channels, stride=1, shortcut=shortcut) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def _build(spec: NetSpec) -> nn.Module:
    width, blocks = spec.width, (spec.depth - 2) // 6
    shortcut = spec.options.get("shortcut", SHORTCUTS[0])
    channels = max(1, width // 2) if spec.options.get("stem") == "half" else width
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=conv3x3(spec.in_channels, channels, stride=entry_stride(spec.resolution)),
        bn1=nn.BatchNorm2d(channels),
        relu=nn.ReLU(),
    )
    layers.update(entry_pool(spec.resolution))
    for index, stride in enumerate(stage_strides(spec.resolution, (1, 2, 2))):
        grown = width << index
        layers[f"layer{index + 1}"] = stage(channels, grown, blocks=blocks, stride=stride, shortcut=shortcut)
        channels = grown
    layers.update(classifier(channels, spec.num_classes))
    return nn.Sequential(layers)


def _has_depth(depth: int) -> bool:
    return depth >= 8 and depth % 6 == 2


def _default_taps(_spec: NetSpec) -> tuple[str, ...]:
    return ("net.layer1", "net.layer2", "net.layer3")


RESNET = Family(
    build=_build,
    depth_rule="6n+2",
    has_depth=_has_depth,
    depths=(8, 14, 20, 32, 44, 56, 110),
    widths=(4, 8, 12, 16, 24, 32, 48, 64),
    standard=(20, 16),
    default_taps=_default_taps,
    options={"shortcut": SHORTCUTS, "stem": _STEMS},
)
