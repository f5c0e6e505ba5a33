"""Losses on rows: softmax over classes or positions. One program holds a block of rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.variants import DTYPE_PAIRS, Variant

MAX_BLOCK = 4096


@triton.jit
def _kd_kl_forward_kernel(
    student, teacher, losses, log_q, log_p,  # [B, R, K] twice, [B, R] three times
    per_sample, columns, sb, sr, sk, tb, tr, tk, inverse_temperature,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # KL = sum p (log p - log q), both from log-softmaxes: their one-pass difference cancels where s is near t.
    row = tl.program_id(0).to(tl.int64)
    sample, within = row // per_sample, row % per_sample
    column = tl.arange(0, BLOCK).to(tl.int64)
    inside = column < columns
    s = tl.load(student + sample * sb + within * sr + column * sk, mask=inside, other=0.0).to(tl.float32)
    t = tl.load(teacher + sample * tb + within * tr + column * tk, mask=inside, other=0.0).to(tl.float32)
    s, t = s * inverse_temperature, t * inverse_temperature
    largest_s = tl.max(tl.where(inside, s, -1e38), axis=0)
    largest_t = tl.max(tl.where(inside, t, -1e38), axis=0)
    total_s = largest_s + tl.log(tl.sum(tl.where(inside, tl.exp(s - largest_s), 0.0), axis=0))
    total_t = largest_t + tl.log(tl.sum(tl.where(inside, tl.exp(t - largest_t), 0.0), axis=0))
    difference = tl.exp(t - total_t) * ((t - total_t) - (s - total_s))
    tl.store(losses + row, tl.sum(tl.where(inside, difference, 0.0), axis=0))
    tl.store(log_q + row, total_s)
    tl.store(log_p + row, total_t)


@triton.jit
def _kd_kl_backward_kernel(
    grad, student, teacher, log_q, log_p, gradient,  # [B], [B, R, K] twice, [B, R] twice, [B, R, K]
    per_sample, columns, sb, sr, sk, tb, tr, tk, gb, gr, gk, inverse_temperature, scale,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    sample, within = row // per_sample, row % per_sample
    column = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    s = tl.load(student + sample * sb + within * sr + column * sk, mask=inside, other=0.0).to(tl.float32)
    t = tl.load(teacher + sample * tb + within * tr + column * tk, mask=inside, other=0.0).to(tl.float32)
    q = tl.exp(s * inverse_temperature - tl.load(log_q + row))
    p = tl.exp(t * inverse_temperature - tl.load(log_p + row))
    result = (q - p) * (scale * tl.load(grad + sample))
    tl.store(gradient + sample * gb + within * gr + column * gk, result.to(gradient.dtype.element_ty), mask=inside)


def kd_kl_forward(student: Tensor, teacher: Tensor, *, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values `[B]` and both sides' log normalisers at the temperature, `[B, R]`.

    Args:
        student: `[B, R, K]`, rows along the last dimension.
        teacher: The same shape.
        temperature: Softens both sides.
    """
    batch, per_sample, columns = student.shape
    losses, log_q, log_p = (student.new_empty(batch, per_sample, dtype=torch.float32) for _ in range(3))
    block = triton.next_power_of_2(columns)
    with device_of(student):
        _kd_kl_forward_kernel[(batch * per_sample,)](
            student, teacher, losses, log_q, log_p, per_sample, columns, *student.stride(), *teacher.stride(),
            1 / temperature, BLOCK=block, num_warps=warps(block),
        )  # fmt: skip
    return losses.mean(dim=1) * temperature**2, log_q, log_p


def kd_kl_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, log_q: Tensor, log_p: Tensor, *, temperature: float
) -> tuple[Tensor]:
    """Return `T/R (q - p)` times the gradient, `[B, R, K]`; read once, written once."""
    batch, per_sample, columns = student.shape
    gradient = torch.empty_like(student)
    block = min(1024, triton.next_power_of_2(columns))
    with device_of(student):
        _kd_kl_backward_kernel[(batch * per_sample, triton.cdiv(columns, block))](
            grad.contiguous(), student, teacher, log_q, log_p, gradient, per_sample, columns, *student.stride(),
            *teacher.stride(), *gradient.stride(), 1 / temperature, temperature / per_sample, BLOCK=block,
            num_warps=warps(block),
        )  # fmt: skip
    return (gradient,)


def warps(block: int) -> int:
    """Return the warps for a row of a block's length: about 16 elements a thread at most."""
    return max(1, min(8, block // 512))


def variants() -> Iterator[Variant]:
    """Yield every kernel in the configurations that launches pick."""
    strides = dict.fromkeys(("per_sample", "columns", "sb", "sr", "sk", "tb", "tr", "tk"), "i32")
    for (student, teacher), block in product(DTYPE_PAIRS, (128, 1024, MAX_BLOCK)):
        pointers = {"student": f"*{student}", "teacher": f"*{teacher}"}
        rows = dict.fromkeys(("losses", "log_q", "log_p"), "*fp32")
        yield Variant(
            _kd_kl_forward_kernel,
            {**pointers, **rows, **strides, "inverse_temperature": "fp32"},
            {"BLOCK": block},
            num_warps=warps(block),
        )
        if block <= 1024:
            yield Variant(
                _kd_kl_backward_kernel,
                {
                    "grad": "*fp32", **pointers, "log_q": "*fp32", "log_p": "*fp32", "gradient": f"*{student}",
                    **strides, **dict.fromkeys(("gb", "gr", "gk"), "i32"), "inverse_temperature": "fp32",
                    "scale": "fp32",
                },
                {"BLOCK": block},
                num_warps=warps(block),
            )  # fmt: skip
