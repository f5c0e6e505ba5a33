"""Standard scores that stay defined where nothing varies."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDINGS = 8.0
"""Deviations of a vector that count as its values' rounding, times the largest magnitude and the dtype's epsilon."""


def standardised(values: Tensor, dim: int) -> Tensor:
    """Subtract the mean along a dimension and divide by the population deviation.

    A vector whose deviation is no more than the rounding of its values has no direction: it becomes 0 and receives no
    gradient. The bound grows with the values, so the scores do not depend on their scale. NaN and infinity give NaN.

    Args:
        values: Any shape, float32 or wider.
        dim: The dimension to standardise along.

    Returns:
        The same shape.
    """
    return scores(values, dim)[0]


def scores(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return what `standardised` does, and one over the deviation, 0 where there is no direction."""
    centred = values - values.mean(dim=dim, keepdim=True)
    variance = centred.square().mean(dim=dim, keepdim=True)
    rounding = ROUNDINGS * torch.finfo(values.dtype).eps * values.detach().abs().amax(dim=dim, keepdim=True)
    is_flat = variance <= rounding.square()
    inverse = torch.where(is_flat, 0.0, variance.where(~is_flat, 1.0).rsqrt())
    return centred * inverse, inverse
