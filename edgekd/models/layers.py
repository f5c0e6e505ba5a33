"""Layers that several families share: all of them convolution, batch norm, ReLU, add, pool and GEMM in ONNX."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekd.models.strides import entry_halvings

_NORMALIZATIONS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""The first is the base of batch and instance norms."""


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation, per channel.

    Both are buffers outside the state dict: they belong to the spec, not to the weights.

    Args:
        mean: Per-channel mean, inputs in 0..1.
        std: Per-channel standard deviation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return normalised inputs `[B, C, H, W]`."""
        return (inputs - self.mean) / self.std


def normalized(net: nn.Module, mean: Sequence[float], std: Sequence[float], *, reduction: int = 1) -> nn.Sequential:
    """Put input normalisation before a network, under the names `normalize` and `net`.

    Args:
        net: The network.
        mean: Per-channel mean, inputs in 0..1.
        std: Per-channel standard deviation.
        reduction: How many pixels a side are averaged into one in between, under the name `reduce`.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(normalize=Normalize(mean, std))
    if reduction > 1:
        layers["reduce"] = nn.AvgPool2d(reduction)
    layers["net"] = net
    return nn.Sequential(layers)


def has_normalization(net: nn.Module) -> bool:
    """Whether a layer of a network normalises what passes: by batch, group, instance, position or root mean square."""
    return any(isinstance(layer, _NORMALIZATIONS) for layer in net.modules())


def conv3x3(
    in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 1, has_bias: bool = False
) -> nn.Conv2d:
    """Return a padded 3x3 convolution; a map of n pixels becomes ceil(n / stride)."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, groups=groups, bias=has_bias)


def depthwise(channels: int, *, stride: int, kernel: int) -> nn.Conv2d:
    """Return a padded convolution of each channel alone; a map of n pixels becomes ceil(n / stride)."""
    return nn.Conv2d(channels, channels, kernel, stride=stride, padding=kernel // 2, groups=channels, bias=False)


def conv1x1(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Conv2d:
    """Return a 1x1 convolution without bias; a map of n pixels becomes ceil(n / stride)."""
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)


def conv_bn_relu(conv: nn.Conv2d) -> list[nn.Module]:
    """Return a convolution followed by batch norm and ReLU."""
    return [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU()]


def entry_stride(resolution: int) -> int:
    """Return the stride of the first convolution for an input of `resolution` pixels."""
    return 2 if entry_halvings(resolution) >= 1 else 1


def entry_pool(resolution: int) -> OrderedDict[str, nn.Module]:
    """Return the pool that halves the map after the first convolution: `{"entry": pool}`, or nothing."""
    if entry_halvings(resolution) < 2:
        return OrderedDict()
    return OrderedDict(entry=nn.MaxPool2d(3, stride=2, padding=1))


def classifier(channels: int, num_classes: int) -> OrderedDict[str, nn.Module]:
    """Return global average pool, flatten (the penultimate feature `[B, channels]`) and the linear layer."""
    return OrderedDict(
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        linear=nn.Linear(channels, num_classes),
    )


def initialise(net: nn.Module) -> None:
    """Draw weights as He et al. do, in place, from torch's global generator.

    Convolutions: normal, variance 2 / fan_in; linear layers: normal, variance 1 / fan_in; biases 0. Batch norm keeps
    scale 1 and shift 0.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="linear")
            nn.init.zeros_(module.bias)
