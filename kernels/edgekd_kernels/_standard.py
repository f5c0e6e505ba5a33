"""Standard scores that stay defined where nothing varies."""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDINGS = 8.0


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
    centred = values - values.mean(dim=dim, keepdim=True)
    variance = centred.square().mean(dim=dim, keepdim=True)
    rounding = _ROUNDINGS * torch.finfo(values.dtype).eps * values.detach().abs().amax(dim=dim, keepdim=True)
    is_flat = variance <= rounding.square()
    return torch.where(is_flat, 0.0, centred * variance.where(~is_flat, 1.0).rsqrt())
