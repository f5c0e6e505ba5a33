"""Inverted residuals in the proportions of MobileNetV2, with ReLU for ReLU6.

Width counts the channels of the first stage, 16 in the published network; every other layer scales with it and is
rounded to a multiple of 8. Depth counts inverted residuals: 17 is the published network, 12 and 7 repeat fewer. Option
`kernel` is the side of the depthwise convolutions, 3 as published.

Reference: arXiv 1801.04381; ReLU instead of ReLU6 and no dropout; the last convolution narrows with the width too.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from torch import Tensor, nn

from edgekd.core.artifacts import NetSpec
from edgekd.models.family import Family
from edgekd.models.layers import classifier, conv1x1, conv3x3, conv_bn_relu, depthwise, entry_stride
from edgekd.models.strides import entry_halvings, stage_strides

_PUBLISHED_WIDTH = 16
_EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)
_CHANNELS = (16, 24, 32, 64, 96, 160, 320)
_LAST_CHANNELS = 1280
_KERNELS = ("3", "5")
_REPEATS = {7: (1, 1, 1, 1, 1, 1, 1), 12: (1, 2, 2, 2, 2, 2, 1), 17: (1, 2, 3, 4, 3, 3, 1)}


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, filter each channel by itself, project back; add the input where shapes agree.

    Args:
        in_channels: Channels of its input.
        out_channels: Channels of its output.
        stride: Stride of the depthwise convolution.
        expansion: Hidden channels per input channel; 1 leaves the expansion out.
        kernel: Side of the depthwise convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, expansion: int, kernel: int = 3) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.is_residual = stride == 1 and in_channels == out_channels
        self.body = nn.Sequential(
            *(conv_bn_relu(conv1x1(in_channels, hidden)) if expansion > 1 else []),
            *conv_bn_relu(depthwise(hidden, stride=stride, kernel=kernel)),
            conv1x1(hidden, out_channels),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Turn `[B, C, H, W]` into `[B, out_channels, ceil(H / stride), ceil(W / stride)]`, not rectified."""
        projected: Tensor = self.body(maps)
        return maps + projected if self.is_residual else projected


def _scaled(channels: int, width: int) -> int:
    wanted = channels * width / _PUBLISHED_WIDTH
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def _stage(
    in_channels: int, out_channels: int, *, repeats: int, stride: int, expansion: int, kernel: int
) -> nn.Sequential:
    block = partial(InvertedResidual, expansion=expansion, kernel=kernel)
    rest = [block(out_channels, out_channels, stride=1) for _ in range(repeats - 1)]
    return nn.Sequential(block(in_channels, out_channels, stride=stride), *rest)


def _strides(resolution: int) -> tuple[int, ...]:
    third, fourth, sixth = stage_strides(resolution, (2, 2, 2))
    second = 2 if entry_halvings(resolution) == 2 else 1
    return (1, second, third, fourth, 1, sixth, 1)


def _build(spec: NetSpec) -> nn.Module:
    channels, kernel = 2 * spec.width, int(spec.options.get("kernel", _KERNELS[0]))
    stem = conv3x3(spec.in_channels, channels, stride=entry_stride(spec.resolution))
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Sequential(*conv_bn_relu(stem)))
    rows = zip(_EXPANSIONS, _CHANNELS, _REPEATS[spec.depth], _strides(spec.resolution), strict=True)
    for index, (expansion, published, repeats, stride) in enumerate(rows, start=1):
        grown = spec.width if index == 1 else _scaled(published, spec.width)
        layers[f"stage{index}"] = _stage(
            channels, grown, repeats=repeats, stride=stride, expansion=expansion, kernel=kernel
        )
        channels = grown
    last = _scaled(_LAST_CHANNELS, spec.width)
    layers["last"] = nn.Sequential(*conv_bn_relu(conv1x1(channels, last)))
    layers.update(classifier(last, spec.num_classes))
    return nn.Sequential(layers)


def _has_depth(depth: int) -> bool:
    return depth in _REPEATS


def _default_taps(_spec: NetSpec) -> tuple[str, ...]:
    return ("net.stage2", "net.stage3", "net.stage5", "net.stage7")


MOBILENETV2 = Family(
    build=_build,
    depth_rule="7, 12 or 17 inverted residuals",
    has_depth=_has_depth,
    depths=tuple(_REPEATS),
    widths=(4, 8, 12, 16, 24, 32),
    standard=(17, 16),
    default_taps=_default_taps,
    options={"kernel": _KERNELS},
)
