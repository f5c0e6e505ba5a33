"""The losses as their papers write them, left to autograd: what fused implementations are measured against."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from edgekd_kernels._checks import widened
from torch import Tensor

_FLOOR = 1e-6
_ROUNDINGS = 8


def hint_mse(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference."""
    difference = widened(student_map) - widened(teacher_map.detach())
    return difference.square().flatten(1).mean(dim=1)


def hint_mse_grouped(
    student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], *, weights: Sequence[float] | None = None
) -> Tensor:
    """Weighted sum of mean squared differences."""
    weights = [1.0] * len(student_maps) if weights is None else weights
    values = [hint_mse(mine, theirs) for mine, theirs in zip(student_maps, teacher_maps, strict=True)]
    return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(dim=0)


def mgd(generated_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Sum of squared differences."""
    return (widened(generated_map) - widened(teacher_map.detach())).square().flatten(1).sum(dim=1)


def hint_l2(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference of unit vectors at each location."""
    return hint_mse(_unit(widened(student_map), 1), _unit(widened(teacher_map.detach()), 1))


def pkd(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Half the mean squared difference of standardised channels."""
    return hint_mse(_standardised(widened(student_map)), _standardised(widened(teacher_map.detach()))) / 2


def vid(mean: Tensor, teacher_map: Tensor, raw_variance: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Gaussian negative log-likelihood with one variance per channel."""
    variance = (F.softplus(widened(raw_variance)) + epsilon).view(1, -1, *([1] * (mean.dim() - 2)))
    difference = widened(mean) - widened(teacher_map.detach())
    return (0.5 * (difference.square() / variance + variance.log())).flatten(1).mean(dim=1)


def attention_transfer(student_map: Tensor, teacher_map: Tensor, *, p: float = 2.0) -> Tensor:
    """Mean squared difference of unit-length attention maps."""
    height, width = min(student_map.shape[-2:], teacher_map.shape[-2:], key=math.prod)
    maps = (F.adaptive_avg_pool2d(widened(each), (height, width)) for each in (student_map, teacher_map.detach()))
    mine, theirs = (_unit(_scaled(each, (1, 2, 3)).abs().pow(p).mean(dim=1).flatten(1), 1) for each in maps)
    return hint_mse(mine, theirs)


def pooled_mse(student_map: Tensor, teacher_map: Tensor, *, levels: tuple[int, ...] = (4, 2, 1)) -> Tensor:
    """Mean squared difference of maps and of their pooled pyramids."""
    difference = widened(student_map) - widened(teacher_map.detach())
    side = min(difference.shape[-2:])
    pyramid = [difference, *(_window_means(difference, level) for level in levels if level < side)]
    weights = [0.5**step for step in range(len(pyramid))]
    means = [floor.square().flatten(1).mean(dim=1) for floor in pyramid]
    return torch.stack([weight * mean for weight, mean in zip(weights, means, strict=True)]).sum(dim=0) / sum(weights)


def projected_mse(student_map: Tensor, teacher_map: Tensor, weight: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """Mean squared difference to a 1x1 convolution."""
    kernel = weight.view(*weight.shape, *[1] * (student_map.dim() - 2))
    return hint_mse(F.conv2d(student_map, kernel, bias), teacher_map)


def _window_means(feature_map: Tensor, level: int) -> Tensor:
    for dim in (2, 3):
        size = feature_map.shape[dim]
        windows = [(i * size // level, -(-(i + 1) * size // level)) for i in range(level)]
        means = [feature_map.narrow(dim, start, end - start).mean(dim=dim) for start, end in windows]
        feature_map = torch.stack(means, dim=dim)
    return feature_map


def _unit(vectors: Tensor, dim: int) -> Tensor:
    scaled = _scaled(vectors, (dim,))
    return scaled * scaled.square().sum(dim=dim, keepdim=True).clamp(min=_FLOOR).rsqrt()


def _scaled(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    peak = values.detach().abs().amax(dim=dims, keepdim=True)
    return torch.where(peak <= _FLOOR, 0.0, values / peak.clamp(min=_FLOOR))


def _standardised(feature_map: Tensor) -> Tensor:
    dims = (0, *range(2, feature_map.dim()))
    mean = feature_map.mean(dim=dims, keepdim=True)
    centred = feature_map - mean
    variance = centred.square().mean(dim=dims, keepdim=True)
    rounding = _ROUNDINGS * torch.finfo(feature_map.dtype).eps * mean.detach().abs()
    is_flat = variance <= _FLOOR**2 + rounding**2
    return torch.where(is_flat, 0.0, centred * variance.clamp(min=_FLOOR**2).rsqrt())
