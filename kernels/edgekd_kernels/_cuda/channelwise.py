"""Losses on feature maps by the statistics of their channels; one block has one plane."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

from edgekd_kernels._cuda.launch import ELEMENTS, Program

THREADS = 256


def vid_forward(mean: Tensor, teacher: Tensor, raw_variance: Tensor, *, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and the squared error of every plane, `[B, C]`.

    Args:
        mean: `[B, C, P]`.
        teacher: The same shape.
        raw_variance: `[C]`.
        epsilon: Floor of the variance.
    """
    batch, channels, positions = mean.shape
    squares, losses = (mean.new_empty(shape, dtype=torch.float32) for shape in ((batch, channels), (batch,)))
    program, raw = _program(mean.dtype, teacher.dtype), raw_variance.float().contiguous()
    program.launch(
        "vid_squares", (batch * channels,), THREADS, mean, teacher, squares, channels, positions, *mean.stride(),
        *teacher.stride(), device=mean.device,
    )  # fmt: skip
    program.launch(
        "vid_values", (batch,), THREADS, squares, raw, losses, channels, positions, ctypes.c_float(epsilon),
        device=mean.device,
    )  # fmt: skip
    return losses, squares


def vid_backward(
    grad: Tensor, mean: Tensor, teacher: Tensor, raw_variance: Tensor, squares: Tensor, *, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the mean, `[B, C, P]`, and of the raw variance, `[C]`."""
    batch, channels, positions = mean.shape
    program, raw, grad = _program(mean.dtype, teacher.dtype), raw_variance.float().contiguous(), grad.contiguous()
    gradient, by_raw = torch.empty_like(mean), torch.empty_like(raw)
    floor = ctypes.c_float(epsilon)
    program.launch(
        "vid_gradient", (batch * channels,), THREADS, grad, mean, teacher, raw, gradient, channels, positions,
        *mean.stride(), *teacher.stride(), *gradient.stride(), floor, device=mean.device,
    )  # fmt: skip
    program.launch(
        "vid_raw_gradient", (channels,), THREADS, grad, squares, raw, by_raw, batch, channels, positions, floor,
        device=mean.device,
    )  # fmt: skip
    return gradient, by_raw


@cache
def _program(student: torch.dtype, teacher: torch.dtype) -> Program:
    return Program("vid.cu", {"STUDENT": ELEMENTS[student], "TEACHER": ELEMENTS[teacher]})
