"""Losses on rows: softmax over classes or positions.

Forward keeps the gradient of each value, of which backward is a multiple: it costs one pass more than the value, where
computing it in backward would cost all passes again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgekd_kernels._op import accumulation_dtype


def kd_kl_forward(student: Tensor, teacher: Tensor, *, temperature: float, is_spatial: bool) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and their gradients, of the student's shape.

    Args:
        student: `[B, K, ...]`, rows along dimension 1, or `[B, C, ...]`, rows along all dimensions but the first two.
        teacher: The same shape.
        temperature: Softens both sides.
        is_spatial: Whether rows are the positions of a channel.
    """
    dim = 2 if is_spatial else 1
    mine, theirs = (student.flatten(2), teacher.flatten(2)) if is_spatial else (student, teacher)
    log_q, log_p, scale = _both_log_softmax(mine, theirs, temperature, dim)
    difference = log_p - log_q
    p = log_p.exp_()
    values = _sample_sums(difference.mul_(p)).mul_(temperature * scale)
    return values, log_q.exp_().sub_(p).mul_(scale).view_as(student)


def kd_kl_backward(grad: Tensor, *kept: Tensor, **_: Any) -> tuple[Tensor]:
    """Return the last of the kept tensors, the gradient of each value, times that of the loss by the value."""
    slope = kept[-1]
    return (slope * grad.view(-1, *[1] * (slope.dim() - 1)),)


def branch_kl_forward(student: Tensor, teacher: Tensor, *, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values `[B]`, those of `kd_kl`, and their gradients on both sides."""
    log_q, log_p, scale = _both_log_softmax(student, teacher, temperature, 1)
    difference, p = log_p - log_q, log_p.exp()
    terms = difference * p
    divergence = terms.sum(1, keepdim=True)
    values = _sample_sums(divergence).mul_(temperature * scale)
    return values, log_q.exp_().sub_(p).mul_(scale), terms.sub_(p.mul_(divergence)).mul_(scale)


def branch_kl_backward(
    grad: Tensor, _: Tensor, __: Tensor, slope: Tensor, its_slope: Tensor, **___: Any
) -> tuple[Tensor, Tensor]:
    """Return both gradients of each value times that of the loss by the value."""
    upstream = grad.view(-1, *[1] * (slope.dim() - 1))
    return slope * upstream, its_slope * upstream


def _both_log_softmax(student: Tensor, teacher: Tensor, temperature: float, dim: int) -> tuple[Tensor, Tensor, float]:
    """Return both sides' log-softmaxes and `T / rows`, which multiplies the gradient."""
    dtype = accumulation_dtype(student, teacher)
    log_q, log_p = (_log_softmax(logits, temperature, dim, dtype) for logits in (student, teacher))
    return log_q, log_p, temperature * len(student) * student.shape[dim] / student.numel()


def _log_softmax(rows: Tensor, temperature: float, dim: int, dtype: torch.dtype) -> Tensor:
    rows = rows if rows.dtype == dtype else rows.to(dtype)
    return torch.log_softmax(rows if temperature == 1 else rows / temperature, dim)


def _sample_sums(terms: Tensor) -> Tensor:
    return (terms if terms.dim() == 2 else terms.flatten(1)).sum(1)
