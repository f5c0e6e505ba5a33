"""Squared differences between a projection of the student's features and the teacher's: a product and its epilogue."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._dispatch import is_interpreted
from edgekd_kernels._torch.projection import projected_mse_backward
from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.tiles import load_tile, store_tile
from edgekd_kernels._triton.variants import DTYPE_PAIRS, Variant

__all__ = ["projected_mse_backward", "projected_mse_forward", "variants"]

EXACT = (64, 64, 16)
HALF = (64, 64, 32)


@triton.jit
def _residual_kernel(
    student, teacher, weight, bias, residual, partials,  # [B, Cs, P], [B, Ct, P], [Ct, Cs], [Ct], as t, [B, tiles]
    inputs, outputs, positions, sb, sc, sp, tb, tc, tp, rb, rc, rp, scale,
    HAS_BIAS: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    # W s + b - t, written once; its square is reduced in float32, before it is rounded.
    sample = tl.program_id(0).to(tl.int64)
    output = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    position = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    known, seen = output < outputs, position < positions
    product = tl.zeros([BLOCK_O, BLOCK_P], tl.float32)
    for first in range(0, inputs, BLOCK_I):
        channel = first + tl.arange(0, BLOCK_I)
        is_input = channel < inputs
        w = tl.load(
            weight + output[:, None].to(tl.int64) * inputs + channel[None, :],
            mask=known[:, None] & is_input[None, :],
            other=0.0,
        )
        s = tl.load(
            student + sample * sb + channel[:, None].to(tl.int64) * sc + position[None, :].to(tl.int64) * sp,
            mask=is_input[:, None] & seen[None, :],
            other=0.0,
        )
        if UPCAST:
            w, s = w.to(tl.float32), s.to(tl.float32)
        product = tl.dot(w, s, product, input_precision="ieee")
    inside = known[:, None] & seen[None, :]
    if HAS_BIAS:
        product += tl.load(bias + output, mask=known, other=0.0)[:, None]
    product -= load_tile(teacher, sample, output, position, tb, tc, tp, inside)
    store_tile(residual, sample, output, position, rb, rc, rp, inside, product)
    total = tl.sum(tl.where(inside, product * product, 0.0))
    tile = tl.program_id(1) * tl.num_programs(2) + tl.program_id(2)
    tl.store(partials + sample * tl.num_programs(1) * tl.num_programs(2) + tile, total * scale)


def projected_mse_forward(
    student: Tensor, teacher: Tensor, weight: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and the residual `W s + b - t` in the student's dtype, `[B, Ct, P]`.

    The teacher's map is read once, the residual written once. Backward is two products and is left to torch.

    Args:
        student: `[B, Cs, P]`.
        teacher: `[B, Ct, P]`.
        weight: `W`, `[Ct, Cs]`.
        bias: `b`, `[Ct]`.
    """
    batch, inputs, positions = student.shape
    outputs = teacher.shape[1]
    blocks = _blocks(student)
    grid = batch, triton.cdiv(outputs, blocks["BLOCK_O"]), triton.cdiv(positions, blocks["BLOCK_P"])
    residual = torch.empty_like(teacher, dtype=student.dtype)
    partials = student.new_empty(batch, grid[1] * grid[2], dtype=torch.float32)
    weight = weight.to(student.dtype).contiguous()
    with device_of(student):
        _residual_kernel[grid](
            student, teacher, weight, weight if bias is None else bias.float().contiguous(), residual, partials, inputs,
            outputs, positions, *student.stride(), *teacher.stride(), *residual.stride(), 1 / (outputs * positions),
            HAS_BIAS=bias is not None, UPCAST=is_interpreted(), **blocks, num_warps=4,
        )  # fmt: skip
    return partials.sum(dim=1), residual


def _blocks(student: Tensor) -> dict[str, int]:
    """Return a program's outputs, positions and the inputs of one step."""
    sizes = EXACT if student.dtype == torch.float32 else HALF  # exact products take no tensor cores and more registers
    return dict(zip(("BLOCK_O", "BLOCK_P", "BLOCK_I"), sizes, strict=True))


def variants() -> Iterator[Variant]:
    """Yield every kernel in the configurations that launches pick."""
    sizes = ("inputs", "outputs", "positions", "sb", "sc", "sp", "tb", "tc", "tp", "rb", "rc", "rp")
    for student, teacher in DTYPE_PAIRS:
        blocks = EXACT if student == "fp32" else HALF
        for has_bias in (False, True):
            signature = {
                "student": f"*{student}", "teacher": f"*{teacher}", "weight": f"*{student}", "bias": "*fp32",
                "residual": f"*{student}", "partials": "*fp32", **dict.fromkeys(sizes, "i32"), "scale": "fp32",
            }  # fmt: skip
            constants = dict(zip(("BLOCK_O", "BLOCK_P", "BLOCK_I"), blocks, strict=True))
            yield Variant(_residual_kernel, signature, {**constants, "HAS_BIAS": has_bias, "UPCAST": False})
