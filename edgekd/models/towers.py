"""Networks for several modalities: a small convolutional tower for each group of input channels, fused late.

The modalities are equal groups of the channels of one input, so that everything behind (export, calibration, timing)
keeps one input. Each tower ends in an embedding; the embeddings side by side go through one hidden layer.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from edgekd.core.artifacts import NetSpec
from edgekd.models.family import Family
from edgekd.models.layers import conv3x3, conv_bn_relu, entry_pool, entry_stride
from edgekd.models.strides import stage_strides

_MODALITIES = ("2", "3", "4")


class Towers(nn.Module):
    """A tower for each modality, their embeddings concatenated, one hidden layer, the classifier.

    Args:
        spec: Its architecture, checked.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        groups = _count(spec)
        self.channels = spec.in_channels // groups
        embedding = 4 * spec.width
        self.towers = nn.ModuleList(_tower(spec, self.channels, embedding) for _ in range(groups))
        self.hidden = nn.Sequential(nn.Linear(groups * embedding, embedding), nn.ReLU())
        self.linear = nn.Linear(embedding, spec.num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Turn normalised inputs `[B, C, H, W]` into logits `[B, K]`."""
        starts = range(0, inputs.shape[1], self.channels)
        # Slices, since a Split of opset 18 has no form below it.
        parts = [inputs[:, start : start + self.channels] for start in starts]
        embeddings = [tower(part) for tower, part in zip(self.towers, parts, strict=True)]
        logits: Tensor = self.linear(self.hidden(torch.cat(embeddings, dim=1)))
        return logits


def _tower(spec: NetSpec, channels: int, embedding: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    entering = entry_stride(spec.resolution)
    for index, stride in enumerate(stage_strides(spec.resolution, (1, 2, 2))):
        grown = spec.width << index
        convolutions: list[nn.Module] = []
        for first in (True, *(False for _ in range(spec.depth // 3 - 1))):
            step = (stride if first else 1) * (entering if first and index == 0 else 1)
            convolutions += conv_bn_relu(conv3x3(channels, grown, stride=step))
            channels = grown
        layers[f"stage{index + 1}"] = nn.Sequential(*convolutions)
        if index == 0:
            layers.update(entry_pool(spec.resolution))
    layers.update(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), embedding=nn.Linear(channels, embedding))
    return nn.Sequential(layers)


def _count(spec: NetSpec) -> int:
    return int(spec.options.get("modalities", _MODALITIES[0]))


def _has_depth(depth: int) -> bool:
    return depth >= 3 and depth % 3 == 0


def _default_taps(spec: NetSpec) -> tuple[str, ...]:
    return tuple(f"net.towers.{index}.stage{stage}" for index in range(_count(spec)) for stage in (1, 2, 3))


def _modalities(spec: NetSpec) -> tuple[str, ...]:
    return tuple(f"net.towers.{index}.embedding" for index in range(_count(spec)))


TOWERS = Family(
    build=Towers,
    depth_rule="3n",
    has_depth=_has_depth,
    depths=(3, 6, 9, 12),
    widths=(4, 8, 12, 16, 24, 32, 48, 64),
    standard=(6, 16),
    default_taps=_default_taps,
    options={"modalities": _MODALITIES},
    penultimate="net.hidden.1",
    modalities=_modalities,
)
