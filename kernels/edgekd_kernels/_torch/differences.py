"""Squared differences of features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd_kernels._op import accumulation_dtype


def hint_mse_forward(*features: Tensor, weights: Sequence[float]) -> tuple[Tensor]:
    """Return the weighted sum over stages of the mean squared differences, `[B]`.

    Args:
        features: The student's features of every stage, `[B, ...]`, then the teacher's.
        weights: One for each stage.
    """
    total = None
    for mine, theirs, weight in _stages(features, weights):
        dtype = accumulation_dtype(mine, theirs)
        squares = F.mse_loss(mine.to(dtype), theirs.to(dtype), reduction="none")
        value = squares.flatten(1).sum(dim=1).mul_(weight * len(squares) / squares.numel())
        total = value if total is None else total.add_(value)
    return (torch.as_tensor(total),)


def hint_mse_backward(grad: Tensor, *features: Tensor, weights: Sequence[float]) -> tuple[Tensor, ...]:
    """Return `2 w / n (s - t)` times the gradient for every stage, `n` the elements of a sample."""
    gradients = []
    for mine, theirs, weight in _stages(features, weights):
        factors = (grad * (2 * weight * len(mine) / mine.numel())).view(-1, *[1] * (mine.dim() - 1))
        dtype = accumulation_dtype(mine, theirs)
        gradients.append((mine.to(dtype) - theirs.to(dtype)).mul_(factors))
    return tuple(gradients)


def _stages(features: Sequence[Tensor], weights: Sequence[float]) -> zip[tuple[Tensor, Tensor, float]]:
    return zip(features[: len(weights)], features[len(weights) :], weights, strict=True)
