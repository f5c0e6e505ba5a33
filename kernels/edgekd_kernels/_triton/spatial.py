"""Losses on the directions of feature vectors and of attention maps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._torch.spatial import FLOOR
from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.tiles import STRIDES, TILES, load_tile, store_tile, tile_of, warps_of
from edgekd_kernels._triton.variants import DTYPE_PAIRS, Variant

BLOCK = 1024
PEAK_FLOOR = tl.constexpr(FLOOR)
TINY = tl.constexpr(1e-30)
INTO = ("gb", "gc", "gp")


@triton.jit
def _cosines_kernel(
    student, teacher, partials, statistics,  # [B, C, P] twice, [B, tiles], [3, B, P]
    channels, positions, sb, sc, sp, tb, tc, tp,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    # Sums of squares relative to the largest magnitude so far, so that none over- or underflows.
    sample, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    position = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    peak_s, peak_t = tl.full([BLOCK_P], PEAK_FLOOR, tl.float32), tl.full([BLOCK_P], PEAK_FLOOR, tl.float32)
    ss, tt, st = tl.zeros([BLOCK_P], tl.float32), tl.zeros([BLOCK_P], tl.float32), tl.zeros([BLOCK_P], tl.float32)
    for first in range(0, channels, BLOCK_C):
        channel = first + tl.arange(0, BLOCK_C)
        inside = (channel < channels)[:, None] & (position < positions)[None, :]
        s = load_tile(student, sample, channel, position, sb, sc, sp, inside)
        t = load_tile(teacher, sample, channel, position, tb, tc, tp, inside)
        higher_s = tl.maximum(peak_s, tl.max(tl.abs(s), axis=0))
        higher_t = tl.maximum(peak_t, tl.max(tl.abs(t), axis=0))
        ratio_s, ratio_t = peak_s / higher_s, peak_t / higher_t
        s, t = s / higher_s[None, :], t / higher_t[None, :]
        ss = ss * ratio_s * ratio_s + tl.sum(s * s, axis=0)
        tt = tt * ratio_t * ratio_t + tl.sum(t * t, axis=0)
        st = st * ratio_s * ratio_t + tl.sum(s * t, axis=0)
        peak_s, peak_t = higher_s, higher_t
    unit_s, unit_t = _inverse_length(ss, peak_s), _inverse_length(tt, peak_t)
    cosine = st * unit_s * unit_t
    lengths = tl.where(unit_s == 0, 0.0, 1.0) + tl.where(unit_t == 0, 0.0, 1.0)
    known = position < positions
    distance = tl.where(known, lengths - 2 * cosine, 0.0)
    tl.store(partials + sample * tl.num_programs(1) + tile, tl.sum(tl.where(distance < 0, 0.0, distance), axis=0))
    side = tl.num_programs(0).to(tl.int64) * positions
    at = statistics + sample * positions + position
    tl.store(at, unit_s / peak_s, mask=known)
    tl.store(at + side, unit_t / peak_t, mask=known)
    tl.store(at + 2 * side, cosine, mask=known)


@triton.jit
def _inverse_length(squares, peak):
    """Return one over the length; 0 for a vector that counts as zero, NaN for one that holds NaN."""
    is_zero = (peak <= PEAK_FLOOR) & (squares >= 0)
    return tl.where(is_zero, 0.0, 1.0 / tl.sqrt(tl.where(is_zero, 1.0, squares)))


@triton.jit
def _hint_l2_backward_kernel(
    grad, student, teacher, statistics, gradient,  # [B], [B, C, P] twice, [3, B, P], [B, C, P]
    channels, positions, sb, sc, sp, tb, tc, tp, gb, gc, gp, weight,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    position = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    known = position < positions
    inside = (channel < channels)[:, None] & known[None, :]
    side = tl.num_programs(0).to(tl.int64) * positions
    at = statistics + sample * positions + position
    inverse_s = tl.load(at, mask=known, other=0.0)
    inverse_t = tl.load(at + side, mask=known, other=0.0)
    cosine = tl.load(at + 2 * side, mask=known, other=0.0)
    s = load_tile(student, sample, channel, position, sb, sc, sp, inside) * inverse_s[None, :]
    t = load_tile(teacher, sample, channel, position, tb, tc, tp, inside) * inverse_t[None, :]
    result = (cosine[None, :] * s - t) * (inverse_s * (tl.load(grad + sample) * weight))[None, :]
    store_tile(gradient, sample, channel, position, gb, gc, gp, inside, result)


@triton.jit
def _power(magnitude, p, POWER: tl.constexpr):
    """Return `magnitude^p`; `POWER` is `p` where that is 1 or 2, else 0."""
    if POWER == 1:
        return magnitude
    if POWER == 2:
        return magnitude * magnitude
    return tl.where(magnitude == 0, 0.0, tl.exp2(p * tl.log2(tl.where(magnitude == 0, 1.0, magnitude))))


@triton.jit
def _energies_kernel(
    features, peaks, sums,  # [B, C, P], [B, P] twice
    channels, positions, sb, sc, sp, p,
    POWER: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    # Each position's largest magnitude m, and its sum of (|x| / m)^p.
    sample = tl.program_id(0).to(tl.int64)
    position = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    peak, total = tl.full([BLOCK_P], TINY, tl.float32), tl.zeros([BLOCK_P], tl.float32)
    for first in range(0, channels, BLOCK_C):
        channel = first + tl.arange(0, BLOCK_C)
        inside = (channel < channels)[:, None] & (position < positions)[None, :]
        x = tl.abs(load_tile(features, sample, channel, position, sb, sc, sp, inside))
        higher = tl.maximum(peak, tl.max(x, axis=0))
        total = total * _power(peak / higher, p, POWER) + tl.sum(_power(x / higher[None, :], p, POWER), axis=0)
        peak = higher
    tl.store(peaks + sample * positions + position, peak, mask=position < positions)
    tl.store(sums + sample * positions + position, total, mask=position < positions)


@triton.jit
def _attention_statistics(peaks, sums, sample, channels, positions, p, POWER: tl.constexpr, BLOCK: tl.constexpr):
    """Return of a sample's map the scale and the inverse length of its attention."""
    peak = tl.zeros([BLOCK], tl.float32)
    for first in range(0, positions, BLOCK):
        position = first + tl.arange(0, BLOCK)
        peak = tl.maximum(peak, tl.load(peaks + sample * positions + position, mask=position < positions, other=0.0))
    largest = tl.max(peak, axis=0)
    scale = tl.where(largest <= PEAK_FLOOR, 0.0, 1.0 / tl.maximum(largest, PEAK_FLOOR))
    highest, squares = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for first in range(0, positions, BLOCK):
        position = first + tl.arange(0, BLOCK)
        attention = _attention(peaks, sums, sample, position, channels, positions, scale, p, POWER)
        highest = tl.maximum(highest, attention)
        squares += attention * attention
    is_dead = tl.max(highest, axis=0) <= PEAK_FLOOR
    square = tl.sum(squares, axis=0)
    return scale, tl.where(is_dead, 0.0, 1.0 / tl.sqrt(tl.where(is_dead, 1.0, square)))


@triton.jit
def _attention(peaks, sums, sample, position, channels, positions, scale, p, POWER: tl.constexpr):
    at = sample * positions + position
    peak = tl.load(peaks + at, mask=position < positions, other=0.0) * scale
    return tl.load(sums + at, mask=position < positions, other=0.0) * _power(peak, p, POWER) / channels


@triton.jit
def _attention_kernel(
    peaks_s, sums_s, peaks_t, sums_t, values, slopes, scales,  # [B, P] four times, [B], [B, P], [B]
    channels_s, channels_t, positions, p,
    POWER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    scale_s, length_s = _attention_statistics(peaks_s, sums_s, sample, channels_s, positions, p, POWER, BLOCK)
    scale_t, length_t = _attention_statistics(peaks_t, sums_t, sample, channels_t, positions, p, POWER, BLOCK)
    errors, across = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for first in range(0, positions, BLOCK):
        position = first + tl.arange(0, BLOCK)
        mine = _attention(peaks_s, sums_s, sample, position, channels_s, positions, scale_s, p, POWER) * length_s
        theirs = _attention(peaks_t, sums_t, sample, position, channels_t, positions, scale_t, p, POWER) * length_t
        errors += (mine - theirs) * (mine - theirs)
        across += mine * (mine - theirs)
    tl.store(values + sample, tl.sum(errors, axis=0) / positions)
    tl.store(scales + sample, scale_s)
    along = tl.sum(across, axis=0)
    factor = 2 * p * length_s * scale_s / positions / channels_s
    for first in range(0, positions, BLOCK):
        position = first + tl.arange(0, BLOCK)
        mine = _attention(peaks_s, sums_s, sample, position, channels_s, positions, scale_s, p, POWER) * length_s
        theirs = _attention(peaks_t, sums_t, sample, position, channels_t, positions, scale_t, p, POWER) * length_t
        slope = (mine - theirs - mine * along) * factor
        tl.store(slopes + sample * positions + position, slope, mask=position < positions)


@triton.jit
def _attention_backward_kernel(
    grad, student, slopes, scales, gradient,  # [B], [B, C, P], [B, P], [B], [B, C, P]
    channels, positions, sb, sc, sp, gb, gc, gp, p,
    POWER: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    position = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = (channel < channels)[:, None] & (position < positions)[None, :]
    x = load_tile(student, sample, channel, position, sb, sc, sp, inside) * tl.load(scales + sample)
    if POWER != 2:
        sign = tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x))
        x = sign if POWER == 1 else sign * _power(tl.abs(x), p - 1, 0)
    slope = tl.load(slopes + sample * positions + position, mask=position < positions, other=0.0)
    result = x * (slope * tl.load(grad + sample))[None, :]
    store_tile(gradient, sample, channel, position, gb, gc, gp, inside, result)


def hint_l2_forward(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and of each location `1 / |s|`, `1 / |t|` and the cosine, `[3, B, P]`.

    Args:
        student: `[B, C, P]`.
        teacher: The same shape.
    """
    batch, channels, positions = student.shape
    block_c, block_p = tile_of(student)
    tiles = triton.cdiv(positions, block_p)
    partials = student.new_empty(batch, tiles, dtype=torch.float32)
    statistics = partials.new_empty(3, batch, positions)
    with device_of(student):
        _cosines_kernel[(batch, tiles)](
            student, teacher, partials, statistics, channels, positions, *student.stride(), *teacher.stride(),
            BLOCK_C=block_c, BLOCK_P=block_p, num_warps=warps_of(block_c, block_p),
        )  # fmt: skip
    return partials.sum(dim=1).div_(channels * positions), statistics


def hint_l2_backward(grad: Tensor, student: Tensor, teacher: Tensor, statistics: Tensor) -> tuple[Tensor]:
    """Return `2 / (n |s|) (cos s/|s| - t/|t|)` times the gradient, `[B, C, P]`; read once, written once."""
    batch, channels, positions = student.shape
    gradient = torch.empty_like(student)
    block_c, block_p = tile_of(student)
    with device_of(student):
        _hint_l2_backward_kernel[(batch, triton.cdiv(channels, block_c), triton.cdiv(positions, block_p))](
            grad.contiguous(), student, teacher, statistics, gradient, channels, positions, *student.stride(),
            *teacher.stride(), *gradient.stride(), 2 / (channels * positions), BLOCK_C=block_c, BLOCK_P=block_p,
            num_warps=warps_of(block_c, block_p),
        )  # fmt: skip
    return (gradient,)


def attention_transfer_forward(student: Tensor, teacher: Tensor, *, p: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values `[B]`, the slopes `[B, P]` and the scales `[B]` of the student's map.

    The gradient is `slope * sign(s) |scale s|^(p-1)`; the scale brings a map's largest magnitude to 1. Both maps are
    read once.

    Args:
        student: `[B, C, P]`.
        teacher: `[B, C', P]`.
        p: Power of the activations.
    """
    batch, channels, positions = student.shape
    values, scales = (student.new_empty(batch, dtype=torch.float32) for _ in range(2))
    slopes = values.new_empty(batch, positions)
    power = _special(p)
    with device_of(student):
        _attention_kernel[(batch,)](
            *_energies(student, p), *_energies(teacher, p), values, slopes, scales, channels, teacher.shape[1],
            positions, p, POWER=power, BLOCK=min(BLOCK, triton.next_power_of_2(positions)),
        )  # fmt: skip
    return values, slopes, scales


def attention_transfer_backward(
    grad: Tensor, student: Tensor, slopes: Tensor, scales: Tensor, *, p: float
) -> tuple[Tensor]:
    """Return the gradient `[B, C, P]`, see `attention_transfer_forward`; read once, written once."""
    batch, channels, positions = student.shape
    gradient = torch.empty_like(student)
    block_c, block_p = tile_of(student)
    with device_of(student):
        _attention_backward_kernel[(batch, triton.cdiv(channels, block_c), triton.cdiv(positions, block_p))](
            grad.contiguous(), student, slopes, scales, gradient, channels, positions, *student.stride(),
            *gradient.stride(), p, POWER=_special(p), BLOCK_C=block_c, BLOCK_P=block_p,
            num_warps=warps_of(block_c, block_p),
        )  # fmt: skip
    return (gradient,)


def _energies(features: Tensor, p: float) -> tuple[Tensor, Tensor]:
    batch, channels, positions = features.shape
    peaks = features.new_empty(batch, positions, dtype=torch.float32)
    sums = torch.empty_like(peaks)
    block_c, block_p = tile_of(features)
    _energies_kernel[(batch, triton.cdiv(positions, block_p))](
        features, peaks, sums, channels, positions, *features.stride(), p, POWER=_special(p), BLOCK_C=block_c,
        BLOCK_P=block_p, num_warps=warps_of(block_c, block_p),
    )  # fmt: skip
    return peaks, sums


def _special(p: float) -> int:
    return int(p) if p in (1.0, 2.0) else 0


def variants() -> Iterator[Variant]:
    """Yield every kernel in the configurations that launches pick."""
    planes = dict.fromkeys(("peaks_s", "sums_s", "peaks_t", "sums_t", "values", "slopes", "scales"), "*fp32")
    sizes = dict.fromkeys(("channels_s", "channels_t", "positions"), "i32")
    for power, block in product((0, 1, 2), (64, BLOCK)):
        yield Variant(_attention_kernel, {**planes, **sizes, "p": "fp32"}, {"POWER": power, "BLOCK": block})
    for (student, teacher), tile in product(DTYPE_PAIRS, TILES):
        yield from _cosine_variants(student, teacher, tile)
    for features, tile, power in product(("fp32", "bf16", "fp16"), TILES, (0, 1, 2)):
        yield from _energy_variants(features, tile, power)


def _cosine_variants(student: str, teacher: str, tile: tuple[int, int]) -> Iterator[Variant]:
    block, warps = {"BLOCK_C": tile[0], "BLOCK_P": tile[1]}, warps_of(*tile)
    sides = {"student": f"*{student}", "teacher": f"*{teacher}"}
    sizes = dict.fromkeys(("channels", "positions", *STRIDES), "i32")
    yield Variant(_cosines_kernel, {**sides, "partials": "*fp32", "statistics": "*fp32", **sizes}, block, warps)
    into = {"statistics": "*fp32", "gradient": f"*{student}", **sizes, **dict.fromkeys(INTO, "i32"), "weight": "fp32"}
    yield Variant(_hint_l2_backward_kernel, {"grad": "*fp32", **sides, **into}, block, warps)


def _energy_variants(features: str, tile: tuple[int, int], power: int) -> Iterator[Variant]:
    block, warps = {"POWER": power, "BLOCK_C": tile[0], "BLOCK_P": tile[1]}, warps_of(*tile)
    sizes = dict.fromkeys(("channels", "positions", "sb", "sc", "sp"), "i32")
    rows = {"peaks": "*fp32", "sums": "*fp32"}
    yield Variant(_energies_kernel, {"features": f"*{features}", **rows, **sizes, "p": "fp32"}, block, warps)
    sides = {"student": f"*{features}", "slopes": "*fp32", "scales": "*fp32", "gradient": f"*{features}"}
    into = {**sizes, **dict.fromkeys(INTO, "i32"), "p": "fp32"}
    yield Variant(_attention_backward_kernel, {"grad": "*fp32", **sides, **into}, block, warps)
