"""Distillation at a temperature that is learned too. Forward keeps the gradients of each value."""

from __future__ import annotations

import torch
from torch import Tensor

from edgekd_kernels._op import accumulation_dtype
from edgekd_kernels._torch.rowwise import scaled


def curriculum_kl_forward(
    student: Tensor, teacher: Tensor, raw_temperature: Tensor, *, gradient_scale: float, least: float, span: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values `[B]` and their gradients by the student, `[B, K]`, and by the raw temperature, `[B]`.

    With `d = log p - log q`, `g = e^-d - 1 + d` and `w = s / T` the derivative by the temperature is
    `T (2 KL - sum p d^2 - sum p (w - sum p w) g + KL^2)`, whose parts are all of the second order in the logits.
    """
    dtype = accumulation_dtype(student, teacher)
    share = torch.sigmoid(raw_temperature.to(dtype))
    temperature = least + span * share
    log_q, log_p = (torch.log_softmax(logits.to(dtype) / temperature, 1) for logits in (student, teacher))
    difference = log_p - log_q
    p = log_p.exp_()
    centred = log_q - (p * log_q).sum(1, keepdim=True)
    terms = p * difference
    squares = difference.mul_(terms).sum(1)
    excess = log_q.exp_().sub_(p)
    convex = terms.add_(excess)  # sums to what p d does, without the rounding of the normalisers
    divergence = convex.sum(1)
    bent = centred.mul_(convex).sum(1)
    slopes = (2 * divergence - squares - bent + divergence.square()) * temperature
    inner = slopes.mul_(gradient_scale * span * share * (1 - share))
    return divergence.mul_(temperature.square()), excess.mul_(temperature), inner


def curriculum_kl_backward(grad: Tensor, *kept: Tensor, **_: float) -> tuple[Tensor, Tensor]:
    """Return what forward kept times the gradient, that of the temperature summed over rows in float64."""
    slope, inner = kept[-2:]
    (gradient,) = scaled(grad, slope)
    return gradient, (grad.double() * inner).sum()
