"""Losses on feature maps by the statistics of their channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd_kernels._op import accumulation_dtype

FLOOR = 1e-6
"""Deviation up to which a channel counts as constant, as does one within the rounding of its mean."""
ROUNDINGS = 8


def pkd_forward(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and the moments of every plane, `[B, 5, C]`.

    They are both means and, about them, the sums of squares of both sides and of their product.

    Args:
        student: `[B, C, P]`.
        teacher: The same shape.
    """
    dtype = accumulation_dtype(student, teacher)
    mean_s, mean_t = (side.to(dtype).mean(dim=2) for side in (student, teacher))
    s, t = student.to(dtype) - mean_s.unsqueeze(2), teacher.to(dtype) - mean_t.unsqueeze(2)
    product = (s * t).sum(dim=2)
    moments = torch.stack([mean_s, mean_t, s.square_().sum(dim=2), t.square_().sum(dim=2), product], dim=1)
    ss, tt, st, _, _ = _standard_sums(moments, student.shape[2])
    return (ss - 2 * st + tt).clamp_(min=0).sum(dim=1) / (2 * student[0].numel()), moments


def pkd_backward(grad: Tensor, student: Tensor, teacher: Tensor, moments: Tensor) -> tuple[Tensor]:
    """Return the gradient of the standardised difference, `[B, C, P]`, in one read and one write.

    With `w` the gradient over the elements of a sample, `x` and `y` the standardised sides and means over a channel, it
    is `(w (x - y) - mean w (x - y) - x mean w (x - y) x) / deviation`; both means follow from the moments.
    """
    batch, channels, positions = student.shape
    ss, _, st, (mean_s, scale_s), (mean_t, scale_t) = _standard_sums(moments, positions)
    weights = (grad / (channels * positions)).unsqueeze(1)
    gaps = (moments[:, 0] - mean_s) * scale_s - (moments[:, 1] - mean_t) * scale_t
    offsets = (weights * gaps).mean(dim=0)
    slopes = (weights * (ss - st)).sum(dim=0) / (batch * positions)
    factors_s = scale_s.square() * (weights - slopes)
    factors_t = -scale_s * scale_t * weights
    constants = -(factors_s * mean_s + factors_t * mean_t + scale_s * offsets)
    gradient = torch.addcmul(constants.unsqueeze(2), student.to(moments.dtype), factors_s.unsqueeze(2))
    return (gradient.addcmul_(teacher.to(moments.dtype), factors_t.unsqueeze(2)),)


def vid_forward(mean: Tensor, teacher: Tensor, raw_variance: Tensor, *, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and the squared error of every plane, `[B, C]`.

    Args:
        mean: `[B, C, P]`.
        teacher: The same shape.
        raw_variance: `[C]`.
        epsilon: Floor of the variance.
    """
    dtype = accumulation_dtype(mean, teacher, raw_variance)
    squares = (mean.to(dtype) - teacher.to(dtype)).square_().sum(dim=2)
    variance = F.softplus(raw_variance.to(dtype)) + epsilon
    return (squares / (variance * mean.shape[2]) + variance.log()).mean(dim=1) / 2, squares


def vid_backward(
    grad: Tensor, mean: Tensor, teacher: Tensor, raw_variance: Tensor, squares: Tensor, *, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the mean, `[B, C, P]`, and of the raw variance, `[C]`."""
    dtype = squares.dtype
    _, channels, positions = mean.shape
    variance = F.softplus(raw_variance.to(dtype)) + epsilon
    weights = (grad / channels).unsqueeze(1)
    gradient = (mean.to(dtype) - teacher.to(dtype)).mul_((weights / (variance * positions)).unsqueeze(2))
    by_variance = (weights * (1 - squares / (variance * positions))).sum(dim=0) / (2 * variance)
    return gradient, by_variance * torch.sigmoid(raw_variance.to(dtype))


def _standard_sums(
    moments: Tensor, positions: int
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return sums of `x^2`, `y^2` and `x y` of every plane `[B, C]`, and mean and scale of each side's channels `[C]`.

    `x` and `y` are the sides standardised over batch and positions; the scale is one over the deviation, 0 for a
    channel that is constant up to rounding.
    """
    mean_s, mean_t, ss, tt, st = moments.unbind(dim=1)
    channel_s, channel_t = mean_s.mean(dim=0), mean_t.mean(dim=0)
    from_s, from_t = mean_s - channel_s, mean_t - channel_t
    ss, tt = (sums + positions * gaps.square() for sums, gaps in ((ss, from_s), (tt, from_t)))
    scale_s, scale_t = (_scale(sums.mean(dim=0) / positions, mean) for sums, mean in ((ss, channel_s), (tt, channel_t)))
    st = (st + positions * from_s * from_t) * (scale_s * scale_t)
    return ss * scale_s.square(), tt * scale_t.square(), st, (channel_s, scale_s), (channel_t, scale_t)


def _scale(variance: Tensor, mean: Tensor) -> Tensor:
    rounding = ROUNDINGS * torch.finfo(mean.dtype).eps * mean.abs()
    is_flat = variance <= FLOOR**2 + rounding.square()
    return torch.where(is_flat, 0.0, variance.clamp(min=FLOOR**2).rsqrt())
