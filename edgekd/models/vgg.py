"""VGG with batch norm and one linear layer, as the distillation literature uses it on small images.

Five stages of w, 2w, 4w, 8w, 8w channels; the second, third and fourth start with a 2x2 max pool. Depth is the
published name: 8, 11 and 13 have 5, 8 and 10 convolutions. Convolutions have no bias, since batch norm takes it away;
the published networks have one, `bias=yes` gives it for their exact parameter count.

Reference: arXiv 1409.1556, as cut down in arXiv 1910.10699.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from edgekd.core.artifacts import NetSpec
from edgekd.models.family import Family
from edgekd.models.layers import classifier, conv3x3, conv_bn_relu, entry_pool, entry_stride
from edgekd.models.strides import stage_strides

_CONVS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2)}
_GROWTH = (1, 2, 4, 8, 8)
_BIASES = ("no", "yes")


def _stage(in_channels: int, out_channels: int, *, convs: int, first: list[nn.Module], has_bias: bool) -> nn.Sequential:
    modules = list(first)
    for index in range(convs):
        modules += conv_bn_relu(conv3x3(out_channels if index else in_channels, out_channels, has_bias=has_bias))
    return nn.Sequential(*modules)


def _build(spec: NetSpec) -> nn.Module:
    has_bias = spec.options.get("bias") == "yes"
    stem = conv3x3(spec.in_channels, spec.width, stride=entry_stride(spec.resolution), has_bias=has_bias)
    entry = [*conv_bn_relu(stem), *entry_pool(spec.resolution).values()]
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stage1=_stage(spec.width, spec.width, convs=_CONVS[spec.depth][0] - 1, first=entry, has_bias=has_bias)
    )
    channels = spec.width
    strides = stage_strides(spec.resolution, (2, 2, 2, 1))
    for index, (stride, convs) in enumerate(zip(strides, _CONVS[spec.depth][1:], strict=True), start=1):
        grown = spec.width * _GROWTH[index]
        pool: list[nn.Module] = [nn.MaxPool2d(2)] if stride == 2 else []
        layers[f"stage{index + 1}"] = _stage(channels, grown, convs=convs, first=pool, has_bias=has_bias)
        channels = grown
    layers.update(classifier(channels, spec.num_classes))
    return nn.Sequential(layers)


def _has_depth(depth: int) -> bool:
    return depth in _CONVS


def _default_taps(_spec: NetSpec) -> tuple[str, ...]:
    return tuple(f"net.stage{index}" for index in range(1, len(_GROWTH) + 1))


VGG = Family(
    build=_build,
    depth_rule="8, 11 or 13",
    has_depth=_has_depth,
    depths=tuple(_CONVS),
    widths=(4, 8, 16, 32, 64),
    standard=(8, 64),
    default_taps=_default_taps,
    options={"bias": _BIASES},
)
