"""Networks trained with parallel branches and deployed as a plain stack of 3x3 convolutions.

A block sums a 3x3 convolution, a 1x1 convolution and (where shapes agree) the identity, each with its batch norm; in
evaluation all three are linear, so `deploy` folds them into one convolution. Depth is 3n+1: the first block and three
stages of n blocks with w, 2w, 4w channels.

Reference: arXiv 2101.03697, in CIFAR proportions.
"""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.core.artifacts import NetSpec
from edgekd.models.family import Family
from edgekd.models.layers import classifier, conv1x1, conv3x3, entry_stride
from edgekd.models.strides import entry_halvings, stage_strides


class RepBlock(nn.Module):
    """Sum of a 3x3, a 1x1 and an identity branch, each normalised, then ReLU.

    Args:
        in_channels: Channels of its input.
        out_channels: Channels of its output.
        stride: Stride of both convolutions; with a stride of 2 there is no identity branch.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv3 = conv3x3(in_channels, out_channels, stride=stride)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.conv1 = conv1x1(in_channels, out_channels, stride=stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        is_same = stride == 1 and in_channels == out_channels
        self.bn0 = nn.BatchNorm2d(out_channels) if is_same else None

    def forward(self, maps: Tensor) -> Tensor:
        """Turn `[B, C, H, W]` into `[B, out_channels, ceil(H / stride), ceil(W / stride)]`."""
        total = self.bn3(self.conv3(maps)) + self.bn1(self.conv1(maps))
        return F.relu(total if self.bn0 is None else total + self.bn0(maps))


def deploy(module: nn.Module) -> nn.Module:
    """Return a copy for deployment: every `RepBlock` becomes one 3x3 convolution with bias and a ReLU.

    The copy computes what the original computes in evaluation mode; module paths of blocks and stages stay valid. A
    module without such blocks is copied as it is. The original is not touched.

    Args:
        module: Any network.
    """
    if isinstance(module, RepBlock):
        return _fused(module)
    deployed = copy.deepcopy(module)
    blocks = [(path, block) for path, block in deployed.named_modules() if isinstance(block, RepBlock)]
    for path, block in blocks:
        deployed.set_submodule(path, _fused(block))
    return deployed


@torch.no_grad()
def _fused(block: RepBlock) -> nn.Module:
    kernels = [_folded(block.conv3.weight, block.bn3), _folded(_centred(block.conv1.weight), block.bn1)]
    if block.bn0 is not None:
        kernels.append(_folded(_identity_kernel(block.conv3.weight), block.bn0))
    conv = nn.Conv2d(block.conv3.in_channels, block.conv3.out_channels, 3, stride=block.conv3.stride[0], padding=1)
    conv.to(block.conv3.weight)
    weight, bias = (torch.stack(parts).sum(0) for parts in zip(*kernels, strict=True))
    conv.weight.copy_(weight)
    if conv.bias is not None:
        conv.bias.copy_(bias)
    return nn.Sequential(OrderedDict(conv=conv, relu=nn.ReLU())).train(block.training)


def _folded(kernel: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without running statistics cannot be folded")
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return kernel.double() * scale.reshape(-1, 1, 1, 1), norm.bias.double() - norm.running_mean.double() * scale


def _centred(kernel: Tensor) -> Tensor:
    return F.pad(kernel, (1, 1, 1, 1))


def _identity_kernel(like: Tensor) -> Tensor:
    kernel = torch.zeros_like(like)
    channels = torch.arange(like.shape[0])
    kernel[channels, channels, 1, 1] = 1
    return kernel


def _stage(in_channels: int, out_channels: int, *, blocks: int, stride: int) -> nn.Sequential:
    first = RepBlock(in_channels, out_channels, stride=stride)
    return nn.Sequential(first, *(RepBlock(out_channels, out_channels, stride=1) for _ in range(blocks - 1)))


def _build(spec: NetSpec) -> nn.Module:
    channels, blocks = spec.width, (spec.depth - 1) // 3
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=RepBlock(spec.in_channels, channels, stride=entry_stride(spec.resolution))
    )
    first = 2 if entry_halvings(spec.resolution) == 2 else 1
    for index, stride in enumerate((first, *stage_strides(spec.resolution, (2, 2)))):
        grown = spec.width << index
        layers[f"stage{index + 1}"] = _stage(channels, grown, blocks=blocks, stride=stride)
        channels = grown
    layers.update(classifier(channels, spec.num_classes))
    return nn.Sequential(layers)


def _has_depth(depth: int) -> bool:
    return depth >= 4 and depth % 3 == 1


def _default_taps(_spec: NetSpec) -> tuple[str, ...]:
    return ("net.stage1", "net.stage2", "net.stage3")


REPVGG = Family(
    build=_build,
    depth_rule="3n+1",
    has_depth=_has_depth,
    depths=(4, 7, 10, 13, 19, 28),
    widths=(4, 8, 16, 24, 32, 48, 64),
    standard=(10, 32),
    default_taps=_default_taps,
)
