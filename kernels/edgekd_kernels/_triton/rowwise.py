"""Losses on rows: softmax over classes or positions.

The value is `sum p (log p - log q)` of two log-softmaxes, the gradient `T (q - p)`. A program takes a tile of some rows
or, of long rows, of a part; what parts leave a last small kernel joins. Forward keeps the normalisers of each row, so
that backward takes tiles that need nothing from each other. Bytes: both tensors read once in either direction, the
gradient written once.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.parts import (
    joining_of,
    joinings,
    load_parts,
    load_softmax,
    load_statistic,
    place_of_tile,
    store_statistic,
)
from edgekd_kernels._triton.rows import (
    FILL,
    Tiling,
    load_logits,
    part_of,
    softmax_tile,
    store_tile,
    tiling_of,
    tilings,
)
from edgekd_kernels._triton.variants import DTYPE_PAIRS, Variant


@triton.jit
def _kl_forward_kernel(
    student, teacher,  # [outer, rows, columns]
    values, statistics,  # [rows] or [outer, tiles], [5, outer, parts, rows]
    tiles, parts, rows, columns, side, so, sr, sk, to, tr, tk, inverse_temperature, scale,
    IS_PER_ROW: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, IS_BLOCKED: tl.constexpr,
):  # fmt: skip
    # Both log-softmaxes are formed before they are subtracted: the one-pass identity cancels where s is near t.
    program = tl.program_id(0)
    outer, tile, part = place_of_tile(program, tiles, parts)
    row, column = tile * ROWS + tl.arange(0, ROWS), part * BLOCK + tl.arange(0, BLOCK)
    s = load_logits(student + outer * so, row, column, sr, sk, rows, columns, inverse_temperature)
    largest_s, total_s, log_s, log_q = softmax_tile(s)
    t = load_logits(teacher + outer * to, row, column, tr, tk, rows, columns, inverse_temperature)
    largest_t, total_t, log_t, log_p = softmax_tile(t)
    divergence = tl.sum(tl.exp(log_p) * (log_p - log_q), axis=1)
    statistics += (outer * parts + part) * rows
    if IS_BLOCKED:
        _store_row(statistics, side, row, rows, largest_s, total_s, largest_t, total_t, divergence)
    else:
        _store_row(statistics, side, row, rows, largest_s, log_s, largest_t, log_t, divergence)
        if IS_PER_ROW:
            tl.store(values + row, divergence * scale, mask=row < rows)
        else:
            tl.store(values + program, tl.sum(divergence, axis=0) * scale)


@triton.jit
def _store_row(statistics, side, row, rows, largest_s, norm_s, largest_t, norm_t, divergence):
    store_statistic(statistics, 0, side, row, rows, largest_s)
    store_statistic(statistics, 1, side, row, rows, norm_s)
    store_statistic(statistics, 2, side, row, rows, largest_t)
    store_statistic(statistics, 3, side, row, rows, norm_t)
    store_statistic(statistics, 4, side, row, rows, divergence)


@triton.jit
def _kl_join_kernel(
    of_parts, values, statistics,  # [5, outer, parts, rows], [rows] or [outer, tiles], [5, outer, rows]
    tiles, parts, rows, side_of_parts, side, scale,
    IS_PER_ROW: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    outer, tile, _ = place_of_tile(program, tiles, 1)
    row = tile * ROWS + tl.arange(0, ROWS)
    of_parts += outer * parts * rows
    largest_s, largest_t = tl.full((ROWS,), FILL, tl.float32), tl.full((ROWS,), FILL, tl.float32)
    total_s, total_t = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for first in range(0, parts, PARTS):
        part = first + tl.arange(0, PARTS).to(tl.int64)
        s, s_total = load_softmax(of_parts, 0, side_of_parts, row, part, rows, parts)
        t, t_total = load_softmax(of_parts, 2, side_of_parts, row, part, rows, parts)
        largest_s, total_s = _widen(largest_s, total_s, s, s_total)
        largest_t, total_t = _widen(largest_t, total_t, t, t_total)
    log_s, log_t = tl.log(total_s), tl.log(total_t)
    divergence = tl.zeros((ROWS,), tl.float32)
    for first in range(0, parts, PARTS):
        part = first + tl.arange(0, PARTS).to(tl.int64)
        s, s_total = load_softmax(of_parts, 0, side_of_parts, row, part, rows, parts)
        t, t_total = load_softmax(of_parts, 2, side_of_parts, row, part, rows, parts)
        log_q = (s - largest_s[:, None]) + (tl.log(s_total) - log_s[:, None])
        log_p = (t - largest_t[:, None]) + (tl.log(t_total) - log_t[:, None])
        inside = load_parts(of_parts, 4, side_of_parts, row, part, rows, parts, 0.0)
        divergence += tl.sum(tl.exp(log_p) * (inside + (log_p - log_q)), axis=1)
    _store_row(statistics + outer * rows, side, row, rows, largest_s, log_s, largest_t, log_t, divergence)
    if IS_PER_ROW:
        tl.store(values + row, divergence * scale, mask=row < rows)
    else:
        tl.store(values + program, tl.sum(divergence, axis=0) * scale)


@triton.jit
def _widen(largest, total, part_largest, part_total):
    """Return the largest value of a row and its sum of exponentials, less the largest, after some more parts."""
    larger = tl.maximum(largest, tl.max(part_largest, axis=1))
    grown = total * tl.exp(largest - larger) + tl.sum(part_total * tl.exp(part_largest - larger[:, None]), axis=1)
    return larger, grown


@triton.jit
def _kl_backward_kernel(
    grad, student, teacher, statistics, gradient, its_gradient,  # [outer] or [rows], as forward, [outer, rows, columns]
    tiles, parts, rows, columns, side, go, gr, so, sr, sk, to, tr, tk, do, dr, dk, eo, er, ek,
    inverse_temperature, scale,
    IS_MUTUAL: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # ds = T (q - p) and, if the teacher learns too, dt = T p (log p - log q - KL). Forward's last tiles come first:
    # they are the likeliest to be in the cache.
    outer, tile, part = place_of_tile(tl.num_programs(0) - 1 - tl.program_id(0), tiles, parts)
    row, column = tile * ROWS + tl.arange(0, ROWS), part * BLOCK + tl.arange(0, BLOCK)
    statistics += outer * rows
    upstream = scale * tl.load(grad + outer * go + row * gr, mask=row < rows, other=0.0).to(tl.float32)[:, None]
    largest_s, log_s = load_statistic(statistics, 0, side, row, rows), load_statistic(statistics, 1, side, row, rows)
    largest_t, log_t = load_statistic(statistics, 2, side, row, rows), load_statistic(statistics, 3, side, row, rows)
    s = load_logits(student + outer * so, row, column, sr, sk, rows, columns, inverse_temperature)
    t = load_logits(teacher + outer * to, row, column, tr, tk, rows, columns, inverse_temperature)
    log_q, log_p = (s - largest_s[:, None]) - log_s[:, None], (t - largest_t[:, None]) - log_t[:, None]
    p = tl.exp(log_p)
    result = (tl.exp(log_q) - p) * upstream
    store_tile(gradient + outer * do, result, row, column, dr, dk, rows, columns)
    if IS_MUTUAL:
        divergence = load_statistic(statistics, 4, side, row, rows)
        its = p * (log_p - log_q - divergence[:, None]) * upstream
        store_tile(its_gradient + outer * eo, its, row, column, er, ek, rows, columns)


def kd_kl_forward(student: Tensor, teacher: Tensor, *, temperature: float, is_spatial: bool) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and what backward needs of each row, `[5, outer, rows]`.

    That is the largest value and the log of the sum of exponentials less it, of the student and of the teacher, at the
    temperature; and the divergence.

    Args:
        student: `[B, K, ...]`, rows along dimension 1, or `[B, C, ...]`, rows along all dimensions but the first two.
        teacher: The same shape.
        temperature: Softens both sides.
        is_spatial: Whether rows are the positions of a channel.
    """
    mine, theirs = as_rows(student, is_spatial), as_rows(teacher, is_spatial)
    outer, rows, columns = mine.shape
    tiling = part_of(tiling_of(mine))
    tiles, parts = triton.cdiv(rows, tiling.rows), tiling.parts(columns)
    joining = joining_of(parts, outer * rows)
    sums = triton.cdiv(rows, joining.rows) if tiling.is_blocked else tiles
    is_per_row = student.dim() == 2
    scale = temperature**2 / (1 if is_per_row else rows)
    values = mine.new_empty(rows if is_per_row else (outer, sums), dtype=torch.float32)
    statistics = mine.new_empty((5, outer, rows), dtype=torch.float32)
    of_parts = mine.new_empty((5, outer, parts, rows), dtype=torch.float32) if tiling.is_blocked else statistics
    with device_of(student):
        _kl_forward_kernel[(outer * tiles * parts,)](
            mine, theirs, values, of_parts, tiles, parts, rows, columns, outer * parts * rows, *mine.stride(),
            *theirs.stride(), 1 / temperature, scale, IS_PER_ROW=is_per_row, num_warps=tiling.num_warps,
            **tiling.constants,
        )  # fmt: skip
        if tiling.is_blocked:
            _kl_join_kernel[(outer * sums,)](
                of_parts, values, statistics, sums, parts, rows, outer * parts * rows, outer * rows, scale,
                IS_PER_ROW=is_per_row, **joining.constants,
            )  # fmt: skip
    if is_per_row:
        return values, statistics
    return (values.sum(dim=1) if sums > 1 else values.view(outer)), statistics


def kd_kl_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, statistics: Tensor, *, temperature: float, is_spatial: bool
) -> tuple[Tensor]:
    """Return the student's gradient; each tensor is read once."""
    gradient, _ = _gradients(grad, student, teacher, statistics, temperature, is_spatial=is_spatial, is_mutual=False)
    return (gradient,)


def branch_kl_forward(student: Tensor, teacher: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and what backward needs of each row, those of `kd_kl`."""
    return kd_kl_forward(student, teacher, temperature=temperature, is_spatial=False)


def branch_kl_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, statistics: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the gradients of both sides, from one pass."""
    return _gradients(grad, student, teacher, statistics, temperature, is_spatial=False, is_mutual=True)


def as_rows(tensor: Tensor, is_spatial: bool) -> Tensor:
    """Return a tensor as `[outer, rows, columns]`, without a copy where strides allow."""
    if tensor.dim() == 2:
        return tensor.unsqueeze(0)
    return tensor.flatten(2) if is_spatial else tensor.flatten(2).transpose(1, 2)


def _gradients(
    grad: Tensor, student: Tensor, teacher: Tensor, statistics: Tensor, temperature: float, *, is_spatial: bool,
    is_mutual: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    mine, theirs = as_rows(student, is_spatial), as_rows(teacher, is_spatial)
    outer, rows, columns = mine.shape
    tiling = part_of(tiling_of(mine))
    tiles, parts = triton.cdiv(rows, tiling.rows), tiling.parts(columns)
    gradient = torch.empty_like(mine)
    its_gradient = torch.empty_like(theirs) if is_mutual else gradient
    is_per_row = student.dim() == 2
    (step,) = grad.stride()
    with device_of(student):
        _kl_backward_kernel[(outer * tiles * parts,)](
            grad, mine, theirs, statistics, gradient, its_gradient, tiles, parts, rows, columns, outer * rows,
            *((0, step) if is_per_row else (step, 0)), *mine.stride(), *theirs.stride(), *gradient.stride(),
            *its_gradient.stride(), 1 / temperature, temperature / (1 if is_per_row else rows), IS_MUTUAL=is_mutual,
            ROWS=tiling.rows, BLOCK=tiling.block, num_warps=tiling.num_warps,
        )  # fmt: skip
    found = ((rows if is_spatial or is_per_row else rows.transpose(1, 2)) for rows in (gradient, its_gradient))
    first, second = (rows.reshape(student.shape) for rows in found)
    return first, second


def variants() -> Iterator[Variant]:
    """Yield every kernel in the configurations that launches pick."""
    floats = {"statistics": "*fp32", "values": "*fp32"}
    tiles = [(part_of(tiling), along) for tiling, along in tilings()]
    for (student, teacher), (tiling, along) in product(DTYPE_PAIRS, tiles):
        pointers = {"student": f"*{student}", "teacher": f"*{teacher}"}
        yield _variant(_kl_forward_kernel, pointers | floats, tiling, along, {"IS_PER_ROW": False, **tiling.constants})
        for is_mutual in (False, True):
            gradients = {"gradient": f"*{student}", "its_gradient": f"*{teacher if is_mutual else student}"}
            arguments = {"grad": "*fp32", **pointers, "statistics": "*fp32", **gradients}
            constants = {"IS_MUTUAL": is_mutual, "ROWS": tiling.rows, "BLOCK": tiling.block}
            yield _variant(_kl_backward_kernel, arguments, tiling, along, constants)
    for joining, is_per_row in product(joinings(), (False, True)):
        names = [name for name in _kl_join_kernel.arg_names if name.islower()]
        signature = {**dict.fromkeys(names, "i32"), **floats, "of_parts": "*fp32", "scale": "fp32"}
        yield Variant(_kl_join_kernel, signature, {"IS_PER_ROW": is_per_row, **joining.constants})


def _variant(
    kernel: triton.JITFunction, pointers: dict[str, str], tiling: Tiling, along: str, constants: dict[str, int | bool]
) -> Variant:
    """Return a kernel for tensors that are adjacent along rows or columns, which Triton knows from strides of 1."""
    unit = {f"{tensor}{'k' if along == 'columns' else 'r'}": 1 for tensor in "stde"}
    numbers = dict.fromkeys(("inverse_temperature", "scale"), "fp32")
    names = [name for name in kernel.arg_names if name.islower() and name not in pointers]
    signature = {**pointers, **{name: numbers.get(name, "i32") for name in names if name not in unit}}
    present = {name: value for name, value in unit.items() if name in names}
    return Variant(kernel, signature, {**present, **constants}, num_warps=tiling.num_warps)
