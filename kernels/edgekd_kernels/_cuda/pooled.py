"""Squared differences of feature maps at several resolutions; a block has small planes or a part of a large one."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from edgekd_kernels._cuda.launch import ELEMENTS, Program

THREADS = 256
MOST_LEVELS = 8
ELEMENTS_OF_TILE = 4096
MOST_PLANES = 32
"""Of a tile, whose elements and whose sums over windows of rows lie in shared memory."""


class Levels(ctypes.Structure):
    """Pooled sides and weights, as the kernels take them."""

    _fields_ = (
        ("count", ctypes.c_int32),
        ("sides", ctypes.c_int32 * MOST_LEVELS),
        ("weights", ctypes.c_float * (MOST_LEVELS + 1)),
    )


class Strides(ctypes.Structure):
    """Of a map, in elements."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("sample", "channel", "row", "column"))


class Sizes(ctypes.Structure):
    """Three sizes, of a map or of a tile: planes, rows and columns."""

    _fields_ = tuple((name, ctypes.c_int32) for name in ("planes", "rows", "columns"))


def pooled_mse_forward(student: Tensor, teacher: Tensor, *, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and the difference's means over all windows, level by level, `[B, C, sum of l^2]`.

    Args:
        student: `[B, C, H, W]`.
        teacher: The same shape.
        levels: Sides of the pooled maps, at most 8.

    Raises:
        ValueError: There are more levels.
    """
    batch, channels, height, width = student.shape
    tile = _tile(channels, height, width, levels)
    tiles = -(-channels // tile.planes)
    values = student.new_empty(batch, tiles, dtype=torch.float32)
    means = student.new_empty(batch, channels, sum(level * level for level in levels), dtype=torch.float32)
    staged = tile.planes * (tile.rows * tile.columns // 4 * 4 + 4)
    _program(student.dtype, teacher.dtype).launch(
        "pooled_values", (batch * tiles,), THREADS, student, teacher, values, means, Strides(*student.stride()),
        Strides(*teacher.stride()), Sizes(channels, height, width), tile, _levels(levels, channels, height * width),
        device=student.device, shared_bytes=4 * (staged + tile.planes * sum(levels) * tile.columns),
    )  # fmt: skip
    return values.sum(dim=1), means


def pooled_mse_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, means: Tensor, *, levels: Sequence[int]
) -> tuple[Tensor]:
    """Return the gradient `[B, C, H, W]`: of the difference itself and, spread over each window, of its mean."""
    batch, channels, height, width = student.shape
    gradient = torch.empty_like(student)
    tile = _tile(channels, height, width, levels)
    grid = batch * -(-channels // tile.planes), -(-height // tile.rows) * -(-width // tile.columns)
    strides = [Strides(*tensor.stride()) for tensor in (student, teacher, gradient)]
    _program(student.dtype, teacher.dtype).launch(
        "pooled_gradient", grid, THREADS, grad.contiguous(), student, teacher, means, gradient, *strides,
        Sizes(channels, height, width), tile, _levels(levels, channels, height * width), device=student.device,
        shared_bytes=4 * (tile.planes * sum(levels) * tile.columns + len(levels) * tile.rows),
    )  # fmt: skip
    return (gradient,)


def _tile(channels: int, height: int, width: int, levels: Sequence[int]) -> Sizes:
    """Return the most that a block has at once: whole planes, or of one plane as many rows as there is room for."""
    lines = max(1, sum(levels))
    columns = min(width, max(1, ELEMENTS_OF_TILE // lines))
    rows = min(height, max(1, ELEMENTS_OF_TILE // max(columns, len(levels))))
    planes = 1
    if (rows, columns) == (height, width):
        room = min(MOST_PLANES, channels, ELEMENTS_OF_TILE // (width * max(height, lines)))
        planes = 1 << max(1, room).bit_length() - 1
    return Sizes(planes, rows, columns)


def _levels(levels: Sequence[int], channels: int, positions: int) -> Levels:
    """Return the levels with what multiplies their sums of squares: their weight over their elements."""
    if len(levels) > MOST_LEVELS:
        raise ValueError(f'impl="cuda" pools to at most {MOST_LEVELS} levels, got {len(levels)}')
    shares = [0.5**step for step in range(len(levels) + 1)]
    sizes = [positions, *(level * level for level in levels)]
    weights = [share / (sum(shares) * channels * size) for share, size in zip(shares, sizes, strict=True)]
    packed = Levels(count=len(levels))
    packed.sides[: len(levels)] = list(levels)
    packed.weights[: len(weights)] = weights
    return packed


@cache
def _program(student: torch.dtype, teacher: torch.dtype) -> Program:
    return Program("pooled.cu", {"STUDENT": ELEMENTS[student], "TEACHER": ELEMENTS[teacher]})
