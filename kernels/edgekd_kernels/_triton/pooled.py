"""Squared differences of feature maps at several resolutions.

A program takes some whole planes: it reads them once from memory and, window by window, again from the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._torch.pooled import level_weights
from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.variants import DTYPE_PAIRS, Variant

PLANES, LAST = (8, 128), (32, 32)
"""Channels and positions of a tile, for NCHW and for channels_last."""


@triton.jit
def _difference(
    student, teacher, sample, channel, row, column, sb, sc, sh, sw, tb, tc, th, tw, inside
):  # fmt: skip
    plane, row, column = channel[:, None].to(tl.int64), row[None, :].to(tl.int64), column[None, :].to(tl.int64)
    s = tl.load(student + sample * sb + plane * sc + row * sh + column * sw, mask=inside, other=0.0)
    t = tl.load(teacher + sample * tb + plane * tc + row * th + column * tw, mask=inside, other=0.0)
    return s.to(tl.float32) - t.to(tl.float32)


@triton.jit
def _pooled_forward_kernel(
    student, teacher, partials, means,  # [B, C, H, W] twice, [B, tiles], [B, C, windows]
    channels, height, width, windows, sb, sc, sh, sw, tb, tc, th, tw, own_weight,
    LEVELS: tl.constexpr, WEIGHTS: tl.constexpr, COUNT: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    sample, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tile * BLOCK_C + tl.arange(0, BLOCK_C)
    known = channel < channels
    own = tl.zeros([BLOCK_C, BLOCK_P], tl.float32)
    for first in range(0, height * width, BLOCK_P):
        position = first + tl.arange(0, BLOCK_P)
        difference = _difference(
            student, teacher, sample, channel, position // width, position % width, sb, sc, sh, sw, tb, tc, th, tw,
            known[:, None] & (position < height * width)[None, :],
        )  # fmt: skip
        own += difference * difference
    total = tl.sum(own, axis=1) * own_weight
    offset = 0
    for step in tl.static_range(COUNT):
        for window in range(0, LEVELS[step] * LEVELS[step]):
            i, j = window // LEVELS[step], window % LEVELS[step]
            top, left = i * height // LEVELS[step], j * width // LEVELS[step]
            rows = tl.cdiv((i + 1) * height, LEVELS[step]) - top
            columns = tl.cdiv((j + 1) * width, LEVELS[step]) - left
            sums = tl.zeros([BLOCK_C, BLOCK_P], tl.float32)
            for first in range(0, rows * columns, BLOCK_P):
                at = first + tl.arange(0, BLOCK_P)
                sums += _difference(
                    student, teacher, sample, channel, top + at // columns, left + at % columns, sb, sc, sh, sw, tb, tc,
                    th, tw, known[:, None] & (at < rows * columns)[None, :],
                )  # fmt: skip
            mean = tl.sum(sums, axis=1) / (rows * columns)
            total += mean * mean * WEIGHTS[step]
            tl.store(means + (sample * channels + channel) * windows + offset + window, mean, mask=known)
        offset += LEVELS[step] * LEVELS[step]
    tl.store(partials + sample * tl.num_programs(1) + tile, tl.sum(total, axis=0))


@triton.jit
def _pooled_backward_kernel(
    grad, student, teacher, means, gradient,  # [B], [B, C, H, W] twice, [B, C, windows], [B, C, H, W]
    channels, height, width, windows, sb, sc, sh, sw, tb, tc, th, tw, gb, gc, gh, gw, own_weight,
    LEVELS: tl.constexpr, WEIGHTS: tl.constexpr, COUNT: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    # At each level a position is in one window or, where windows overlap, in two, by row and by column.
    sample = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    position = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = (channel < channels)[:, None] & (position < height * width)[None, :]
    row, column = position // width, position % width
    result = own_weight * _difference(
        student, teacher, sample, channel, row, column, sb, sc, sh, sw, tb, tc, th, tw, inside
    )
    plane = means + (sample * channels + channel[:, None]) * windows
    offset = 0
    for step in tl.static_range(COUNT):
        for corner in tl.static_range(4):
            i, j = row * LEVELS[step] // height + corner // 2, column * LEVELS[step] // width + corner % 2
            top, left = i * height // LEVELS[step], j * width // LEVELS[step]
            rows = tl.cdiv((i + 1) * height, LEVELS[step]) - top
            columns = tl.cdiv((j + 1) * width, LEVELS[step]) - left
            is_within = (i < LEVELS[step]) & (j < LEVELS[step]) & (top <= row) & (left <= column)
            mean = tl.load(
                plane + (offset + i * LEVELS[step] + j)[None, :], mask=inside & is_within[None, :], other=0.0
            )
            result += mean * (WEIGHTS[step] / (rows * columns).to(tl.float32))[None, :]
        offset += LEVELS[step] * LEVELS[step]
    result *= 2 * tl.load(grad + sample)
    to = gradient + sample * gb + channel[:, None].to(tl.int64) * gc + row[None, :].to(tl.int64) * gh
    tl.store(to + column[None, :].to(tl.int64) * gw, result.to(gradient.dtype.element_ty), mask=inside)


def pooled_mse_forward(student: Tensor, teacher: Tensor, *, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and the difference's means over all windows, level by level, `[B, C, sum of l^2]`.

    Args:
        student: `[B, C, H, W]`.
        teacher: The same shape.
        levels: Sides of the pooled maps.
    """
    batch, channels, height, width = student.shape
    windows = sum(level * level for level in levels)
    own_weight, constants = _constants(student, levels)
    tiles = triton.cdiv(channels, constants["BLOCK_C"])
    partials = student.new_empty(batch, tiles, dtype=torch.float32)
    means = partials.new_empty(batch, channels, windows)
    with device_of(student):
        _pooled_forward_kernel[(batch, tiles)](
            student, teacher, partials, means, channels, height, width, windows, *student.stride(), *teacher.stride(),
            own_weight, **constants, num_warps=4,
        )  # fmt: skip
    return partials.sum(dim=1), means


def pooled_mse_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, means: Tensor, *, levels: Sequence[int]
) -> tuple[Tensor]:
    """Return the gradient `[B, C, H, W]`; read once, written once."""
    batch, channels, height, width = student.shape
    own_weight, constants = _constants(student, levels)
    gradient = torch.empty_like(student)
    grid = batch, triton.cdiv(channels, constants["BLOCK_C"]), triton.cdiv(height * width, constants["BLOCK_P"])
    with device_of(student):
        _pooled_backward_kernel[grid](
            grad.contiguous(), student, teacher, means, gradient, channels, height, width, means.shape[2],
            *student.stride(), *teacher.stride(), *gradient.stride(), own_weight, **constants, num_warps=4,
        )  # fmt: skip
    return (gradient,)


def _constants(student: Tensor, levels: Sequence[int]) -> tuple[float, dict[str, Any]]:
    """Return the weight of the map itself and the kernels' compile-time arguments."""
    _, channels, height, width = student.shape
    own_weight, *weights = level_weights(levels, channels, height * width)
    block_c, block_p = LAST if student.stride(1) == 1 else PLANES
    return own_weight, {
        # Without a level there must be something to index all the same.
        "LEVELS": tuple(levels) or (1,),
        "WEIGHTS": tuple(weights) or (0.0,),
        "COUNT": len(levels),
        "BLOCK_C": block_c,
        "BLOCK_P": block_p,
    }


def variants() -> Iterator[Variant]:
    """Yield every kernel in the configurations that launches pick."""
    strides = ("sb", "sc", "sh", "sw", "tb", "tc", "th", "tw")
    sizes = dict.fromkeys(("channels", "height", "width", "windows", *strides), "i32")
    for (student, teacher), levels, (block_c, block_p) in product(DTYPE_PAIRS, ((), (4, 2, 1)), (PLANES, LAST)):
        constants = {
            "LEVELS": levels or (1,),
            "WEIGHTS": tuple(level_weights(levels, 8, 64)[1:]) or (0.0,),
            "COUNT": len(levels),
            "BLOCK_C": block_c,
            "BLOCK_P": block_p,
        }
        sides = {"student": f"*{student}", "teacher": f"*{teacher}"}
        forward = {**sides, "partials": "*fp32", "means": "*fp32", **sizes, "own_weight": "fp32"}
        yield Variant(_pooled_forward_kernel, forward, constants)
        into = {"gradient": f"*{student}", **sizes, **dict.fromkeys(("gb", "gc", "gh", "gw"), "i32")}
        backward = {"grad": "*fp32", **sides, "means": "*fp32", **into, "own_weight": "fp32"}
        yield Variant(_pooled_backward_kernel, backward, constants)
