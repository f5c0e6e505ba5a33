"""Losses on feature maps, position by position."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgekd_kernels._checks import require_same_shape, widened


def hint_mse(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """FitNet's hint loss, the mean squared difference of two feature maps of one shape.

    Args:
        student_map: `[B, ...]`, already projected to the teacher's width.
        teacher_map: The same shape; no gradient reaches it.

    Returns:
        `[B]`, the mean over all but the batch dimension.

    Raises:
        ValueError: Shapes differ.

    Reference:
        arXiv 1412.6550; the mean is taken where the paper writes half a sum.
    """
    require_same_shape(student_map, teacher_map)
    difference = widened(student_map) - widened(teacher_map.detach())
    return difference.square().flatten(1).mean(dim=1)


def vid(mean: Tensor, teacher_map: Tensor, raw_variance: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Variational information distillation, a Gaussian negative log-likelihood with one variance per channel.

    `0.5 * ((mean - t)^2 / v + log v)` with `v = softplus(raw_variance) + epsilon`; the constant is left out, so the
    loss can be negative.

    Args:
        mean: `[B, C, H, W]`, the teacher's map as predicted from the student.
        teacher_map: `[B, C, H, W]`; no gradient reaches it.
        raw_variance: `[C]`, learned; receives a gradient.
        epsilon: Floor of the variance.

    Returns:
        `[B]`, the mean over channels and positions.

    Raises:
        ValueError: Shapes differ.

    Reference:
        arXiv 1904.05835; mean instead of sum, as the benchmark code credited to the authors has it.
    """
    require_same_shape(mean, teacher_map)
    if raw_variance.shape != (mean.shape[1],):
        raise ValueError(f"raw_variance has shape {tuple(raw_variance.shape)}, expected ({mean.shape[1]},)")
    variance = (F.softplus(widened(raw_variance)) + epsilon).view(1, -1, *([1] * (mean.dim() - 2)))
    difference = widened(mean) - widened(teacher_map.detach())
    return (0.5 * (difference.square() / variance + variance.log())).flatten(1).mean(dim=1)
