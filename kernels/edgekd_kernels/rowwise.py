"""Losses on rows: softmax over classes, codes or positions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgekd_kernels._checks import require_same_shape, widened


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
    require_same_shape(student_logits, teacher_logits)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    student = F.log_softmax(widened(student_logits) / temperature, dim=1)
    teacher = F.log_softmax(widened(teacher_logits.detach()) / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1) * temperature**2
