"""Squared differences of feature maps at several resolutions.

The means over all windows are one product: of the difference, channels by positions, with a matrix of flags, which
position lies in which window. A program makes the flags of its positions from indices and uses them for all of its
channels; the gradient is the product of the means with the same flags. So a map is read once forward and once backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._dispatch import is_interpreted
from edgekd_kernels._maps import planes
from edgekd_kernels._torch.pooled import level_weights
from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.products import product_with_flags
from edgekd_kernels._triton.tiles import STRIDES, load_tile, store_tile
from edgekd_kernels._triton.variants import DTYPE_PAIRS, Variant

BLOCK_C = 32
FEW_POSITIONS, MOST_POSITIONS = 16, 64
"""Of a tile: 16 are the fewest of a product, and of more than 64 its flags and parts fill the registers."""
BLOCK_W = 32
"""Windows whose flags are held at once."""
LAUNCH: dict[str, Any] = {"num_warps": 4, "num_stages": 1}
STEP = 8
"""Tiles of positions whose shares of the means are read at once."""


@triton.jit
def _edges(window, height, width, LEVELS: tl.constexpr, COUNT: tl.constexpr):
    """Return where windows begin and end, by row and by column, and the weights of their levels; no more windows: 0."""
    top, bottom, left, right = window * 0, window * 0, window * 0, window * 0
    weight = window.to(tl.float32) * 0.0
    first, share = 0, 1.0
    for step in tl.static_range(COUNT):
        share = share * 0.5
        at = window - first
        is_here = (at >= 0) & (at < LEVELS[step] * LEVELS[step])
        i, j = at // LEVELS[step], at % LEVELS[step]
        top = tl.where(is_here, i * height // LEVELS[step], top)
        left = tl.where(is_here, j * width // LEVELS[step], left)
        bottom = tl.where(is_here, tl.cdiv((i + 1) * height, LEVELS[step]), bottom)
        right = tl.where(is_here, tl.cdiv((j + 1) * width, LEVELS[step]), right)
        weight = tl.where(is_here, share / (LEVELS[step] * LEVELS[step]), weight)
        first += LEVELS[step] * LEVELS[step]
    return top, bottom, left, right, weight


@triton.jit
def _pooled_forward_kernel(
    student, teacher, partials, means,  # [B, C, P] twice, [B, columns], [tiles of P, B, C, windows]
    channels, height, width, columns, sb, sc, sp, tb, tc, tp, scale, own_scale,
    LEVELS: tl.constexpr, COUNT: tl.constexpr, WINDOWS: tl.constexpr, IS_WHOLE: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    # What a tile adds to the means; of a tile with all positions they are the means, and are squared here.
    sample, part = tl.program_id(0).to(tl.int64), tl.program_id(2)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    position = part * BLOCK_P + tl.arange(0, BLOCK_P)
    known = channel < channels
    inside = known[:, None] & (position < height * width)[None, :]
    difference = load_tile(student, sample, channel, position, sb, sc, sp, inside)
    difference -= load_tile(teacher, sample, channel, position, tb, tc, tp, inside)
    total = tl.sum(difference * difference, axis=1) * own_scale
    plane = ((part.to(tl.int64) * tl.num_programs(0) + sample) * channels + channel) * WINDOWS
    row, column = (position // width)[:, None], (position % width)[:, None]
    for first in range(0, WINDOWS, BLOCK_W):
        window = first + tl.arange(0, BLOCK_W)
        top, bottom, left, right, weight = _edges(window, height, width, LEVELS, COUNT)
        is_within = (row >= top[None, :]) & (row < bottom[None, :])
        is_within = is_within & (column >= left[None, :]) & (column < right[None, :])
        sums = product_with_flags(difference, is_within, UPCAST)
        mean = sums / tl.maximum((bottom - top) * (right - left), 1).to(tl.float32)[None, :]
        tl.store(means + plane[:, None] + window[None, :], mean, mask=known[:, None] & (window < WINDOWS)[None, :])
        if IS_WHOLE:
            total += tl.sum(mean * mean * weight[None, :], axis=1) * scale
    tl.store(partials + sample * columns + tl.program_id(1) * tl.num_programs(2) + part, tl.sum(total, axis=0))


@triton.jit
def _pooled_sum_kernel(
    shares, partials, means,  # [parts, B, C, windows], the last tiles of [B, columns], [B, C, windows]
    channels, parts, columns, scale,
    LEVELS: tl.constexpr, COUNT: tl.constexpr, WINDOWS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_W: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    # The means of maps of several tiles, and their squares.
    sample = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    known, size = channel < channels, tl.num_programs(0).to(tl.int64) * channels * WINDOWS
    plane = (sample * channels + channel) * WINDOWS
    total = tl.zeros([BLOCK_C], tl.float32)
    for first in range(0, WINDOWS, BLOCK_W):
        window = first + tl.arange(0, BLOCK_W)
        inside = known[:, None] & (window < WINDOWS)[None, :]
        _, _, _, _, weight = _edges(window, 1, 1, LEVELS, COUNT)
        place = plane[:, None] + window[None, :]
        mean = tl.zeros([BLOCK_C, BLOCK_W], tl.float32)
        for start in range(0, parts, STEP):
            for part in tl.static_range(STEP):  # side by side, as each waits for memory
                of_part = shares + (start + part) * size
                mean += tl.load(of_part + place, mask=inside & (start + part < parts), other=0.0)
        tl.store(means + place, mean, mask=inside)
        total += tl.sum(mean * mean * weight[None, :], axis=1) * scale
    tl.store(partials + (sample + 1) * columns - 1 - tl.program_id(1), tl.sum(total, axis=0))


@triton.jit
def _pooled_backward_kernel(
    grad, student, teacher, means, gradient,  # [B], [B, C, P] twice, [B, C, windows], [B, C, P]
    channels, height, width, sb, sc, sp, tb, tc, tp, gb, gc, gp, scale, own_scale,
    LEVELS: tl.constexpr, COUNT: tl.constexpr, WINDOWS: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    # The difference itself and, of every window that a position lies in, its mean over its size.
    sample = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    position = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    known = channel < channels
    inside = known[:, None] & (position < height * width)[None, :]
    difference = load_tile(student, sample, channel, position, sb, sc, sp, inside)
    difference -= load_tile(teacher, sample, channel, position, tb, tc, tp, inside)
    result = own_scale * difference
    plane = (sample * channels + channel) * WINDOWS
    row, column = (position // width)[None, :], (position % width)[None, :]
    for first in range(0, WINDOWS, BLOCK_W):
        window = first + tl.arange(0, BLOCK_W)
        top, bottom, left, right, weight = _edges(window, height, width, LEVELS, COUNT)
        mask = known[:, None] & (window < WINDOWS)[None, :]
        mean = tl.load(means + plane[:, None] + window[None, :], mask=mask, other=0.0)
        size = tl.maximum((bottom - top) * (right - left), 1).to(tl.float32)
        is_within = (row >= top[:, None]) & (row < bottom[:, None])
        is_within = is_within & (column >= left[:, None]) & (column < right[:, None])
        result += product_with_flags(mean * (scale * weight / size)[None, :], is_within, UPCAST)
    result *= 2 * tl.load(grad + sample)
    store_tile(gradient, sample, channel, position, gb, gc, gp, inside, result)


def pooled_mse_forward(student: Tensor, teacher: Tensor, *, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and the difference's means over all windows, level by level, `[B, C, sum of l^2]`.

    Args:
        student: `[B, C, H, W]`.
        teacher: The same shape.
        levels: Sides of the pooled maps.
    """
    batch, channels, height, width = student.shape
    mine, theirs = planes(student), planes(teacher)
    constants, (scale, own_scale) = _constants(mine, levels), _scales(mine, levels)
    tiles, parts = _tiles(mine, constants)
    sums = tiles if parts > 1 and levels else 0
    columns = tiles * parts + sums
    partials = student.new_empty(batch, columns, dtype=torch.float32)
    shares = partials.new_empty(parts, batch, channels, constants["WINDOWS"])
    means = torch.empty_like(shares[0]) if sums else shares[0]
    with device_of(student):
        _pooled_forward_kernel[(batch, tiles, parts)](
            mine, theirs, partials, shares, channels, height, width, columns, *mine.stride(), *theirs.stride(), scale,
            own_scale, **constants, IS_WHOLE=parts == 1, UPCAST=is_interpreted(), **LAUNCH,
        )  # fmt: skip
        if sums:
            _pooled_sum_kernel[(batch, tiles)](
                shares, partials, means, channels, parts, columns, scale, **_without_positions(constants), **LAUNCH
            )
    return partials.sum(dim=1), means


def pooled_mse_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, means: Tensor, *, levels: Sequence[int]
) -> tuple[Tensor]:
    """Return the gradient `[B, C, H, W]`; read once, written once."""
    batch, channels, height, width = student.shape
    mine, theirs = planes(student), planes(teacher)
    constants, gradient = _constants(mine, levels), torch.empty_like(mine)
    with device_of(student):
        _pooled_backward_kernel[(batch, *_tiles(mine, constants))](
            grad.contiguous(), mine, theirs, means, gradient, channels, height, width, *mine.stride(),
            *theirs.stride(), *gradient.stride(), *_scales(mine, levels), **constants, UPCAST=is_interpreted(),
            **LAUNCH,
        )  # fmt: skip
    return (gradient.view(student.shape),)


def _scales(maps: Tensor, levels: Sequence[int]) -> tuple[float, float]:
    """Return what multiplies the mean over a level and the sum over the map itself, both of squares, in a plane."""
    _, channels, positions = maps.shape
    own_scale, *_ = level_weights(levels, channels, positions)
    return own_scale * positions, own_scale


def _constants(maps: Tensor, levels: Sequence[int]) -> dict[str, Any]:
    """Return the compile-time arguments that both directions share, for maps `[B, C, P]`."""
    return _constants_of(levels, FEW_POSITIONS if maps.shape[2] <= FEW_POSITIONS else MOST_POSITIONS)


def _constants_of(levels: Sequence[int], block_p: int) -> dict[str, Any]:
    return {
        "LEVELS": tuple(levels) or (1,),  # without a level there must be something to index all the same
        "COUNT": len(levels),
        "WINDOWS": sum(level * level for level in levels),
        "BLOCK_C": BLOCK_C,
        "BLOCK_P": block_p,
        "BLOCK_W": BLOCK_W,
    }


def _without_positions(constants: dict[str, Any]) -> dict[str, Any]:
    """Return the compile-time arguments of the kernel that sums means over tiles of positions."""
    return {name: value for name, value in constants.items() if name != "BLOCK_P"} | {"STEP": STEP}


def _tiles(maps: Tensor, constants: dict[str, Any]) -> tuple[int, int]:
    """Return the tiles of channels and of positions."""
    return triton.cdiv(maps.shape[1], constants["BLOCK_C"]), triton.cdiv(maps.shape[2], constants["BLOCK_P"])


def variants() -> Iterator[Variant]:
    """Yield every kernel in the configurations that launches pick."""
    counts = dict.fromkeys(("channels", "height", "width"), "i32")
    strides, scales = dict.fromkeys(STRIDES, "i32"), dict.fromkeys(("scale", "own_scale"), "fp32")
    positions_of_levels = (((4, 2, 1), (64, 16)), ((), (64,)), ((2, 1), (64, 16)), ((8, 4, 2, 1), (64,)))
    for (student, teacher), (levels, positions) in product(DTYPE_PAIRS, positions_of_levels):
        sides = {"student": f"*{student}", "teacher": f"*{teacher}"}
        forward = {**sides, "partials": "*fp32", "means": "*fp32", **counts, "columns": "i32", **strides, **scales}
        into = {"gradient": f"*{student}", **counts, **strides, **dict.fromkeys(("gb", "gc", "gp"), "i32")}
        backward = {"grad": "*fp32", **sides, "means": "*fp32", **into, **scales}
        for block_p in positions:
            constants = {**_constants_of(levels, block_p), "UPCAST": False}
            for is_whole in (True, False):
                chosen = {**constants, "IS_WHOLE": is_whole}
                yield Variant(_pooled_forward_kernel, forward, chosen, **LAUNCH)
            yield Variant(_pooled_backward_kernel, backward, constants, **LAUNCH)
    for levels in ((4, 2, 1), (2, 1), (8, 4, 2, 1)):
        constants = _without_positions(_constants_of(levels, MOST_POSITIONS))
        pointers = dict.fromkeys(("shares", "partials", "means"), "*fp32")
        counts = dict.fromkeys(("channels", "parts", "columns"), "i32")
        yield Variant(_pooled_sum_kernel, {**pointers, **counts, "scale": "fp32"}, constants, **LAUNCH)
