"""Losses on the directions of feature vectors and of attention maps."""

from __future__ import annotations

import torch
from torch import Tensor

from edgekd_kernels._op import accumulation_dtype, is_traced

FLOOR = 1e-6
"""Largest magnitude of a vector that counts as zero."""


def hint_l2_forward(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and of each location `1 / |s|`, `1 / |t|` and the cosine, `[3, B, P]`.

    Args:
        student: `[B, C, P]`.
        teacher: The same shape.
    """
    dtype = accumulation_dtype(student, teacher)
    mine, inverse_s = _unit_columns(student.to(dtype))
    theirs, inverse_t = _unit_columns(teacher.to(dtype))
    distances = mine.sub_(theirs).square_().sum(dim=1)
    values = distances.sum(dim=1) / student[0].numel()
    cosines = (1 - distances / 2).mul_((inverse_s != 0) & (inverse_t != 0))
    return values, torch.stack([inverse_s, inverse_t, cosines])


def hint_l2_backward(grad: Tensor, student: Tensor, teacher: Tensor, statistics: Tensor) -> tuple[Tensor]:
    """Return `2 / (n |s|) (cos s/|s| - t/|t|)` times the gradient, `n` the elements of a sample, `[B, C, P]`."""
    dtype = accumulation_dtype(student, teacher)
    inverse_s, inverse_t, cosines = statistics.unsqueeze(2)
    # In two steps, for the square of 1 / |s| need not be representable where s times it is.
    towards = student.to(dtype) * (inverse_s * cosines)
    towards.addcmul_(teacher.to(dtype), inverse_t, value=-1)
    return (towards.mul_(inverse_s * (grad * (2 / student[0].numel())).view(-1, 1, 1)),)


def attention_transfer_forward(student: Tensor, teacher: Tensor, *, p: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values `[B]`, the slopes `[B, P]` and the scales `[B]` of the student's map.

    The gradient is `slope * sign(s) |scale s|^(p-1)`; the scale brings a map's largest magnitude to 1.

    Args:
        student: `[B, C, P]`.
        teacher: `[B, C', P]`.
        p: Power of the activations.
    """
    dtype = accumulation_dtype(student, teacher)
    mine, inverse_length, scales = _attention(student.to(dtype), p)
    theirs, _, _ = _attention(teacher.to(dtype), p)
    errors = mine - theirs
    across = errors - mine * (mine * errors).sum(dim=1, keepdim=True)
    factors = inverse_length * scales * (2 * p / student[0].numel())
    return errors.square().mean(dim=1), across.mul_(factors.unsqueeze(1)), scales


def attention_transfer_backward(
    grad: Tensor, student: Tensor, slopes: Tensor, scales: Tensor, *, p: float
) -> tuple[Tensor]:
    """Return the gradient `[B, C, P]`, see `attention_transfer_forward`."""
    scaled = student.to(slopes.dtype) * scales.view(-1, 1, 1)
    if p == 1:
        scaled.sign_()
    elif p != 2:
        scaled = scaled.sign() * scaled.abs_().pow_(p - 1)
    return (scaled.mul_((slopes * grad.unsqueeze(1)).unsqueeze(1)),)


def _unit_columns(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return vectors `[B, C, P]` divided by their lengths over C, and the inverse lengths `[B, P]`; 0 for a zero."""
    peaks = vectors.abs().amax(dim=1, keepdim=True)
    inverse = _inverse(peaks)
    scaled = vectors * inverse
    lengths = scaled.square().sum(dim=1, keepdim=True).clamp_(min=FLOOR).rsqrt_()
    return scaled.mul_(lengths), (inverse * lengths).squeeze(1)


def _attention(vectors: Tensor, p: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return attention of unit length `[B, P]`, the inverse of its length before `[B]` and the map's scale `[B]`."""
    peaks = torch.maximum(vectors.amax(dim=(1, 2)), -vectors.amin(dim=(1, 2)))
    scales = _inverse(peaks)
    # Squares that cannot overflow need no scaled copy; to look at a number is free on a CPU only.
    if p == 2 and vectors.is_cpu and not is_traced([vectors]) and bool(peaks.max() < 1e15):
        attention = vectors.square().mean(dim=1).mul_(scales.square().unsqueeze(1))
    else:
        attention = (vectors * scales.view(-1, 1, 1)).abs_().pow_(p).mean(dim=1)
    inverse_length = torch.where(
        attention.amax(dim=1) <= FLOOR, 0.0, attention.square().sum(dim=1).clamp_(min=FLOOR**2).rsqrt()
    )
    return attention * inverse_length.unsqueeze(1), inverse_length, scales


def _inverse(peaks: Tensor) -> Tensor:
    return torch.where(peaks <= FLOOR, 0.0, 1 / peaks)
