"""Squared differences between a projection of the student's features and the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor

from edgekd_kernels._op import accumulation_dtype

_CONVOLUTION = ((1, 1), (0, 0), (1, 1), False, (0, 0), 1)


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
    residual = _projected(student.to(dtype), weight.to(student.dtype).to(dtype))
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
    wide = accumulation_dtype(student, weight)
    # The factor is too small for float16. bfloat16 holds it, and its products are fast where they are not on a CPU.
    dtype = student.dtype if student.dtype == torch.bfloat16 and not student.is_cpu else wide
    scaled = (residual.to(wide) * (grad * (2 / residual[0].numel())).view(-1, 1, 1)).to(dtype)
    matrix = weight.to(student.dtype).to(dtype)
    gradients = _product_gradients(scaled, student.to(dtype), matrix)
    return (*gradients, scaled.sum(dim=(0, 2), dtype=wide)) if bias else gradients


def _projected(student: Tensor, weight: Tensor) -> Tensor:
    with torch.autocast(student.device.type, enabled=False):
        if student.is_cpu:  # where a convolution is faster, above all at one position and for channels_last
            return torch.conv2d(student.unsqueeze(2), weight[:, :, None, None]).squeeze(2)
        return weight @ student


def _product_gradients(scaled: Tensor, student: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    with torch.autocast(student.device.type, enabled=False):
        if not student.is_cpu:
            by_weight = torch.bmm(scaled, student.mT).sum(dim=0, dtype=accumulation_dtype(student))
            return weight.T @ scaled, by_weight
        by_student, by_weight, _ = torch.ops.aten.convolution_backward(
            scaled.unsqueeze(2),
            student.unsqueeze(2),
            weight[:, :, None, None],
            None,
            *_CONVOLUTION,
            (True, True, False),
        )
        return by_student.squeeze(2), by_weight.view(weight.shape)
