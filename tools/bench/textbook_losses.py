"""Losses as formulas in plain torch, differentiated by autograd: what the fused ones are measured against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity_preserving(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """`1/B * ||row of G_t - row of G_s||^2` with row-normalised Gram matrices, `[B]`."""
    difference = _row_normalised_gram(student_map) - _row_normalised_gram(teacher_map.detach())
    return difference.square().sum(dim=1) / student_map.shape[0]


def rkd_distance(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Huber loss between distances relative to their mean, `[B]`."""
    student, teacher = _relative_distances(student_feature), _relative_distances(teacher_feature.detach())
    return F.smooth_l1_loss(student, teacher, reduction="none").mean(dim=1)


def rkd_angle(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Huber loss between the cosines at every sample, `[B]`, from all differences `[B, B, D]` as published."""
    student, teacher = _cosines_at_samples(student_feature), _cosines_at_samples(teacher_feature.detach())
    return F.smooth_l1_loss(student, teacher, reduction="none").mean(dim=(1, 2))


def linear_cka(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Alignment of centred Gram matrices, `[B]`."""
    student, teacher = _centred_gram(student_feature), _centred_gram(teacher_feature.detach())
    shares = (student * teacher).sum(dim=1) * student.shape[0]
    return shares / (student.square().sum() * teacher.square().sum()).sqrt()


def _flat(feature: Tensor) -> Tensor:
    return feature.float().flatten(1) if feature.dtype in (torch.float16, torch.bfloat16) else feature.flatten(1)


def _row_normalised_gram(feature_map: Tensor) -> Tensor:
    rows = _flat(feature_map)
    return F.normalize(rows @ rows.T, dim=1)


def _relative_distances(feature: Tensor) -> Tensor:
    rows = _flat(feature)
    squares = rows.square().sum(dim=1)
    distances = (squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * rows @ rows.T).clamp(min=1e-12).sqrt()
    distances = distances * (1 - torch.eye(len(rows), dtype=rows.dtype, device=rows.device))
    return distances / distances[distances > 0].mean()


def _cosines_at_samples(feature: Tensor) -> Tensor:
    rows = _flat(feature)
    directions = F.normalize(rows.unsqueeze(0) - rows.unsqueeze(1), dim=2)
    return torch.bmm(directions, directions.transpose(1, 2))


def _centred_gram(feature: Tensor) -> Tensor:
    rows = _flat(feature)
    centred = rows - rows.mean(dim=0)
    return centred @ centred.T
