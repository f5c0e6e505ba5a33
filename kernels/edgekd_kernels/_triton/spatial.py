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
from edgekd_kernels._triton.tiles import (
    COLUMN_TILES,
    STRIDES,
    TILES,
    column_tile_of,
    load_tile,
    store_tile,
    tile_of,
    warps_of,
)
from edgekd_kernels._triton.variants import DTYPE_PAIRS, Variant

BLOCK = 4096
PEAK_FLOOR = tl.constexpr(FLOOR)
TINY = tl.constexpr(1e-30)
EXPONENT = tl.constexpr(0x7F800000)
ONE = tl.constexpr(0x3F800000)
"""Bits of a float32: all of its exponent, and those of 1."""
INTO = ("gb", "gc", "gp")


@triton.jit
def _bits(values):
    """Return the bits of magnitudes, whose order is that of the magnitudes, NaN above infinity."""
    return tl.abs(values).to(tl.int32, bitcast=True)


@triton.jit
def _inverse_power(peak):
    """Return the power of two that brings the magnitude of these bits between 2 and 4; 0 for infinity and NaN."""
    return (~peak & EXPONENT).to(tl.float32, bitcast=True)


@triton.jit
def _ratio(lower, higher):
    """Return the quotient of the powers of two below two magnitudes, given by their bits, the second not smaller."""
    return tl.maximum((lower & EXPONENT) - (higher & EXPONENT) + ONE, 0).to(tl.float32, bitcast=True)


@triton.jit
def _cosines_kernel(
    student, teacher, partials, statistics,  # [B, C, P] twice, [B, tiles], [3, B, P]
    channels, positions, sb, sc, sp, tb, tc, tp, weight,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    # Sums of squares relative to a power of two near the largest magnitude so far, so that none over- or underflows.
    sample, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    position = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    peak_s = _bits(tl.full([BLOCK_C, BLOCK_P], PEAK_FLOOR, tl.float32))
    peak_t = peak_s
    ss = tl.zeros([BLOCK_C, BLOCK_P], tl.float32)
    tt, st = ss, ss
    for first in range(0, channels, BLOCK_C):
        channel = first + tl.arange(0, BLOCK_C)
        inside = (channel < channels)[:, None] & (position < positions)[None, :]
        s = load_tile(student, sample, channel, position, sb, sc, sp, inside)
        t = load_tile(teacher, sample, channel, position, tb, tc, tp, inside)
        higher_s, higher_t = tl.maximum(peak_s, _bits(s)), tl.maximum(peak_t, _bits(t))
        ratio_s, ratio_t = _ratio(peak_s, higher_s), _ratio(peak_t, higher_t)
        s, t = s * _inverse_power(higher_s), t * _inverse_power(higher_t)
        ss = ss * ratio_s * ratio_s + s * s
        tt = tt * ratio_t * ratio_t + t * t
        st = st * ratio_s * ratio_t + s * t
        peak_s, peak_t = higher_s, higher_t
    higher_s, higher_t = tl.max(peak_s, axis=0), tl.max(peak_t, axis=0)
    ratio_s, ratio_t = _ratio(peak_s, higher_s[None, :]), _ratio(peak_t, higher_t[None, :])
    unit_s = _inverse_length(tl.sum(ss * ratio_s * ratio_s, axis=0), higher_s)
    unit_t = _inverse_length(tl.sum(tt * ratio_t * ratio_t, axis=0), higher_t)
    cosine = tl.sum(st * ratio_s * ratio_t, axis=0) * unit_s * unit_t
    lengths = tl.where(unit_s == 0, 0.0, 1.0) + tl.where(unit_t == 0, 0.0, 1.0)
    known = position < positions
    distance = tl.where(known, lengths - 2 * cosine, 0.0)
    total = tl.sum(tl.where(distance < 0, 0.0, distance), axis=0) * weight
    tl.store(partials + sample * tl.num_programs(1) + tile, total)
    side = tl.num_programs(0).to(tl.int64) * positions
    at = statistics + sample * positions + position
    tl.store(at, unit_s * _inverse_power(higher_s), mask=known)
    tl.store(at + side, unit_t * _inverse_power(higher_t), mask=known)
    tl.store(at + 2 * side, cosine, mask=known)


@triton.jit
def _inverse_length(squares, peak):
    """Return one over the length of a scaled vector; 0 for one that counts as zero, NaN for one that holds NaN."""
    is_zero = peak <= _bits(tl.full(peak.shape, PEAK_FLOOR, tl.float32))
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
    # Of each position the bits of the largest magnitude, and the sum of |x|^p over the power of two that goes with it.
    sample = tl.program_id(0).to(tl.int64)
    position = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    peak = _bits(tl.full([BLOCK_C, BLOCK_P], TINY, tl.float32))
    total = tl.zeros([BLOCK_C, BLOCK_P], tl.float32)
    for first in range(0, channels, BLOCK_C):
        channel = first + tl.arange(0, BLOCK_C)
        inside = (channel < channels)[:, None] & (position < positions)[None, :]
        x = tl.abs(load_tile(features, sample, channel, position, sb, sc, sp, inside))
        higher = tl.maximum(peak, _bits(x))
        total = total * _power(_ratio(peak, higher), p, POWER) + _power(x * _inverse_power(higher), p, POWER)
        peak = higher
    highest = tl.max(peak, axis=0)
    total = tl.sum(total * _power(_ratio(peak, highest[None, :]), p, POWER), axis=0)
    tl.store(peaks + sample * positions + position, highest, mask=position < positions)
    tl.store(sums + sample * positions + position, total, mask=position < positions)


@triton.jit
def _power_of_ratio(lower, higher, p, POWER: tl.constexpr):
    """Return `_ratio(lower, higher)^p` in float64, as exact as float32 sums are: functions of float64 would spill."""
    if POWER != 0:
        return _power(_ratio(lower, higher).to(tl.float64), p, POWER)
    steps = ((lower & EXPONENT) - (higher & EXPONENT)) >> 23
    return tl.exp2(steps.to(tl.float32) * p).to(tl.float64)


@triton.jit
def _attention(peaks, sums, at, inside, largest, p, POWER: tl.constexpr):
    """Return the attention at positions times the number of channels, of a map that its scale multiplies."""
    peak = tl.load(peaks + at, mask=inside, other=0)
    return tl.load(sums + at, mask=inside, other=0.0) * _power_of_ratio(peak, largest, p, POWER)


@triton.jit
def _attention_kernel(
    peaks_s, sums_s, peaks_t, sums_t, values, slopes, scales,  # [B, P] four times, [B], [B, P], [B]
    positions, p,
    POWER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # In float64, for maps of random features differ little. The second and third pass find their numbers in the cache.
    sample = tl.program_id(0).to(tl.int64)
    largest_s, largest_t = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.int32)
    for first in range(0, positions, BLOCK):
        position = first + tl.arange(0, BLOCK)
        at, inside = sample * positions + position, position < positions
        largest_s = tl.maximum(largest_s, tl.load(peaks_s + at, mask=inside, other=0))
        largest_t = tl.maximum(largest_t, tl.load(peaks_t + at, mask=inside, other=0))
    peak_s, peak_t = tl.max(largest_s, axis=0), tl.max(largest_t, axis=0)
    ss, tt, st = tl.zeros([BLOCK], tl.float64), tl.zeros([BLOCK], tl.float64), tl.zeros([BLOCK], tl.float64)
    for first in range(0, positions, BLOCK):
        position = first + tl.arange(0, BLOCK)
        at, inside = sample * positions + position, position < positions
        mine = _attention(peaks_s, sums_s, at, inside, peak_s, p, POWER)
        theirs = _attention(peaks_t, sums_t, at, inside, peak_t, p, POWER)
        ss, tt, st = ss + mine * mine, tt + theirs * theirs, st + mine * theirs
    floor = _bits(tl.full([], PEAK_FLOOR, tl.float32))
    length_s = tl.where(peak_s <= floor, 0.0, 1.0 / tl.sqrt(tl.sum(ss, axis=0)))
    length_t = tl.where(peak_t <= floor, 0.0, 1.0 / tl.sqrt(tl.sum(tt, axis=0)))
    along = tl.where(length_s == 0, 0.0, 1.0) - tl.sum(st, axis=0) * length_s * length_t
    scale = tl.where(peak_s <= floor, 0.0, _inverse_power(peak_s))
    factor = 2 * p * length_s * scale / positions
    errors = tl.zeros([BLOCK], tl.float64)
    for first in range(0, positions, BLOCK):
        position = first + tl.arange(0, BLOCK)
        at, inside = sample * positions + position, position < positions
        mine = _attention(peaks_s, sums_s, at, inside, peak_s, p, POWER) * length_s
        theirs = _attention(peaks_t, sums_t, at, inside, peak_t, p, POWER) * length_t
        errors += (mine - theirs) * (mine - theirs)
        slope = (mine - theirs - mine * along) * factor
        tl.store(slopes + at, slope.to(tl.float32), mask=inside)
    tl.store(values + sample, (tl.sum(errors, axis=0) / positions).to(tl.float32))
    tl.store(scales + sample, scale)


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
    block_c, block_p = column_tile_of(student)
    tiles = triton.cdiv(positions, block_p)
    partials = student.new_empty(batch, tiles, dtype=torch.float32)
    statistics = partials.new_empty(3, batch, positions)
    with device_of(student):
        _cosines_kernel[(batch, tiles)](
            student, teacher, partials, statistics, channels, positions, *student.stride(), *teacher.stride(),
            1 / (channels * positions), BLOCK_C=block_c, BLOCK_P=block_p, num_warps=warps_of(block_c, block_p),
        )  # fmt: skip
    return partials.sum(dim=1) if tiles > 1 else partials.view(batch), statistics


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

    The gradient is `slope * sign(s) |scale s|^(p-1)`; the scale is a power of two. Both maps are read once.

    Args:
        student: `[B, C, P]`.
        teacher: `[B, C', P]`.
        p: Power of the activations.
    """
    batch, _, positions = student.shape
    values, scales = (student.new_empty(batch, dtype=torch.float32) for _ in range(2))
    slopes = values.new_empty(batch, positions)
    block = min(BLOCK, triton.next_power_of_2(positions))
    with device_of(student):
        _attention_kernel[(batch,)](
            *_energies(student, p), *_energies(teacher, p), values, slopes, scales, positions, p,
            POWER=_special(p), BLOCK=block, num_warps=max(1, block // 256),
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
    peaks = features.new_empty(batch, positions, dtype=torch.int32)
    sums = torch.empty_like(peaks, dtype=torch.float32)
    block_c, block_p = column_tile_of(features)
    _energies_kernel[(batch, triton.cdiv(positions, block_p))](
        features, peaks, sums, channels, positions, *features.stride(), p, POWER=_special(p), BLOCK_C=block_c,
        BLOCK_P=block_p, num_warps=warps_of(block_c, block_p),
    )  # fmt: skip
    return peaks, sums


def _special(p: float) -> int:
    return int(p) if p in (1.0, 2.0) else 0


def variants() -> Iterator[Variant]:
    """Yield every kernel in the configurations that launches pick."""
    planes = dict.fromkeys(("sums_s", "sums_t", "values", "slopes", "scales"), "*fp32")
    pointers = {"peaks_s": "*i32", "peaks_t": "*i32", **planes, "positions": "i32", "p": "fp32"}
    for power, block in product((0, 1, 2), (64, BLOCK)):
        yield Variant(_attention_kernel, pointers, {"POWER": power, "BLOCK": block}, max(1, block // 256))
    for (student, teacher), tile in product(DTYPE_PAIRS, COLUMN_TILES):
        yield _cosines_variant(student, teacher, tile)
    for (student, teacher), tile in product(DTYPE_PAIRS, TILES):
        yield _hint_l2_backward_variant(student, teacher, tile)
    for features, power in product(("fp32", "bf16", "fp16"), (0, 1, 2)):
        yield from (_energies_variant(features, tile, power) for tile in COLUMN_TILES)
        yield from (_attention_backward_variant(features, tile, power) for tile in TILES)


def _cosines_variant(student: str, teacher: str, tile: tuple[int, int]) -> Variant:
    sides = {"student": f"*{student}", "teacher": f"*{teacher}", "partials": "*fp32", "statistics": "*fp32"}
    sizes = {**dict.fromkeys(("channels", "positions", *STRIDES), "i32"), "weight": "fp32"}
    return Variant(_cosines_kernel, {**sides, **sizes}, _blocks(tile), warps_of(*tile))


def _hint_l2_backward_variant(student: str, teacher: str, tile: tuple[int, int]) -> Variant:
    sides = {"grad": "*fp32", "student": f"*{student}", "teacher": f"*{teacher}", "statistics": "*fp32"}
    sizes = {**dict.fromkeys(("channels", "positions", *STRIDES, *INTO), "i32"), "weight": "fp32"}
    signature = {**sides, "gradient": f"*{student}", **sizes}
    return Variant(_hint_l2_backward_kernel, signature, _blocks(tile), warps_of(*tile))


def _energies_variant(features: str, tile: tuple[int, int], power: int) -> Variant:
    sizes = {**dict.fromkeys(("channels", "positions", "sb", "sc", "sp"), "i32"), "p": "fp32"}
    signature = {"features": f"*{features}", "peaks": "*i32", "sums": "*fp32", **sizes}
    return Variant(_energies_kernel, signature, {"POWER": power, **_blocks(tile)}, warps_of(*tile))


def _attention_backward_variant(features: str, tile: tuple[int, int], power: int) -> Variant:
    sides = {"grad": "*fp32", "student": f"*{features}", "slopes": "*fp32", "scales": "*fp32"}
    sizes = {**dict.fromkeys(("channels", "positions", "sb", "sc", "sp", *INTO), "i32"), "p": "fp32"}
    signature = {**sides, "gradient": f"*{features}", **sizes}
    return Variant(_attention_backward_kernel, signature, {"POWER": power, **_blocks(tile)}, warps_of(*tile))


def _blocks(tile: tuple[int, int]) -> dict[str, int]:
    return {"BLOCK_C": tile[0], "BLOCK_P": tile[1]}
