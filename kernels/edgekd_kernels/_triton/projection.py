"""Squared differences between a projection of the student's features and the teacher's: three products.

Each is one kernel: `W s`, with the difference and its squares as an epilogue, `W^T R` and `R s^T`. A sample's gradient
is multiplied into products in float32: into the residual, it would be too small for float16.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product as pairs
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._dispatch import is_interpreted
from edgekd_kernels._torch.projection import projected_mse_backward as backward_in_torch
from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.products import product
from edgekd_kernels._triton.tiles import load_tile, store_tile
from edgekd_kernels._triton.variants import DTYPE_PAIRS, Variant

LEAST, MOST = 16, 64
"""Sides of a tile, channels or positions."""
SIDES = ((64, 64), (64, 32), (32, 64), (64, 16), (16, 64), (16, 16))
"""Sides that the ahead-of-time check compiles for."""
LARGEST = 512 * 512
"""Weights for which backward is left to torch when there are more.

The kernels read each map again for every 64 channels of the other side. torch's products have larger tiles, but want a
scaled copy of the residual, and a matrix of every sample that is summed afterwards: with many channels that is little.
"""
PROGRAMS = 256
"""Programs that the gradient of the weight is split into at least, about two for each multiprocessor of a large GPU."""


@triton.jit
def _load(base, sample, row, column, sb, sr, sc, inside):
    """Return a tile in its own dtype, 0 outside."""
    at = sample * sb + row[:, None].to(tl.int64) * sr + column[None, :].to(tl.int64) * sc
    return tl.load(base + at, mask=inside, other=0.0)


@triton.jit
def _residual_kernel(
    student, teacher, weight, bias, residual, partials,  # [B, Cs, P], [B, Ct, P], [Ct, Cs], [Ct], as t, [B, tiles]
    inputs, outputs, positions, sb, sc, sp, tb, tc, tp, rb, rc, rp, scale,
    HAS_BIAS: tl.constexpr, UPCAST: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_P: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    # W s + b - t, written once; its square is reduced in float32, before it is rounded.
    sample = tl.program_id(0).to(tl.int64)
    output = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    position = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    known, seen = output < outputs, position < positions
    sums = tl.zeros([BLOCK_O, BLOCK_P], tl.float32)
    for first in range(0, inputs, STEP):
        channel = first + tl.arange(0, STEP)
        is_input = channel < inputs
        w = _load(weight, 0, output, channel, 0, inputs, 1, known[:, None] & is_input[None, :])
        s = _load(student, sample, channel, position, sb, sc, sp, is_input[:, None] & seen[None, :])
        sums += product(w, s, UPCAST)
    inside = known[:, None] & seen[None, :]
    if HAS_BIAS:
        sums += tl.load(bias + output, mask=known, other=0.0)[:, None]
    sums -= load_tile(teacher, sample, output, position, tb, tc, tp, inside)
    store_tile(residual, sample, output, position, rb, rc, rp, inside, sums)
    total = tl.sum(tl.where(inside, sums * sums, 0.0))
    tile = tl.program_id(1) * tl.num_programs(2) + tl.program_id(2)
    tl.store(partials + sample * tl.num_programs(1) * tl.num_programs(2) + tile, total * scale)


@triton.jit
def _by_student_kernel(
    grad, residual, weight, gradient,  # [B], [B, Ct, P], [Ct, Cs], [B, Cs, P]
    inputs, outputs, positions, rb, rc, rp, gb, gc, gp, scale,
    UPCAST: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_P: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    # W^T R, scaled.
    sample = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    position = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    is_input, seen = channel < inputs, position < positions
    sums = tl.zeros([BLOCK_I, BLOCK_P], tl.float32)
    for first in range(0, outputs, STEP):
        output = first + tl.arange(0, STEP)
        known = output < outputs
        w = _load(weight, 0, channel, output, 0, 1, inputs, is_input[:, None] & known[None, :])
        r = _load(residual, sample, output, position, rb, rc, rp, known[:, None] & seen[None, :])
        sums += product(w, r, UPCAST)
    sums *= tl.load(grad + sample) * scale
    store_tile(gradient, sample, channel, position, gb, gc, gp, is_input[:, None] & seen[None, :], sums)


@triton.jit
def _by_weight_kernel(
    grad, residual, student, partials, of_bias,  # [B], [B, Ct, P], [B, Cs, P], [parts, Ct, Cs], [parts, Ct]
    inputs, outputs, positions, steps, per_part, rb, rc, rp, sb, sc, sp, scale,
    HAS_BIAS: tl.constexpr, UPCAST: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    # R s^T over a part of all samples' positions. A sample has `steps` steps of positions, each of one factor.
    part = tl.program_id(2)
    output = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    channel = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    known, is_input = output < outputs, channel < inputs
    sums, sums_of_bias = tl.zeros([BLOCK_O, BLOCK_I], tl.float32), tl.zeros([BLOCK_O], tl.float32)
    for at in range(part * per_part, tl.minimum((part + 1) * per_part, steps)):
        sample, first = (at // tl.cdiv(positions, STEP)).to(tl.int64), at % tl.cdiv(positions, STEP) * STEP
        position = first + tl.arange(0, STEP)
        seen = position < positions
        r = _load(residual, sample, output, position, rb, rc, rp, known[:, None] & seen[None, :])
        s = _load(student, sample, position, channel, sb, sp, sc, seen[:, None] & is_input[None, :])
        factor = tl.load(grad + sample) * scale
        sums += product(r, s, UPCAST) * factor
        if HAS_BIAS:
            sums_of_bias += tl.sum(r.to(tl.float32), axis=1) * factor
    row = part.to(tl.int64) * outputs + output
    tl.store(partials + row[:, None] * inputs + channel[None, :], sums, mask=known[:, None] & is_input[None, :])
    if HAS_BIAS:
        tl.store(of_bias + row, sums_of_bias, mask=known & (tl.program_id(1) == 0))


def projected_mse_forward(
    student: Tensor, teacher: Tensor, weight: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and the residual `W s + b - t` in the student's dtype, `[B, Ct, P]`.

    The teacher's map is read once, the residual written once.

    Args:
        student: `[B, Cs, P]`.
        teacher: `[B, Ct, P]`.
        weight: `W`, `[Ct, Cs]`.
        bias: `b`, `[Ct]`.
    """
    batch, inputs, positions = student.shape
    outputs = teacher.shape[1]
    block_o, block_p = _side(outputs), _side(positions)
    grid = batch, triton.cdiv(outputs, block_o), triton.cdiv(positions, block_p)
    residual = torch.empty_like(teacher, dtype=student.dtype)
    partials = student.new_empty(batch, grid[1] * grid[2], dtype=torch.float32)
    weight = weight.to(student.dtype).contiguous()
    with device_of(student):
        _residual_kernel[grid](
            student, teacher, weight, weight if bias is None else bias.float().contiguous(), residual, partials, inputs,
            outputs, positions, *student.stride(), *teacher.stride(), *residual.stride(), 1 / (outputs * positions),
            HAS_BIAS=bias is not None, UPCAST=is_interpreted(), BLOCK_O=block_o, BLOCK_P=block_p,
            **_launch(block_o, block_p, is_float32=student.dtype == torch.float32),
        )  # fmt: skip
    return partials.sum(dim=1), residual


def projected_mse_backward(grad: Tensor, student: Tensor, weight: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of the student `[B, Cs, P]`, the weight `[Ct, Cs]` and, if there was one, the bias `[Ct]`.

    Args:
        grad: `[B]`.
        student: `[B, Cs, P]`.
        weight: `[Ct, Cs]`.
        rest: The bias, if there was one, and the residual.
    """
    if weight.numel() > LARGEST:
        return backward_in_torch(grad, student, weight, *rest)
    *bias, residual = rest
    by_student = _by_student(grad.contiguous(), student, weight.to(student.dtype).contiguous(), residual)
    return by_student, *_by_parameters(grad.contiguous(), student, residual, has_bias=bool(bias))


def _by_student(grad: Tensor, student: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    batch, inputs, positions = student.shape
    outputs = residual.shape[1]
    block_i, block_p, gradient = _side(inputs), _side(positions), torch.empty_like(student)
    with device_of(student):
        _by_student_kernel[(batch, triton.cdiv(inputs, block_i), triton.cdiv(positions, block_p))](
            grad, residual, weight, gradient, inputs, outputs, positions, *residual.stride(), *gradient.stride(),
            2 / (outputs * positions), UPCAST=is_interpreted(), BLOCK_I=block_i, BLOCK_P=block_p,
            **_launch(block_i, block_p, is_float32=student.dtype == torch.float32),
        )  # fmt: skip
    return gradient


def _by_parameters(grad: Tensor, student: Tensor, residual: Tensor, *, has_bias: bool) -> tuple[Tensor, ...]:
    batch, inputs, positions = student.shape
    outputs = residual.shape[1]
    block_o, block_i = _side(outputs), _side(inputs)
    launch = _launch(block_o, block_i, is_float32=student.dtype == torch.float32)
    tiles = triton.cdiv(outputs, block_o), triton.cdiv(inputs, block_i)
    steps = batch * triton.cdiv(positions, launch["STEP"])
    per_part = triton.cdiv(steps, min(steps, triton.cdiv(PROGRAMS, tiles[0] * tiles[1])))
    parts = triton.cdiv(steps, per_part)
    partials = student.new_empty(parts, outputs, inputs, dtype=torch.float32)
    of_bias = partials.new_empty(parts, outputs if has_bias else 0)
    with device_of(student):
        _by_weight_kernel[(*tiles, parts)](
            grad, residual, student, partials, of_bias, inputs, outputs, positions, steps, per_part, *residual.stride(),
            *student.stride(), 2 / (outputs * positions), HAS_BIAS=has_bias, UPCAST=is_interpreted(), BLOCK_O=block_o,
            BLOCK_I=block_i, **launch,
        )  # fmt: skip
    by_weight = partials.sum(dim=0)
    return (by_weight, of_bias.sum(dim=0)) if has_bias else (by_weight,)


def _side(size: int) -> int:
    """Return the side of a tile over so many channels or positions."""
    return max(LEAST, min(int(triton.next_power_of_2(size)), MOST))


def _launch(rows: int, columns: int, *, is_float32: bool) -> dict[str, Any]:
    """Return the terms of a product that are taken at once, and how a tile's program runs.

    The parts of a float32 take registers, so that there are fewer terms, and none are fetched ahead.
    """
    step, stages = (32, 1) if is_float32 else (64, 2)
    return {"STEP": step, "num_warps": 8 if 2 * rows * columns >= MOST * MOST else 4, "num_stages": stages}


def variants() -> Iterator[Variant]:
    """Yield every kernel in the configurations that launches pick."""
    for (student, teacher), sides in pairs(DTYPE_PAIRS, SIDES):
        mine, theirs, launch = f"*{student}", f"*{teacher}", _launch(*sides, is_float32=student == "fp32")
        constants = {"UPCAST": False, "STEP": launch.pop("STEP")}
        for has_bias in (False, True):
            tensors = {"student": mine, "teacher": theirs, "weight": mine, "bias": "*fp32", "residual": mine}
            signature = {**tensors, "partials": "*fp32", **_integers("s", "t", "r"), "scale": "fp32"}
            blocks = {**dict(zip(("BLOCK_O", "BLOCK_P"), sides, strict=True)), "HAS_BIAS": has_bias}
            yield Variant(_residual_kernel, signature, {**constants, **blocks}, **launch)
            if student == teacher:
                tensors = {"grad": "*fp32", "residual": mine, "student": mine, "partials": "*fp32", "of_bias": "*fp32"}
                signature = {**tensors, **_integers("r", "s"), "steps": "i32", "per_part": "i32", "scale": "fp32"}
                blocks = {**dict(zip(("BLOCK_O", "BLOCK_I"), sides, strict=True)), "HAS_BIAS": has_bias}
                yield Variant(_by_weight_kernel, signature, {**constants, **blocks}, **launch)
        if student == teacher:
            tensors = {"grad": "*fp32", "residual": mine, "weight": mine, "gradient": mine}
            signature = {**tensors, **_integers("r", "g"), "scale": "fp32"}
            blocks = dict(zip(("BLOCK_I", "BLOCK_P"), sides, strict=True))
            yield Variant(_by_student_kernel, signature, {**constants, **blocks}, **launch)


def _integers(*tensors: str) -> dict[str, str]:
    """Return the types of the sizes and of the strides of tensors, by their letters."""
    strides = (letter + dimension for letter, dimension in pairs(tensors, "bcp"))
    return dict.fromkeys(("inputs", "outputs", "positions", *strides), "i32")
