"""Squared differences of feature maps at several resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd_kernels._op import accumulation_dtype


def pooled_mse_forward(student: Tensor, teacher: Tensor, *, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and the difference's means over all windows, level by level, `[B, C, sum of l^2]`.

    Args:
        student: `[B, C, H, W]`.
        teacher: The same shape.
        levels: Sides of the pooled maps.
    """
    dtype = accumulation_dtype(student, teacher)
    difference = (student.to(dtype) - teacher.to(dtype)).flatten(2)
    first, *rest = level_weights(levels, student.shape[1], student.shape[2] * student.shape[3])
    if levels:
        windows = _windows(student.shape[2], student.shape[3], levels, difference)
        with torch.autocast(student.device.type, enabled=False):
            means = difference @ windows.T
    else:
        means = difference.new_empty(*difference.shape[:2], 0)
    values = difference.square_().flatten(1).sum(dim=1) * first
    squares = torch.split(means.square().sum(dim=1), [level * level for level in levels], dim=1)
    for weight, level in zip(rest, squares, strict=True):
        values += level.sum(dim=1) * weight
    return values, means


def pooled_mse_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, means: Tensor, *, levels: Sequence[int]
) -> tuple[Tensor]:
    """Return the gradient `[B, C, H, W]`: of the difference itself and, spread over each window, of its mean."""
    batch, channels, height, width = student.shape
    difference = student.to(means.dtype) - teacher.to(means.dtype)
    first, *rest = level_weights(levels, channels, height * width)
    grad = 2 * grad.view(-1, 1, 1)
    if not levels:
        return (difference.mul_((grad * first).unsqueeze(3)),)
    windows = _windows(height, width, levels, difference)
    for block, weight in zip(torch.split(windows, [level * level for level in levels]), rest, strict=True):
        block.mul_(weight)
    gradient = difference.flatten(2).mul_(grad * first).reshape(batch * channels, -1)
    with torch.autocast(student.device.type, enabled=False):
        gradient.addmm_((means * grad).flatten(0, 1), windows)
    return (gradient.view(student.shape),)


def level_weights(levels: Sequence[int], channels: int, positions: int) -> list[float]:
    """Return what multiplies a sum of squares, of the map itself and of each level: its weight over its elements."""
    shares = [0.5**step for step in range(len(levels) + 1)]
    sizes = [positions, *(level * level for level in levels)]
    return [share / (sum(shares) * channels * size) for share, size in zip(shares, sizes, strict=True)]


def _windows(height: int, width: int, levels: Sequence[int], like: Tensor) -> Tensor:
    """Return the matrix `[sum of l^2, H W]` that takes a plane to its means over all windows."""
    columns = _averages(width, levels, like)
    rows = columns if height == width else _averages(height, levels, like)
    blocks = [
        (by_row.unsqueeze(1).unsqueeze(3) * by_column.unsqueeze(1)).flatten(2).flatten(0, 1)
        for by_row, by_column in zip(rows, columns, strict=True)
    ]
    return torch.cat(blocks)


def _averages(side: int, levels: Sequence[int], like: Tensor) -> tuple[Tensor, ...]:
    """Return for each level the matrix `[l, side]` that averages a line over its windows.

    Its columns are the means of lines with a single 1, so that nothing comes from the host, which a GPU would wait for.
    """
    lines = torch.eye(side, dtype=like.dtype, device=like.device)
    return tuple(F.adaptive_avg_pool1d(lines, level).T for level in levels)
