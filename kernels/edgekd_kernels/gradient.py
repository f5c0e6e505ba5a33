"""Losses on gradients with respect to a network's inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from edgekd_kernels._checks import require_same_shape, widened
from edgekd_kernels._rows import unit_rows


def gradient_match(student_gradient: Tensor, teacher_gradient: Tensor, *, epsilon: float = 1e-12) -> Tensor:
    """Mean squared distance of the directions of input gradients, `1/N_pos * sum ||g^_s - g^_t||^2`, `g^ = g / ||g||`.

    Positions where the teacher's gradient is not longer than `epsilon`, such as padding, do not count. Where only the
    student's is that short it has no direction: the position counts 1 and sends no gradient.

    Args:
        student_gradient: `[B, N, D]`, N positions (tokens) of width D; to be matched it needs a graph of its own.
        teacher_gradient: `[B, N, D]`; no gradient reaches it.
        epsilon: Shortest gradient that still has a direction.

    Returns:
        `[B]`, within 0..4 on average; each sample's sum over its positions, scaled so that the mean is over all
        positions of the batch that count.

    Raises:
        ValueError: Shapes differ, or are not `[B, N, D]`.

    Reference:
        GKD, arXiv 2211.01071.
    """
    require_same_shape(student_gradient, teacher_gradient)
    if student_gradient.dim() != 3:
        raise ValueError(f"gradients must be [B, N, D], got {tuple(student_gradient.shape)}")
    student, teacher = (
        unit_rows(widened(each), epsilon=epsilon) for each in (student_gradient, teacher_gradient.detach())
    )
    counts = teacher.square().sum(dim=2) != 0
    distances = torch.where(counts, (student - teacher).square().sum(dim=2), 0.0)
    return distances.sum(dim=1) * (len(distances) / counts.to(distances.dtype).sum().clamp(min=1))
