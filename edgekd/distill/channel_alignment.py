"""Which channels of one network say what the channels of another say, from features of the same inputs.

Networks that differ in architecture, or only in their initial weights, answer to one thing with different channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Alignment = Literal["permute", "greedy", "linear"]

_LEAST_SCALE = 1e-3


@dataclass(frozen=True)
class Moments:
    """Statistics of the channels of two networks over the same positions of the same inputs, in float64.

    Attributes:
        mean: `[C]`, of the reference.
        scale: `[C]`, its standard deviations; those of dead channels are raised to 1e-3 of the largest.
        other_mean: `[D]`, of the other network.
        other_scale: `[D]`, likewise.
        correlation: `[C, D]` between both; about 0 for dead channels.
        other_correlation: `[D, D]` within the other network.
    """

    mean: Tensor
    scale: Tensor
    other_mean: Tensor
    other_scale: Tensor
    correlation: Tensor
    other_correlation: Tensor


@dataclass(frozen=True)
class ChannelMap:
    """A linear map from the channels of one network to those of another, `weight @ channels + bias`.

    Attributes:
        weight: `[C, D]`.
        bias: `[C]`.
        agreement: `[C]`, correlation of each mapped channel with the reference's, 0 where either is dead.
    """

    weight: Tensor
    bias: Tensor
    agreement: Tensor


def channel_moments(maps: Iterable[tuple[Tensor, Tensor]]) -> Moments:
    """Collect statistics over batches of maps.

    Args:
        maps: Pairs of the reference's map `[B, C, H, W]` and the other network's `[B, D, H, W]`.
    """
    count, sums, products = 0, torch.zeros(()), torch.zeros(())
    width = 0
    for reference, other in maps:
        width = reference.shape[1]
        rows = torch.cat([reference, other], dim=1).double().movedim(1, -1).flatten(0, -2).cpu()
        count, sums, products = count + len(rows), sums + rows.sum(dim=0), products + rows.T @ rows
    mean = sums / count
    covariance = products / count - torch.outer(mean, mean)
    deviation = covariance.diagonal().clamp(min=0).sqrt()
    scale = torch.cat([_floored(deviation[:width]), _floored(deviation[width:])])
    correlation = covariance / torch.outer(scale, scale)
    return Moments(
        mean[:width],
        scale[:width],
        mean[width:],
        scale[width:],
        correlation[:width, width:],
        correlation[width:, width:],
    )


def align_channels(moments: Moments, alignment: Alignment, *, ridge: float) -> ChannelMap:
    """Map the other network's channels to the reference's; what comes out has mean 0 and deviation 1.

    Args:
        moments: Statistics of both.
        alignment: `"permute"` gives each channel of the reference one of the other's, such that the sum of correlations
            is largest; `"greedy"` takes the largest remaining correlation until all are served; `"linear"` predicts
            each by ridge regression from all of the other's. The first two need as many other channels.
        ridge: Weight of the squared coefficients in the regression of standardised channels, per position.
    """
    standardised = _coefficients(moments, alignment, ridge)
    variance = ((standardised @ moments.other_correlation) * standardised).sum(dim=1)
    spread = _floored(variance.clamp(min=0).sqrt())
    weight = standardised / spread.unsqueeze(1) / moments.other_scale
    agreement = (standardised * moments.correlation).sum(dim=1) / spread
    return ChannelMap(weight, -weight @ moments.other_mean, agreement)


def _coefficients(moments: Moments, alignment: Alignment, ridge: float) -> Tensor:
    if alignment == "linear":
        penalty = ridge * torch.eye(len(moments.other_scale), dtype=torch.float64)
        solved: Tensor = torch.linalg.solve(moments.other_correlation + penalty, moments.correlation.T)
        return solved.T
    if alignment == "permute":
        from scipy.optimize import linear_sum_assignment

        rows, columns = linear_sum_assignment(moments.correlation.numpy(), maximize=True)
        return _selection(moments.correlation, torch.as_tensor(rows), torch.as_tensor(columns))
    return _greedy(moments.correlation)


def _greedy(correlation: Tensor) -> Tensor:
    left = correlation.clone()
    rows, columns = [], []
    for _ in range(len(correlation)):
        row, column = divmod(int(left.argmax()), left.shape[1])
        left[row], left[:, column] = -torch.inf, -torch.inf
        rows.append(row)
        columns.append(column)
    return _selection(correlation, torch.tensor(rows), torch.tensor(columns))


def _selection(like: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    chosen = torch.zeros_like(like)
    chosen[rows, columns] = 1.0
    return chosen


def _floored(scale: Tensor) -> Tensor:
    floored = scale.clamp(min=_LEAST_SCALE * float(scale.max()))
    return floored.where(floored > 0, 1.0)
