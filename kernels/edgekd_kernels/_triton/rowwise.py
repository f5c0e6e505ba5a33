"""Losses on rows: softmax over classes or positions.

The value is `sum p (log p - log q)` of two log-softmaxes, the gradient `T (q - p)`; backward computes the softmaxes
again from the logits. Bytes: both tensors read in either direction, the gradient written once.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.rows import (
    FILL,
    Tiling,
    load_logits,
    log_softmax_tile,
    store_tile,
    tiling_of,
    tilings,
    widen_softmax,
)
from edgekd_kernels._triton.variants import DTYPE_PAIRS, Variant


@triton.jit
def _normalisers(
    student, teacher, row, rows, columns, sr, sk, tr, tk, inverse_temperature,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    largest_s, largest_t = tl.full((ROWS,), FILL, tl.float32), tl.full((ROWS,), FILL, tl.float32)
    total_s, total_t = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK).to(tl.int64)
        s = load_logits(student, row, column, sr, sk, rows, columns, inverse_temperature)
        t = load_logits(teacher, row, column, tr, tk, rows, columns, inverse_temperature)
        largest_s, total_s = widen_softmax(largest_s, total_s, s)
        largest_t, total_t = widen_softmax(largest_t, total_t, t)
    return largest_s, tl.log(total_s), largest_t, tl.log(total_t)


@triton.jit
def _divergence(
    student, teacher, row, rows, columns, sr, sk, tr, tk, inverse_temperature,
    largest_s, log_s, largest_t, log_t, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    divergence = tl.zeros((ROWS,), tl.float32)
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK).to(tl.int64)
        s = load_logits(student, row, column, sr, sk, rows, columns, inverse_temperature)
        t = load_logits(teacher, row, column, tr, tk, rows, columns, inverse_temperature)
        log_q, log_p = (s - largest_s[:, None]) - log_s[:, None], (t - largest_t[:, None]) - log_t[:, None]
        divergence += tl.sum(tl.exp(log_p) * (log_p - log_q), axis=1)
    return divergence


@triton.jit
def _kl_forward_kernel(
    student, teacher, values,  # [outer, rows, columns] twice; [rows], or [outer, tiles] of the sums over a tile's rows
    tiles, rows, columns, so, sr, sk, to, tr, tk, inverse_temperature, scale,
    IS_PER_ROW: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, IS_BLOCKED: tl.constexpr,
):  # fmt: skip
    # Both log-softmaxes are formed before they are subtracted: the one-pass identity cancels where s is near t.
    program = tl.program_id(0).to(tl.int64)
    row = program % tiles * ROWS + tl.arange(0, ROWS)
    student += program // tiles * so
    teacher += program // tiles * to
    if IS_BLOCKED:
        largest_s, log_s, largest_t, log_t = _normalisers(
            student, teacher, row, rows, columns, sr, sk, tr, tk, inverse_temperature, ROWS, BLOCK
        )
        divergence = _divergence(
            student, teacher, row, rows, columns, sr, sk, tr, tk, inverse_temperature,
            largest_s, log_s, largest_t, log_t, ROWS, BLOCK,
        )  # fmt: skip
    else:
        column = tl.arange(0, BLOCK).to(tl.int64)
        log_q = log_softmax_tile(load_logits(student, row, column, sr, sk, rows, columns, inverse_temperature))
        log_p = log_softmax_tile(load_logits(teacher, row, column, tr, tk, rows, columns, inverse_temperature))
        divergence = tl.sum(tl.exp(log_p) * (log_p - log_q), axis=1)
    if IS_PER_ROW:
        tl.store(values + row, divergence * scale, mask=row < rows)
    else:
        tl.store(values + program, tl.sum(divergence, axis=0) * scale)


@triton.jit
def _kl_backward_kernel(
    grad, student, teacher, gradient, its_gradient,  # [outer] or [rows], four times [outer, rows, columns]
    tiles, rows, columns, go, gr, so, sr, sk, to, tr, tk, do, dr, dk, eo, er, ek, inverse_temperature, scale,
    IS_MUTUAL: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, IS_BLOCKED: tl.constexpr,
):  # fmt: skip
    # ds = T (q - p) and, if the teacher learns too, dt = T p (log p - log q - KL).
    program = tl.program_id(0).to(tl.int64)
    outer, row = program // tiles, program % tiles * ROWS + tl.arange(0, ROWS)
    student += outer * so
    teacher += outer * to
    gradient += outer * do
    its_gradient += outer * eo
    upstream = scale * tl.load(grad + outer * go + row * gr, mask=row < rows, other=0.0).to(tl.float32)[:, None]
    if IS_BLOCKED:
        largest_s, log_s, largest_t, log_t = _normalisers(
            student, teacher, row, rows, columns, sr, sk, tr, tk, inverse_temperature, ROWS, BLOCK
        )
        if IS_MUTUAL:
            divergence = _divergence(
                student, teacher, row, rows, columns, sr, sk, tr, tk, inverse_temperature,
                largest_s, log_s, largest_t, log_t, ROWS, BLOCK,
            )  # fmt: skip
        for start in range(0, columns, BLOCK):
            column = start + tl.arange(0, BLOCK).to(tl.int64)
            s = load_logits(student, row, column, sr, sk, rows, columns, inverse_temperature)
            t = load_logits(teacher, row, column, tr, tk, rows, columns, inverse_temperature)
            log_q, log_p = (s - largest_s[:, None]) - log_s[:, None], (t - largest_t[:, None]) - log_t[:, None]
            p = tl.exp(log_p)
            store_tile(gradient, (tl.exp(log_q) - p) * upstream, row, column, dr, dk, rows, columns)
            if IS_MUTUAL:
                its = p * (log_p - log_q - divergence[:, None]) * upstream
                store_tile(its_gradient, its, row, column, er, ek, rows, columns)
    else:
        column = tl.arange(0, BLOCK).to(tl.int64)
        log_q = log_softmax_tile(load_logits(student, row, column, sr, sk, rows, columns, inverse_temperature))
        log_p = log_softmax_tile(load_logits(teacher, row, column, tr, tk, rows, columns, inverse_temperature))
        p = tl.exp(log_p)
        store_tile(gradient, (tl.exp(log_q) - p) * upstream, row, column, dr, dk, rows, columns)
        if IS_MUTUAL:
            divergence = tl.sum(p * (log_p - log_q), axis=1)
            its = p * (log_p - log_q - divergence[:, None]) * upstream
            store_tile(its_gradient, its, row, column, er, ek, rows, columns)


def kd_kl_forward(student: Tensor, teacher: Tensor, *, temperature: float, is_spatial: bool) -> tuple[Tensor]:
    """Return the values `[B]`.

    Args:
        student: `[B, K, ...]`, rows along dimension 1, or `[B, C, ...]`, rows along all dimensions but the first two.
        teacher: The same shape.
        temperature: Softens both sides.
        is_spatial: Whether rows are the positions of a channel.
    """
    mine, theirs = as_rows(student, is_spatial), as_rows(teacher, is_spatial)
    outer, rows, columns = mine.shape
    tiling = tiling_of(mine)
    tiles = triton.cdiv(rows, tiling.rows)
    is_per_row = student.dim() == 2
    values = mine.new_empty(rows if is_per_row else (outer, tiles), dtype=torch.float32)
    with device_of(student):
        _kl_forward_kernel[(outer * tiles,)](
            mine, theirs, values, tiles, rows, columns, *mine.stride(), *theirs.stride(), 1 / temperature,
            temperature**2 / (1 if is_per_row else rows), IS_PER_ROW=is_per_row, num_warps=tiling.num_warps,
            **tiling.constants,
        )  # fmt: skip
    if is_per_row:
        return (values,)
    return (values.sum(dim=1) if tiles > 1 else values.view(outer),)


def kd_kl_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, *, temperature: float, is_spatial: bool
) -> tuple[Tensor]:
    """Return the student's gradient; each tensor is read once, from memory at least."""
    gradient, _ = _gradients(grad, student, teacher, temperature, is_spatial=is_spatial, is_mutual=False)
    return (gradient,)


def branch_kl_forward(student: Tensor, teacher: Tensor, *, temperature: float) -> tuple[Tensor]:
    """Return the values `[B]`, those of `kd_kl`."""
    return kd_kl_forward(student, teacher, temperature=temperature, is_spatial=False)


def branch_kl_backward(grad: Tensor, student: Tensor, teacher: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the gradients of both sides, from one pass."""
    return _gradients(grad, student, teacher, temperature, is_spatial=False, is_mutual=True)


def as_rows(tensor: Tensor, is_spatial: bool) -> Tensor:
    """Return a tensor as `[outer, rows, columns]`, without a copy where strides allow."""
    if tensor.dim() == 2:
        return tensor.unsqueeze(0)
    return tensor.flatten(2) if is_spatial else tensor.flatten(2).transpose(1, 2)


def _gradients(
    grad: Tensor, student: Tensor, teacher: Tensor, temperature: float, *, is_spatial: bool, is_mutual: bool
) -> tuple[Tensor, Tensor]:
    mine, theirs = as_rows(student, is_spatial), as_rows(teacher, is_spatial)
    outer, rows, columns = mine.shape
    tiling = tiling_of(mine)
    tiles = triton.cdiv(rows, tiling.rows)
    gradient = torch.empty_like(mine)
    its_gradient = torch.empty_like(theirs) if is_mutual else gradient
    is_per_row = student.dim() == 2
    (step,) = grad.stride()
    with device_of(student):
        _kl_backward_kernel[(outer * tiles,)](
            grad, mine, theirs, gradient, its_gradient, tiles, rows, columns, *((0, step) if is_per_row else (step, 0)),
            *mine.stride(), *theirs.stride(), *gradient.stride(), *its_gradient.stride(), 1 / temperature,
            temperature / (1 if is_per_row else rows), IS_MUTUAL=is_mutual, num_warps=tiling.num_warps,
            **tiling.constants,
        )  # fmt: skip
    found = ((rows if is_spatial or is_per_row else rows.transpose(1, 2)) for rows in (gradient, its_gradient))
    first, second = (rows.reshape(student.shape) for rows in found)
    return first, second


def variants() -> Iterator[Variant]:
    """Yield every kernel in the configurations that launches pick."""
    for (student, teacher), (tiling, along) in product(DTYPE_PAIRS, tilings()):
        pointers = {"student": f"*{student}", "teacher": f"*{teacher}"}
        yield _variant(_kl_forward_kernel, {**pointers, "values": "*fp32"}, tiling, along, {"IS_PER_ROW": False})
        for is_mutual in (False, True):
            gradients = {"gradient": f"*{student}", "its_gradient": f"*{teacher if is_mutual else student}"}
            arguments = {"grad": "*fp32", **pointers, **gradients}
            yield _variant(_kl_backward_kernel, arguments, tiling, along, {"IS_MUTUAL": is_mutual})


def _variant(
    kernel: triton.JITFunction, pointers: dict[str, str], tiling: Tiling, along: str, constants: dict[str, bool]
) -> Variant:
    """Return a kernel for tensors that are adjacent along rows or columns, which Triton knows from strides of 1."""
    unit = {f"{tensor}{'k' if along == 'columns' else 'r'}": 1 for tensor in "stde"}
    numbers = dict.fromkeys(("inverse_temperature", "scale"), "fp32")
    names = [name for name in kernel.arg_names if name.islower() and name not in pointers]
    signature = {**pointers, **{name: numbers.get(name, "i32") for name in names if name not in unit}}
    present = {name: value for name, value in unit.items() if name in names}
    return Variant(kernel, signature, {**present, **constants, **tiling.constants}, num_warps=tiling.num_warps)
