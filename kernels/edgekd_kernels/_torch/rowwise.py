"""Losses on rows: softmax over classes or positions.

Forward keeps what backward is a multiple of: it costs one pass more than the value, where computing it in backward
would cost all passes again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgekd_kernels._op import accumulation_dtype


def kd_kl_forward(student: Tensor, teacher: Tensor, *, temperature: float, is_spatial: bool) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and the differences of both sides' softmaxes, of the student's shape.

    Args:
        student: `[B, K, ...]`, rows along dimension 1, or `[B, C, ...]`, rows along all dimensions but the first two.
        teacher: The same shape.
        temperature: Softens both sides.
        is_spatial: Whether rows are the positions of a channel.
    """
    dim = 2 if is_spatial else 1
    mine, theirs = (student.flatten(2), teacher.flatten(2)) if is_spatial else (student, teacher)
    log_q, log_p = _both_log_softmax(mine, theirs, temperature, dim)
    difference = log_p - log_q
    p = log_p.exp_()
    values = _sample_sums(difference.mul_(p)).mul_(temperature**2 / _rows_of(mine, dim))
    return values, log_q.exp_().sub_(p).view_as(student)


def kd_kl_backward(
    grad: Tensor, student: Tensor, _: Tensor, excess: Tensor, *, temperature: float, is_spatial: bool
) -> tuple[Tensor]:
    """Return `T / rows * (q - p)` times the gradient."""
    rows = student.shape[1] if is_spatial else _rows_of(student, 1)
    return scaled(grad * (temperature / rows), excess)


def branch_kl_forward(student: Tensor, teacher: Tensor, *, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values `[B]`, those of `kd_kl`, and both sides' gradients of their sums over rows at `T = 1`."""
    log_q, log_p = _both_log_softmax(student, teacher, temperature, 1)
    difference, p = log_p - log_q, log_p.exp_()
    terms = difference.mul_(p)
    divergence = terms.sum(1, keepdim=True)
    values = _sample_sums(divergence).mul_(temperature**2 / _rows_of(student, 1))
    return values, log_q.exp_().sub_(p), terms.sub_(p.mul_(divergence))


def branch_kl_backward(
    grad: Tensor, student: Tensor, _: Tensor, *slopes: Tensor, temperature: float
) -> tuple[Tensor, ...]:
    """Return both gradients, `T / rows` times what forward kept times the gradient."""
    return scaled(grad * (temperature / _rows_of(student, 1)), *slopes)


def scaled(grad: Tensor, *slopes: Tensor) -> tuple[Any, ...]:
    """Return gradients of each sample times what the loss's is by the sample's value, `[B]`."""
    return tuple(slope * grad.view(-1, *[1] * (slope.dim() - 1)) for slope in slopes)


def _rows_of(rows: Tensor, dim: int) -> int:
    """Return how many rows along a dimension a sample has."""
    return rows.numel() // (len(rows) * rows.shape[dim])


def _both_log_softmax(student: Tensor, teacher: Tensor, temperature: float, dim: int) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(student, teacher)
    return _log_softmax(student, temperature, dim, dtype), _log_softmax(teacher, temperature, dim, dtype)


def _log_softmax(rows: Tensor, temperature: float, dim: int, dtype: torch.dtype) -> Tensor:
    rows = rows if rows.dtype == dtype else rows.to(dtype)
    return torch.log_softmax(rows if temperature == 1 else rows / temperature, dim)


def _sample_sums(terms: Tensor) -> Tensor:
    return (terms if terms.dim() == 2 else terms.flatten(1)).sum(1)
