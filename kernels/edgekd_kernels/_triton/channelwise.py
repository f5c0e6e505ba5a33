"""Losses on feature maps by the statistics of their channels.

One read of both maps leaves sums of every plane; small kernels over `[B, C]` make values, or what backward needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._torch.channelwise import FLOOR, ROUNDINGS
from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.tiles import STRIDES, TILES, load_tile, store_tile, tile_of, warps_of
from edgekd_kernels._triton.variants import DTYPE_PAIRS, Variant

SAMPLES, CHANNELS = 32, 32
VARIANCE_FLOOR = tl.constexpr(FLOOR**2)
ROUNDING = tl.constexpr(ROUNDINGS * torch.finfo(torch.float32).eps)


@triton.jit
def _moments_kernel(
    student, teacher, moments,  # [B, C, P] twice, [B, 5, C]
    channels, positions, sb, sc, sp, tb, tc, tp,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    # Means and centred sums of each tile, joined to those before it: no difference of large sums.
    sample = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mean_s, mean_t = tl.zeros([BLOCK_C], tl.float32), tl.zeros([BLOCK_C], tl.float32)
    ss, tt, st = tl.zeros([BLOCK_C], tl.float32), tl.zeros([BLOCK_C], tl.float32), tl.zeros([BLOCK_C], tl.float32)
    for first in range(0, positions, BLOCK_P):
        position = first + tl.arange(0, BLOCK_P)
        inside = (channel < channels)[:, None] & (position < positions)[None, :]
        s = load_tile(student, sample, channel, position, sb, sc, sp, inside)
        t = load_tile(teacher, sample, channel, position, tb, tc, tp, inside)
        count = tl.minimum(positions - first, BLOCK_P).to(tl.float32)
        tile_s, tile_t = tl.sum(s, axis=1) / count, tl.sum(t, axis=1) / count
        s = tl.where(inside, s - tile_s[:, None], 0.0)
        t = tl.where(inside, t - tile_t[:, None], 0.0)
        share = count / (first + count)
        gap_s, gap_t = tile_s - mean_s, tile_t - mean_t
        weight = first * share
        ss += tl.sum(s * s, axis=1) + gap_s * gap_s * weight
        tt += tl.sum(t * t, axis=1) + gap_t * gap_t * weight
        st += tl.sum(s * t, axis=1) + gap_s * gap_t * weight
        mean_s += gap_s * share
        mean_t += gap_t * share
    at = moments + sample * 5 * channels + channel
    tl.store(at, mean_s, mask=channel < channels)
    tl.store(at + channels, mean_t, mask=channel < channels)
    tl.store(at + 2 * channels, ss, mask=channel < channels)
    tl.store(at + 3 * channels, tt, mask=channel < channels)
    tl.store(at + 4 * channels, st, mask=channel < channels)


@triton.jit
def _channel_statistics(moments, channel, batch, channels, positions, SAMPLES: tl.constexpr, CHANNELS: tl.constexpr):
    """Return the mean and the inverse deviation of each side's channels; the latter is 0 for a constant channel."""
    mean_s, mean_t = tl.zeros([CHANNELS], tl.float32), tl.zeros([CHANNELS], tl.float32)
    for first in range(0, batch, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        inside = (sample < batch)[:, None] & (channel < channels)[None, :]
        at = moments + sample[:, None].to(tl.int64) * 5 * channels + channel[None, :]
        mean_s += tl.sum(tl.load(at, mask=inside, other=0.0), axis=0) / batch
        mean_t += tl.sum(tl.load(at + channels, mask=inside, other=0.0), axis=0) / batch
    ss, tt = tl.zeros([CHANNELS], tl.float32), tl.zeros([CHANNELS], tl.float32)
    for first in range(0, batch, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        inside = (sample < batch)[:, None] & (channel < channels)[None, :]
        at = moments + sample[:, None].to(tl.int64) * 5 * channels + channel[None, :]
        gap_s = tl.where(inside, tl.load(at, mask=inside, other=0.0) - mean_s[None, :], 0.0)
        gap_t = tl.where(inside, tl.load(at + channels, mask=inside, other=0.0) - mean_t[None, :], 0.0)
        ss += tl.sum(tl.load(at + 2 * channels, mask=inside, other=0.0) / positions + gap_s * gap_s, axis=0) / batch
        tt += tl.sum(tl.load(at + 3 * channels, mask=inside, other=0.0) / positions + gap_t * gap_t, axis=0) / batch
    return mean_s, mean_t, _inverse_deviation(ss, mean_s), _inverse_deviation(tt, mean_t)


@triton.jit
def _inverse_deviation(variance, mean):
    rounding = mean * ROUNDING
    is_flat = variance <= rounding * rounding + VARIANCE_FLOOR
    return tl.where(is_flat, 0.0, 1.0 / tl.sqrt(tl.where(is_flat, 1.0, variance)))


@triton.jit
def _standard_sums(
    moments, sample, channel, channels, positions, inside, mean_s, mean_t, scale_s, scale_t
):  # fmt: skip
    """Return of planes the means of `x`, `y`, `x^2`, `y^2` and `x y`, both sides standardised by channel."""
    at = moments + sample[:, None].to(tl.int64) * 5 * channels + channel[None, :]
    x = (tl.load(at, mask=inside, other=0.0) - mean_s[None, :]) * scale_s[None, :]
    y = (tl.load(at + channels, mask=inside, other=0.0) - mean_t[None, :]) * scale_t[None, :]
    xx = tl.load(at + 2 * channels, mask=inside, other=0.0) / positions * scale_s[None, :] * scale_s[None, :] + x * x
    yy = tl.load(at + 3 * channels, mask=inside, other=0.0) / positions * scale_t[None, :] * scale_t[None, :] + y * y
    xy = tl.load(at + 4 * channels, mask=inside, other=0.0) / positions * scale_s[None, :] * scale_t[None, :] + x * y
    return x, y, xx, yy, xy


@triton.jit
def _pearson_kernel(
    moments, distances,  # [B, 5, C], [B, C]
    batch, channels, positions,
    SAMPLES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    mean_s, mean_t, scale_s, scale_t = _channel_statistics(
        moments, channel, batch, channels, positions, SAMPLES, CHANNELS
    )
    for first in range(0, batch, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        inside = (sample < batch)[:, None] & (channel < channels)[None, :]
        _, _, xx, yy, xy = _standard_sums(
            moments, sample, channel, channels, positions, inside, mean_s, mean_t, scale_s, scale_t
        )
        distance = xx - 2 * xy + yy
        at = sample[:, None].to(tl.int64) * channels + channel[None, :]
        tl.store(distances + at, tl.where(distance < 0, 0.0, distance) / (2 * channels), mask=inside)


@triton.jit
def _pearson_gradient_kernel(
    grad, moments, factors,  # [B], [B, 5, C], [6, C]
    batch, channels, positions,
    SAMPLES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # Both means and scales, and the means over a channel of w (x - y) and w (x - y) x.
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    mean_s, mean_t, scale_s, scale_t = _channel_statistics(
        moments, channel, batch, channels, positions, SAMPLES, CHANNELS
    )
    offset, slope = tl.zeros([CHANNELS], tl.float32), tl.zeros([CHANNELS], tl.float32)
    for first in range(0, batch, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        inside = (sample < batch)[:, None] & (channel < channels)[None, :]
        x, y, xx, _, xy = _standard_sums(
            moments, sample, channel, channels, positions, inside, mean_s, mean_t, scale_s, scale_t
        )
        upstream = tl.load(grad + sample, mask=sample < batch, other=0.0)[:, None]
        offset += tl.sum(tl.where(inside, upstream * (x - y), 0.0), axis=0) / batch
        slope += tl.sum(tl.where(inside, upstream * (xx - xy), 0.0), axis=0) / batch
    inside = channel < channels
    tl.store(factors + channel, mean_s, mask=inside)
    tl.store(factors + channels + channel, mean_t, mask=inside)
    tl.store(factors + 2 * channels + channel, scale_s, mask=inside)
    tl.store(factors + 3 * channels + channel, scale_t, mask=inside)
    tl.store(factors + 4 * channels + channel, offset, mask=inside)
    tl.store(factors + 5 * channels + channel, slope, mask=inside)


@triton.jit
def _pkd_backward_kernel(
    grad, student, teacher, factors, gradient,  # [B], [B, C, P] twice, [6, C], [B, C, P]
    channels, positions, sb, sc, sp, tb, tc, tp, gb, gc, gp, weight,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    position = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    known = channel < channels
    inside = known[:, None] & (position < positions)[None, :]
    mean_s = tl.load(factors + channel, mask=known, other=0.0)[:, None]
    mean_t = tl.load(factors + channels + channel, mask=known, other=0.0)[:, None]
    scale_s = tl.load(factors + 2 * channels + channel, mask=known, other=0.0)[:, None]
    scale_t = tl.load(factors + 3 * channels + channel, mask=known, other=0.0)[:, None]
    offset = tl.load(factors + 4 * channels + channel, mask=known, other=0.0)[:, None]
    slope = tl.load(factors + 5 * channels + channel, mask=known, other=0.0)[:, None]
    x = (load_tile(student, sample, channel, position, sb, sc, sp, inside) - mean_s) * scale_s
    y = (load_tile(teacher, sample, channel, position, tb, tc, tp, inside) - mean_t) * scale_t
    result = (tl.load(grad + sample) * (x - y) - offset - x * slope) * (scale_s * weight)
    store_tile(gradient, sample, channel, position, gb, gc, gp, inside, result)


@triton.jit
def _plane_squares_kernel(
    mean, teacher, squares,  # [B, C, P] twice, [B, C]
    channels, positions, sb, sc, sp, tb, tc, tp,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_C], tl.float32)
    for first in range(0, positions, BLOCK_P):
        position = first + tl.arange(0, BLOCK_P)
        inside = (channel < channels)[:, None] & (position < positions)[None, :]
        m = load_tile(mean, sample, channel, position, sb, sc, sp, inside)
        t = load_tile(teacher, sample, channel, position, tb, tc, tp, inside)
        total += tl.sum((m - t) * (m - t), axis=1)
    tl.store(squares + sample * channels + channel, total, mask=channel < channels)


@triton.jit
def _softplus(raw):
    # log(1 + e) to full precision for a small e too: what 1 + e loses, the quotient gives back.
    small = tl.exp(-tl.abs(raw))
    above = 1.0 + small
    rest = tl.where(above == 1.0, small, tl.log(above) * (small / tl.where(above == 1.0, 1.0, above - 1.0)))
    return tl.maximum(raw, 0.0) + rest


@triton.jit
def _vid_values_kernel(
    squares, raw_variance, values,  # [B, C], [C], [B]
    channels, positions, epsilon,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    total = tl.zeros([CHANNELS], tl.float32)
    for first in range(0, channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        inside = channel < channels
        variance = _softplus(tl.load(raw_variance + channel, mask=inside, other=0.0).to(tl.float32)) + epsilon
        square = tl.load(squares + sample * channels + channel, mask=inside, other=0.0)
        total += tl.where(inside, square / (variance * positions) + tl.log(variance), 0.0)
    tl.store(values + sample, tl.sum(total, axis=0) / (2 * channels))


@triton.jit
def _vid_variance_kernel(
    grad, squares, raw_variance, gradient,  # [B], [B, C], [C], [C]
    batch, channels, positions, epsilon,
    SAMPLES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    raw = tl.load(raw_variance + channel, mask=channel < channels, other=0.0).to(tl.float32)
    variance = _softplus(raw) + epsilon
    total = tl.zeros([CHANNELS], tl.float32)
    for first in range(0, batch, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        inside = (sample < batch)[:, None] & (channel < channels)[None, :]
        at = squares + sample[:, None].to(tl.int64) * channels + channel[None, :]
        ratio = tl.load(at, mask=inside, other=0.0) / (variance * positions)[None, :]
        total += tl.sum(tl.load(grad + sample, mask=sample < batch, other=0.0)[:, None] * (1.0 - ratio), axis=0)
    result = total / (2 * channels * variance) / (1.0 + tl.exp(-raw))
    tl.store(gradient + channel, result.to(gradient.dtype.element_ty), mask=channel < channels)


@triton.jit
def _vid_backward_kernel(
    grad, mean, teacher, raw_variance, gradient,  # [B], [B, C, P] twice, [C], [B, C, P]
    channels, positions, sb, sc, sp, tb, tc, tp, gb, gc, gp, weight, epsilon,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    position = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = (channel < channels)[:, None] & (position < positions)[None, :]
    variance = _softplus(tl.load(raw_variance + channel, mask=channel < channels, other=0.0).to(tl.float32)) + epsilon
    m = load_tile(mean, sample, channel, position, sb, sc, sp, inside)
    t = load_tile(teacher, sample, channel, position, tb, tc, tp, inside)
    result = (m - t) * (tl.load(grad + sample) * weight / variance)[:, None]
    store_tile(gradient, sample, channel, position, gb, gc, gp, inside, result)


def pkd_forward(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and the moments of every plane, `[B, 5, C]`.

    They are both means and, about them, the sums of squares of both sides and of their product. Both maps are read
    once.

    Args:
        student: `[B, C, P]`.
        teacher: The same shape.
    """
    batch, channels, positions = student.shape
    moments = student.new_empty(batch, 5, channels, dtype=torch.float32)
    distances = moments.new_empty(batch, channels)
    block_c, block_p = tile_of(student, least_channels=1)
    with device_of(student):
        _moments_kernel[(batch, triton.cdiv(channels, block_c))](
            student, teacher, moments, channels, positions, *student.stride(), *teacher.stride(),
            BLOCK_C=block_c, BLOCK_P=block_p, num_warps=warps_of(block_c, block_p),
        )  # fmt: skip
        _pearson_kernel[(triton.cdiv(channels, CHANNELS),)](
            moments, distances, batch, channels, positions, SAMPLES=SAMPLES, CHANNELS=CHANNELS
        )
    return distances.sum(dim=1), moments


def pkd_backward(grad: Tensor, student: Tensor, teacher: Tensor, moments: Tensor) -> tuple[Tensor]:
    """Return the gradient of the standardised difference, `[B, C, P]`; read once, written once."""
    batch, channels, positions = student.shape
    gradient, factors = torch.empty_like(student), moments.new_empty(6, channels)
    block_c, block_p = tile_of(student)
    grad = grad.contiguous()
    with device_of(student):
        _pearson_gradient_kernel[(triton.cdiv(channels, CHANNELS),)](
            grad, moments, factors, batch, channels, positions, SAMPLES=SAMPLES, CHANNELS=CHANNELS
        )
        _pkd_backward_kernel[(batch, triton.cdiv(channels, block_c), triton.cdiv(positions, block_p))](
            grad, student, teacher, factors, gradient, channels, positions, *student.stride(), *teacher.stride(),
            *gradient.stride(), 1 / (channels * positions), BLOCK_C=block_c, BLOCK_P=block_p,
            num_warps=warps_of(block_c, block_p),
        )  # fmt: skip
    return (gradient,)


def vid_forward(mean: Tensor, teacher: Tensor, raw_variance: Tensor, *, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and the squared error of every plane, `[B, C]`.

    Args:
        mean: `[B, C, P]`.
        teacher: The same shape.
        raw_variance: `[C]`.
        epsilon: Floor of the variance.
    """
    batch, channels, positions = mean.shape
    squares = mean.new_empty(batch, channels, dtype=torch.float32)
    values = squares.new_empty(batch)
    block_c, block_p = tile_of(mean, least_channels=1)
    with device_of(mean):
        _plane_squares_kernel[(batch, triton.cdiv(channels, block_c))](
            mean, teacher, squares, channels, positions, *mean.stride(), *teacher.stride(), BLOCK_C=block_c,
            BLOCK_P=block_p, num_warps=warps_of(block_c, block_p),
        )  # fmt: skip
        _vid_values_kernel[(batch,)](
            squares, raw_variance.contiguous(), values, channels, positions, epsilon, CHANNELS=256
        )
    return values, squares


def vid_backward(
    grad: Tensor, mean: Tensor, teacher: Tensor, raw_variance: Tensor, squares: Tensor, *, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the mean, `[B, C, P]`, and of the raw variance, `[C]`."""
    batch, channels, positions = mean.shape
    grad, raw_variance = grad.contiguous(), raw_variance.contiguous()
    gradient, by_variance = torch.empty_like(mean), torch.empty_like(raw_variance)
    block_c, block_p = tile_of(mean)
    with device_of(mean):
        _vid_backward_kernel[(batch, triton.cdiv(channels, block_c), triton.cdiv(positions, block_p))](
            grad, mean, teacher, raw_variance, gradient, channels, positions, *mean.stride(), *teacher.stride(),
            *gradient.stride(), 1 / (channels * positions), epsilon, BLOCK_C=block_c, BLOCK_P=block_p,
            num_warps=warps_of(block_c, block_p),
        )  # fmt: skip
        _vid_variance_kernel[(triton.cdiv(channels, CHANNELS),)](
            grad, squares, raw_variance, by_variance, batch, channels, positions, epsilon, SAMPLES=SAMPLES,
            CHANNELS=CHANNELS,
        )  # fmt: skip
    return gradient, by_variance


def variants() -> Iterator[Variant]:
    """Yield every kernel in the configurations that launches pick."""
    sizes = dict.fromkeys(("batch", "channels", "positions"), "i32")
    small = {"SAMPLES": SAMPLES, "CHANNELS": CHANNELS}
    yield Variant(_pearson_kernel, {"moments": "*fp32", "distances": "*fp32", **sizes}, small)
    yield Variant(_pearson_gradient_kernel, {"grad": "*fp32", "moments": "*fp32", "factors": "*fp32", **sizes}, small)
    for raw in ("fp32", "bf16", "fp16"):
        variance = {"squares": "*fp32", "raw_variance": f"*{raw}"}
        ends = {"channels": "i32", "positions": "i32", "epsilon": "fp32"}
        yield Variant(_vid_values_kernel, {**variance, "values": "*fp32", **ends}, {"CHANNELS": 256})
        yield Variant(
            _vid_variance_kernel,
            {"grad": "*fp32", **variance, "gradient": f"*{raw}", "batch": "i32", **ends},
            small,
        )
    for (student, teacher), tile in product(DTYPE_PAIRS, TILES):
        yield from _map_variants(student, teacher, tile)


def _map_variants(student: str, teacher: str, tile: tuple[int, int]) -> Iterator[Variant]:
    block = {"BLOCK_C": tile[0], "BLOCK_P": tile[1]}
    warps = warps_of(*tile)
    sizes = dict.fromkeys(("channels", "positions", *STRIDES), "i32")
    into = {"gradient": f"*{student}", **sizes, **dict.fromkeys(("gb", "gc", "gp"), "i32"), "weight": "fp32"}
    sides = {"student": f"*{student}", "teacher": f"*{teacher}"}
    means = {"mean": f"*{student}", "teacher": f"*{teacher}"}
    yield Variant(_moments_kernel, {**sides, "moments": "*fp32", **sizes}, block, warps)
    yield Variant(_plane_squares_kernel, {**means, "squares": "*fp32", **sizes}, block, warps)
    yield Variant(_pkd_backward_kernel, {"grad": "*fp32", **sides, "factors": "*fp32", **into}, block, warps)
    yield Variant(
        _vid_backward_kernel,
        {"grad": "*fp32", **means, "raw_variance": "*fp32", **into, "epsilon": "fp32"},
        block,
        warps,
    )
