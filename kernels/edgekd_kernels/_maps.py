"""Feature maps as losses take them: what is checked of them, and their positions as one dimension."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from edgekd_kernels._checks import require_pair, widened


def require_features(*, same: str = "shape", **tensors: Tensor) -> None:
    """Check a student's and a teacher's features `[B, C, ...]`.

    Args:
        same: What must agree, `"shape"` or `"batch"`.
        tensors: Two tensors by the names of the arguments.

    Raises:
        ValueError: A tensor has no elements, or shapes, batch sizes or devices differ.
        TypeError: A tensor is not of floating point.
    """
    require_pair(same=same, **tensors)
    for name, tensor in tensors.items():
        if tensor.numel() == 0:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, nothing to compare")


def require_maps(*, same: str = "shape", **tensors: Tensor) -> None:
    """Check a student's and a teacher's feature maps `[B, C, H, W]`, as `require_features` does.

    Raises:
        ValueError: A tensor is no map.
    """
    if any(tensor.dim() != 4 for tensor in tensors.values()):
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"feature maps [B, C, H, W] expected: {shapes}")
    require_features(same=same, **tensors)


def planes(features: Tensor) -> Tensor:
    """Return features `[B, C, ...]` as `[B, C, P]`, without a copy where strides allow."""
    return features.unsqueeze(2) if features.dim() == 2 else features.flatten(2)


def same_size(student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps `[B, C, H, W]` to the size of the smaller one, which stays as it is."""
    size, its_size = student_map.shape[-2:], teacher_map.shape[-2:]
    height, width = size if math.prod(size) <= math.prod(its_size) else its_size
    mine, theirs = (_pooled(each, height, width) for each in (student_map, teacher_map))
    return mine, theirs


def _pooled(feature_map: Tensor, height: int, width: int) -> Tensor:
    if feature_map.shape[-2:] == (height, width):
        return feature_map
    return F.adaptive_avg_pool2d(widened(feature_map), (height, width))
