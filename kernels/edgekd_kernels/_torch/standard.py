"""Distillation between standard scores of logits. Forward keeps the gradient of each value."""

from __future__ import annotations

import torch
from torch import Tensor

from edgekd_kernels._op import accumulation_dtype
from edgekd_kernels._standard import scores
from edgekd_kernels._torch.rowwise import scaled


def standardized_kl_forward(student: Tensor, teacher: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and their gradients `[B, K]`, `T / std * ((q - p) - z * mean((q - p) * z))`.

    The term with the mean of the scores' gradient is not there, for `q - p` sums to 0.
    """
    dtype = accumulation_dtype(student, teacher)
    mine, inverse = scores(student.to(dtype), 1)
    theirs, _ = scores(teacher.to(dtype), 1)
    log_q, log_p = (torch.log_softmax(each / temperature, 1) for each in (mine, theirs))
    difference = log_p - log_q
    p = log_p.exp_()
    values = difference.mul_(p).sum(1).mul_(temperature**2)
    excess = log_q.exp_().sub_(p)
    excess.sub_(mine.mul_((excess * mine).mean(1, keepdim=True)))
    return values, excess.mul_(inverse.mul_(temperature))


def standardized_kl_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, slope: Tensor, *, temperature: float
) -> tuple[Tensor]:
    """Return what forward kept times the gradient."""
    return scaled(grad, slope)
