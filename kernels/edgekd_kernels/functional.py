"""Distillation losses as plain functions: tensors first, options by keyword, one value for each sample.

Every function returns `[B]` in float32 or wider, such that the mean over `[B]` is the loss as its paper defines it.
Gradients never reach the teacher's tensors. Here each loss is its textbook formula in PyTorch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["hint_mse", "kd_kl", "similarity_preserving", "vid"]


def kd_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Hinton's distillation loss, `T^2 * KL(softmax(t/T) || softmax(s/T))`.

    Args:
        student_logits: `[B, K]`.
        teacher_logits: `[B, K]`; no gradient reaches it.
        temperature: `T > 0`, applied to both sides.

    Returns:
        `[B]`.

    Raises:
        ValueError: Shapes differ or the temperature is not positive.

    Reference:
        arXiv 1503.02531.
    """
    _require_same_shape(student_logits, teacher_logits)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    student = F.log_softmax(_widened(student_logits) / temperature, dim=1)
    teacher = F.log_softmax(_widened(teacher_logits.detach()) / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1) * temperature**2


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
    _require_same_shape(student_map, teacher_map)
    difference = _widened(student_map) - _widened(teacher_map.detach())
    return difference.square().flatten(1).mean(dim=1)


def similarity_preserving(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Similarity-preserving loss, `1/B^2 * ||G_t - G_s||_F^2` with row-normalised batch Gram matrices.

    Args:
        student_map: `[B, ...]`; its shape may differ from the teacher's in all but `B`.
        teacher_map: `[B, ...]`; no gradient reaches it.

    Returns:
        `[B]`: `1/B` times the squared norm of each sample's row, so that the mean is the loss.

    Raises:
        ValueError: Batch sizes differ.

    Reference:
        arXiv 1907.09682.
    """
    if student_map.shape[0] != teacher_map.shape[0]:
        raise ValueError(f"batch sizes differ: student {student_map.shape[0]}, teacher {teacher_map.shape[0]}")
    difference = _row_normalised_gram(student_map) - _row_normalised_gram(teacher_map.detach())
    return difference.square().sum(dim=1) / student_map.shape[0]


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
    _require_same_shape(mean, teacher_map)
    if raw_variance.shape != (mean.shape[1],):
        raise ValueError(f"raw_variance has shape {tuple(raw_variance.shape)}, expected ({mean.shape[1]},)")
    variance = (F.softplus(_widened(raw_variance)) + epsilon).view(1, -1, *([1] * (mean.dim() - 2)))
    difference = _widened(mean) - _widened(teacher_map.detach())
    return (0.5 * (difference.square() / variance + variance.log())).flatten(1).mean(dim=1)


def _row_normalised_gram(feature_map: Tensor) -> Tensor:
    flat = _widened(feature_map).flatten(1)
    return F.normalize(flat @ flat.T, dim=1)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _require_same_shape(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(f"shapes differ: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}")
