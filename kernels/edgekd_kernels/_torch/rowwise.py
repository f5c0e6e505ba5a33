"""Losses on rows: softmax over classes or positions.

Forward keeps the gradient of each value, of which backward is a multiple: it costs one pass more than the value, where
computing it in backward would cost all passes again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgekd_kernels._op import accumulation_dtype


def kd_kl_forward(
    student: Tensor, teacher: Tensor, *, temperature: float, is_spatial: bool
) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and their gradients, of the student's shape.

    Args:
        student: `[B, K, ...]`, rows along dimension 1, or `[B, C, ...]`, rows along all dimensions but the first two.
        teacher: The same shape.
        temperature: Softens both sides.
        is_spatial: Whether rows are the positions of a channel.
    """
    mine, theirs = (student.flatten(2), teacher.flatten(2)) if is_spatial else (student, teacher)
    dim = 2 if is_spatial else 1
    dtype = accumulation_dtype(student, teacher)
    log_q, log_p = _log_softmax(mine, temperature, dim, dtype), _log_softmax(theirs, temperature, dim, dtype)
    difference = log_p - log_q
    p = log_p.exp_()
    scale = temperature * len(mine) * mine.shape[dim] / mine.numel()
    values = _sample_sums(difference.mul_(p)).mul_(temperature * scale)
    return values, log_q.exp_().sub_(p).mul_(scale).view_as(student)


def kd_kl_backward(grad: Tensor, *kept: Tensor, **_: Any) -> tuple[Tensor]:
    """Return the last of the kept tensors, the gradient of each value, times that of the loss by the value."""
    slope = kept[-1]
    return (slope * grad.view(-1, *[1] * (slope.dim() - 1)),)


def _log_softmax(rows: Tensor, temperature: float, dim: int, dtype: torch.dtype) -> Tensor:
    rows = rows if rows.dtype == dtype else rows.to(dtype)
    return torch.log_softmax(rows if temperature == 1 else rows / temperature, dim)


def _sample_sums(terms: Tensor) -> Tensor:
    return (terms if terms.dim() == 2 else terms.flatten(1)).sum(1)
