"""Losses on which neurons fire: they forgive differences that the ReLU behind a map would hide."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgekd_kernels._checks import require_same_shape, widened

_LEAST_DEVIATION = 1e-12
_LARGEST_QUOTIENT = 1e3


def partial_l2(student_map: Tensor, teacher_map: Tensor, margin: Tensor) -> Tensor:
    """Feature distillation by overhaul: squared difference to the teacher's margin ReLU, negatives half forgiven.

    The target is `max(t, m_c)`. Where it is not positive and the student is at or below it, the loss is 0: a ReLU
    gives 0 on both sides there.

    Args:
        student_map: `[B, C, ...]` before its ReLU, already projected to the teacher's width.
        teacher_map: The same shape, before its ReLU; no gradient reaches it.
        margin: `[C]`, not positive: the teacher's mean negative response in each channel; no gradient reaches it.

    Returns:
        `[B]`, the sum (not the mean) over channels and positions.

    Raises:
        ValueError: Shapes differ.

    Reference:
        arXiv 1904.01866.
    """
    require_same_shape(student_map, teacher_map)
    if margin.shape != (teacher_map.shape[1],):
        raise ValueError(f"margin has shape {tuple(margin.shape)}, expected ({teacher_map.shape[1]},)")
    student, teacher = widened(student_map), widened(teacher_map.detach())
    floor = margin.detach().to(teacher.dtype).view(1, -1, *([1] * (teacher.dim() - 2)))
    target = torch.maximum(teacher, floor)
    is_forgiven = (student <= target) & (target <= 0)
    return torch.where(is_forgiven, 0.0, (student - target).square()).flatten(1).sum(dim=1)


def relu_margin(scale: Tensor, shift: Tensor) -> Tensor:
    """Mean of a normal variable given that it is negative: the margin of `partial_l2` from batch normalisation.

    `shift - |scale| phi(z) / Phi(-z)` with `z = shift / |scale|`, evaluated in float64 and in the log domain, so that
    channels that are hardly ever negative get a margin near 0 and no NaN.

    Args:
        scale: `[C]`, weight of the batch normalisation, in whose units its output has this standard deviation.
        shift: `[C]`, bias of the batch normalisation, the output's mean.

    Returns:
        `[C]`, not positive, in float64.

    Raises:
        ValueError: Shapes differ.

    Reference:
        arXiv 1904.01866, section 3.2.
    """
    require_same_shape(scale, shift)
    deviation = scale.detach().double().abs().clamp(min=_LEAST_DEVIATION)
    quotient = (shift.detach().double() / deviation).clamp(max=_LARGEST_QUOTIENT)
    log_density = -0.5 * quotient.square() - 0.5 * math.log(2 * math.pi)
    hazard: Tensor = (log_density - torch.special.log_ndtr(-quotient)).exp()
    return deviation * (quotient - hazard)


def activation_boundary(student_map: Tensor, teacher_map: Tensor, *, margin: float = 1.0) -> Tensor:
    """Activation boundaries: squared hinge that puts the student on the teacher's side of zero, by a margin.

    Where the teacher fires (`t > 0`) the loss is `max(0, margin - s)^2`, elsewhere `max(0, margin + s)^2`. How
    strongly the teacher fires does not count, so its map may be taken before or after its ReLU.

    Args:
        student_map: `[B, C, ...]` before its ReLU, already projected to the teacher's width.
        teacher_map: The same shape; no gradient reaches it.
        margin: Distance from zero that suffices, positive.

    Returns:
        `[B]`, the sum (not the mean) over channels and positions.

    Raises:
        ValueError: Shapes differ or the margin is not positive.

    Reference:
        arXiv 1811.03233.
    """
    require_same_shape(student_map, teacher_map)
    if not margin > 0:
        raise ValueError(f"margin must be positive, got {margin}")
    student = widened(student_map)
    gap = torch.where(teacher_map.detach() > 0, margin - student, margin + student)
    return gap.clamp(min=0).square().flatten(1).sum(dim=1)
