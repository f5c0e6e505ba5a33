"""Takes batch norms out of a trained network before it is fine-tuned for int8: what is trained is what is exported.

A batch norm that reads the output of a convolution or linear layer, and nothing else does, goes into its weights; any
other becomes a scale and a shift for each channel, which go on being trained.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekd.core.errors import ExportError
from edgekd.models import evaluating

_TOLERANCE = 1e-4


class ChannelAffine(nn.Module):
    """A scale and a shift for each channel of `[B, C, ...]`."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(scale), nn.Parameter(shift)

    def forward(self, maps: Tensor) -> Tensor:
        """Return `scale * maps + shift`."""
        shape = (1, -1, *(1,) * (maps.dim() - 2))
        return maps * self.scale.reshape(shape) + self.shift.reshape(shape)


@torch.no_grad()
def without_batch_norms(module: nn.Module, example: Tensor) -> None:
    """Fold or replace every batch norm of a network, in place; module paths stay.

    Args:
        module: A trained network in evaluation mode.
        example: Inputs as it takes them.

    Raises:
        ExportError: A batch norm has no running statistics, or the network's answers changed.
    """
    with evaluating(module):
        expected = module(example)
        feeders = _feeders(module, example)
        for path, norm in [(path, one) for path, one in module.named_modules() if isinstance(one, _BatchNorm)]:
            affine, feeder = ChannelAffine(*_affine(norm, path)), feeders.get(path)
            if feeder is None or not _is_folded(module, path, feeder, affine, example):
                module.set_submodule(path, affine)
        _, gap = _gap(module(example), expected)
    if not gap <= _TOLERANCE:
        raise ExportError(f"taking batch norms out of the network moved its outputs by {gap:.2g} of their size")


def _is_folded(
    module: nn.Module, path: str, layer: nn.Conv2d | nn.Linear, affine: ChannelAffine, example: Tensor
) -> bool:
    """Fold a batch norm into the layer before it, unless something else reads that layer's output too."""
    expected = module(example)
    norm, weight, bias = module.get_submodule(path), layer.weight, layer.bias
    scale = affine.scale.reshape(-1, *(1,) * (weight.dim() - 1))
    layer.weight = nn.Parameter(weight * scale)
    layer.bias = nn.Parameter(affine.shift + (0 if bias is None else bias * affine.scale))
    module.set_submodule(path, nn.Identity())
    is_same, _ = _gap(module(example), expected)
    if not is_same:
        layer.weight, layer.bias = weight, bias
        module.set_submodule(path, norm)
    return is_same


def _gap(found: Tensor, expected: Tensor) -> tuple[bool, float]:
    gap = float((found - expected).abs().max()) / max(float(expected.square().mean().sqrt()), 1e-12)
    return gap <= _TOLERANCE, gap


def _feeders(module: nn.Module, example: Tensor) -> dict[str, nn.Conv2d | nn.Linear]:
    """Return by path of a batch norm the layer whose output it alone reads, among modules."""
    made: dict[int, nn.Conv2d | nn.Linear] = {}
    runs: Counter[int] = Counter()
    held: list[Tensor] = []
    found: dict[str, nn.Conv2d | nn.Linear] = {}

    def made_by(layer: nn.Module, arguments: object, output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            made[id(output)] = layer
            runs[id(layer)] += 1
            held.append(output)

    def read_by(path: str, arguments: tuple[Tensor, ...]) -> None:
        if id(arguments[0]) in made:
            found[path] = made[id(arguments[0])]

    handles = []
    for path, one in module.named_modules():
        if isinstance(one, nn.Conv2d | nn.Linear):
            handles.append(one.register_forward_hook(made_by))
        elif isinstance(one, _BatchNorm):
            handles.append(one.register_forward_pre_hook(lambda _, arguments, path=path: read_by(path, arguments)))
    try:
        module(example)
    finally:
        for handle in handles:
            handle.remove()
    readers = Counter(id(layer) for layer in found.values())
    return {path: layer for path, layer in found.items() if runs[id(layer)] == 1 and readers[id(layer)] == 1}


def _affine(norm: _BatchNorm, path: str) -> tuple[Tensor, Tensor]:
    if norm.running_mean is None or norm.running_var is None:
        raise ExportError(f"batch norm {path} keeps no running statistics; int8 needs them")
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.affine:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        shift = shift + norm.bias.double()
    return scale.float(), shift.float()
