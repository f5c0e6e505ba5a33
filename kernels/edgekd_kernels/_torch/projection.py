"""Squared differences between a projection of the student's features and the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor

from edgekd_kernels._op import accumulation_dtype


def projected_mse_forward(
    student: Tensor, teacher: Tensor, weight: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and the residual `W s + b - t` in the student's dtype, `[B, Ct, P]`.

    Args:
        student: `[B, Cs, P]`.
        teacher: `[B, Ct, P]`.
        weight: `W`, `[Ct, Cs]`.
        bias: `b`, `[Ct]`.
    """
    dtype = accumulation_dtype(student, teacher, weight)
    with torch.autocast(student.device.type, enabled=False):
        residual = weight.to(student.dtype).to(dtype) @ student.to(dtype)
    residual -= teacher
    if bias is not None:
        residual += bias.unsqueeze(1)
    stored = torch.empty_like(teacher, dtype=student.dtype).copy_(residual)
    return residual.square_().flatten(1).mean(dim=1), stored


def projected_mse_backward(grad: Tensor, student: Tensor, weight: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of the student `[B, Cs, P]`, the weight `[Ct, Cs]` and, if there was one, the bias `[Ct]`.

    With `R` the residual, times `2 / n` and the gradient, they are `W^T R`, `R s^T` and the sum of `R`.

    Args:
        grad: `[B]`.
        student: `[B, Cs, P]`.
        weight: `[Ct, Cs]`.
        rest: The bias, if there was one, and the residual.
    """
    *bias, residual = rest
    dtype = accumulation_dtype(student, weight) if student.dtype != torch.bfloat16 or student.is_cpu else student.dtype
    scaled = residual.to(dtype) * (grad * (2 / residual[0].numel())).to(dtype).view(-1, 1, 1)
    with torch.autocast(student.device.type, enabled=False):
        by_student = weight.to(student.dtype).to(dtype).T @ scaled
        by_weight = torch.bmm(scaled, student.to(dtype).mT).sum(dim=0, dtype=accumulation_dtype(weight))
    if not bias:
        return by_student, by_weight
    return by_student, by_weight, scaled.sum(dim=(0, 2), dtype=accumulation_dtype(weight))
