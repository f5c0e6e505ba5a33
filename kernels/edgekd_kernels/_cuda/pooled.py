"""Squared differences of feature maps at several resolutions; one block has one plane, which is read once."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from edgekd_kernels._cuda.launch import ELEMENTS, Program

THREADS = 256
MOST_LEVELS = 8
SHARED_BYTES = 48 * 1024 - 512
"""Dynamic shared memory that a block has beside its own."""


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
    values = student.new_empty(batch, channels, dtype=torch.float32)
    means = student.new_empty(batch, channels, sum(level * level for level in levels), dtype=torch.float32)
    bytes_of_plane = 4 * height * width
    is_staged = bytes_of_plane <= SHARED_BYTES
    _program(student.dtype, teacher.dtype).launch(
        "pooled_values", (batch * channels,), THREADS, student, teacher, values, means, Strides(*student.stride()),
        Strides(*teacher.stride()), channels, ctypes.c_int32(height), ctypes.c_int32(width),
        _levels(levels, channels, height * width), ctypes.c_int32(is_staged), device=student.device,
        shared_bytes=bytes_of_plane if is_staged else 0,
    )  # fmt: skip
    return values.sum(dim=1), means


def pooled_mse_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, means: Tensor, *, levels: Sequence[int]
) -> tuple[Tensor]:
    """Return the gradient `[B, C, H, W]`: of the difference itself and, spread over each window, of its mean."""
    batch, channels, height, width = student.shape
    gradient = torch.empty_like(student)
    strides = [Strides(*tensor.stride()) for tensor in (student, teacher, gradient)]
    _program(student.dtype, teacher.dtype).launch(
        "pooled_gradient", (batch * channels,), THREADS, grad.contiguous(), student, teacher, means, gradient, *strides,
        channels, ctypes.c_int32(height), ctypes.c_int32(width), _levels(levels, channels, height * width),
        device=student.device, shared_bytes=4 * means.shape[2],
    )  # fmt: skip
    return (gradient,)


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
