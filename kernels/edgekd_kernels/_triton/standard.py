"""Distillation between standard scores of logits: one kernel each way.

With `y = (s - mean) / (std T)` and `x` the teacher's, the value is `T^2 (sum p (x - y) - log Z_t + log Z_s)`: scores
have mean 0, so nothing large is subtracted, and the logarithm of `Z_t / Z_s` is taken at once. The gradient is
`T / std ((q - p) - z mean((q - p) z))`. Forward keeps seven numbers of each row, with which backward reads both tensors
once and writes the gradient, in tiles that need nothing from each other. Rows longer than a block are read twice in
forward, the second time from the cache; lanes keep sums of their own, reduced at the end of the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._standard import ROUNDINGS
from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.rows import FILL, Tiling, load_tile, store_tile, tiling_of, tilings
from edgekd_kernels._triton.variants import DTYPE_PAIRS, Variant

ROUNDING = tl.constexpr(ROUNDINGS * torch.finfo(torch.float32).eps)


@triton.jit
def _moments(tile, shift, inside):
    """Return of a tile's elements the differences from a shift, their squares, and the elements for their largest."""
    centred = tl.where(inside, tile - shift[:, None], 0.0)
    return centred, centred * centred, tl.where(inside, tile, FILL)


@triton.jit
def _standardise(shift, total, squares, highest, columns, inverse_temperature):
    """Return of rows the mean, what a difference from it is multiplied by (0 in a flat row), and the largest score."""
    away, largest = tl.sum(total, axis=1) / columns, tl.max(highest, axis=1)
    variance = tl.sum(squares, axis=1) / columns - away * away
    rounding = ROUNDING * tl.abs(largest)  # where a row is flat, its largest magnitude is about that of any element
    is_flat = variance <= rounding * rounding
    mean = shift + away
    scale = tl.where(is_flat, 0.0, inverse_temperature / tl.sqrt_rn(tl.where(is_flat, 1.0, variance)))
    return mean, scale, (largest - mean) * scale


@triton.jit
def _scores(tile, mean, scale, inside):
    return tl.where(inside, (tile - mean[:, None]) * scale[:, None], FILL)


@triton.jit
def _terms(y, x, top_s, top_t):
    """Return what both sides' normalisers, `sum p (x - y)`, `sum q y` and `sum p y` are sums of, less the largest."""
    of_s, of_t = tl.exp(y - top_s[:, None]), tl.exp(x - top_t[:, None])
    return of_s, of_t, of_t * (x - y), of_s * y, of_t * y


@triton.jit
def _blocked_moments(
    student, teacher, row, rows, columns, sr, sk, tr, tk, inverse_temperature,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK).to(tl.int64)
    shift_s = tl.sum(load_tile(student, row, column, sr, sk, rows, columns), axis=1) / BLOCK
    shift_t = tl.sum(load_tile(teacher, row, column, tr, tk, rows, columns), axis=1) / BLOCK
    total_s, squares_s = tl.zeros((ROWS, BLOCK), tl.float32), tl.zeros((ROWS, BLOCK), tl.float32)
    total_t, squares_t = tl.zeros((ROWS, BLOCK), tl.float32), tl.zeros((ROWS, BLOCK), tl.float32)
    highest_s, highest_t = tl.full((ROWS, BLOCK), FILL, tl.float32), tl.full((ROWS, BLOCK), FILL, tl.float32)
    for start in range(0, columns, BLOCK):
        inside = (start + column < columns)[None, :]
        s = load_tile(student, row, start + column, sr, sk, rows, columns)
        t = load_tile(teacher, row, start + column, tr, tk, rows, columns)
        more_s, more_squares_s, high_s = _moments(s, shift_s, inside)
        more_t, more_squares_t, high_t = _moments(t, shift_t, inside)
        total_s, squares_s, highest_s = total_s + more_s, squares_s + more_squares_s, tl.maximum(highest_s, high_s)
        total_t, squares_t, highest_t = total_t + more_t, squares_t + more_squares_t, tl.maximum(highest_t, high_t)
    mean_s, scale_s, top_s = _standardise(shift_s, total_s, squares_s, highest_s, columns, inverse_temperature)
    mean_t, scale_t, top_t = _standardise(shift_t, total_t, squares_t, highest_t, columns, inverse_temperature)
    return mean_s, scale_s, top_s, mean_t, scale_t, top_t


@triton.jit
def _forward_kernel(
    student, teacher, values, statistics,  # [rows, columns] twice, [rows], [7, rows]
    rows, columns, sr, sk, tr, tk, temperature, inverse_temperature,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, IS_BLOCKED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK).to(tl.int64)
    if IS_BLOCKED:
        mean_s, scale_s, top_s, mean_t, scale_t, top_t = _blocked_moments(
            student, teacher, row, rows, columns, sr, sk, tr, tk, inverse_temperature, ROWS, BLOCK
        )
        of_s, of_t = tl.zeros((ROWS, BLOCK), tl.float32), tl.zeros((ROWS, BLOCK), tl.float32)
        gaps = tl.zeros((ROWS, BLOCK), tl.float32)
        pull_s, pull_t = tl.zeros((ROWS, BLOCK), tl.float32), tl.zeros((ROWS, BLOCK), tl.float32)
        for start in range(0, columns, BLOCK):
            inside = (start + column < columns)[None, :]
            y = _scores(load_tile(student, row, start + column, sr, sk, rows, columns), mean_s, scale_s, inside)
            x = _scores(load_tile(teacher, row, start + column, tr, tk, rows, columns), mean_t, scale_t, inside)
            more_s, more_t, more_gaps, more_pull_s, more_pull_t = _terms(y, x, top_s, top_t)
            of_s, of_t, gaps = of_s + more_s, of_t + more_t, gaps + more_gaps
            pull_s, pull_t = pull_s + more_pull_s, pull_t + more_pull_t
    else:
        inside = (column < columns)[None, :]
        s = load_tile(student, row, column, sr, sk, rows, columns)
        t = load_tile(teacher, row, column, tr, tk, rows, columns)
        shift_s, shift_t = tl.sum(s, axis=1) / columns, tl.sum(t, axis=1) / columns
        total, squares, highest = _moments(s, shift_s, inside)
        mean_s, scale_s, top_s = _standardise(shift_s, total, squares, highest, columns, inverse_temperature)
        total, squares, highest = _moments(t, shift_t, inside)
        mean_t, scale_t, top_t = _standardise(shift_t, total, squares, highest, columns, inverse_temperature)
        y, x = _scores(s, mean_s, scale_s, inside), _scores(t, mean_t, scale_t, inside)
        of_s, of_t, gaps, pull_s, pull_t = _terms(y, x, top_s, top_t)
    total_s, total_t = tl.sum(of_s, axis=1), tl.sum(of_t, axis=1)
    divergence = tl.sum(gaps, axis=1) / total_t - ((top_t - top_s) + tl.log(total_t / total_s))
    share = tl.sum(pull_s, axis=1) / total_s - tl.sum(pull_t, axis=1) / total_t
    known, at, side = row < rows, statistics + row, tl.zeros_like(row) + rows
    tl.store(values + row, temperature * temperature * divergence, mask=known)
    tl.store(at, mean_s, mask=known)
    tl.store(at + side, scale_s, mask=known)
    tl.store(at + 2 * side, top_s + tl.log(total_s), mask=known)
    tl.store(at + 3 * side, mean_t, mask=known)
    tl.store(at + 4 * side, scale_t, mask=known)
    tl.store(at + 5 * side, top_t + tl.log(total_t), mask=known)
    tl.store(at + 6 * side, share * temperature * temperature / columns, mask=known)


@triton.jit
def _softmax(pointer, statistics, row, column, row_stride, column_stride, rows, columns):
    """Return a tile's scores over the temperature and their softmax, from a row's mean, scale and log-normaliser."""
    known, at, side = row < rows, statistics + row, tl.zeros_like(row) + rows
    mean, scale = tl.load(at, mask=known, other=0.0), tl.load(at + side, mask=known, other=0.0)
    log_total = tl.load(at + 2 * side, mask=known, other=0.0)
    scores = (load_tile(pointer, row, column, row_stride, column_stride, rows, columns) - mean[:, None]) * scale[
        :, None
    ]
    return scores, tl.exp(scores - log_total[:, None])


@triton.jit
def _backward_kernel(
    grad, student, teacher, statistics, gradient,  # [rows], [rows, columns] twice, [7, rows], [rows, columns]
    rows, columns, blocks, go, sr, sk, tr, tk, dr, dk, temperature,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0).to(tl.int64)
    row, column = tile // blocks * ROWS + tl.arange(0, ROWS), tile % blocks * BLOCK + tl.arange(0, BLOCK)
    known, at, side = row < rows, statistics + row, tl.zeros_like(row) + rows
    of_teacher = statistics + 3 * tl.cast(rows, tl.int64)
    y, q = _softmax(student, statistics, row, column, sr, sk, rows, columns)
    _, p = _softmax(teacher, of_teacher, row, column, tr, tk, rows, columns)
    scale, share = tl.load(at + side, mask=known, other=0.0), tl.load(at + 6 * side, mask=known, other=0.0)
    upstream = tl.load(grad + row * go, mask=known, other=0.0).to(tl.float32) * (temperature * temperature * scale)
    result = ((q - p) - y * share[:, None]) * upstream[:, None]
    store_tile(gradient, result, row, column, dr, dk, rows, columns)


def standardized_kl_forward(student: Tensor, teacher: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and of each row `[7, B]`.

    These are of the student and of the teacher the mean, one over deviation and temperature (0 for a flat row), and the
    log-normaliser of the scores; then `T^2` times the mean of `(q - p) y`.
    """
    rows, columns = student.shape
    tiling = tiling_of(student.unsqueeze(0), sideways=False)
    values = student.new_empty(rows, dtype=torch.float32)
    statistics = values.new_empty(7, rows)
    with device_of(student):
        _forward_kernel[(triton.cdiv(rows, tiling.rows),)](
            student, teacher, values, statistics, rows, columns, *student.stride(), *teacher.stride(), temperature,
            1 / temperature, num_warps=tiling.num_warps, **tiling.constants,
        )  # fmt: skip
    return values, statistics


def standardized_kl_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, statistics: Tensor, *, temperature: float
) -> tuple[Tensor]:
    """Return the student's gradient `[B, K]`; each tensor is read once."""
    rows, columns = student.shape
    tiling = tiling_of(student.unsqueeze(0), sideways=False)
    gradient = torch.empty_like(student)
    blocks = triton.cdiv(columns, tiling.block)
    with device_of(student):
        _backward_kernel[(blocks * triton.cdiv(rows, tiling.rows),)](
            grad, student, teacher, statistics, gradient, rows, columns, blocks, *grad.stride(), *student.stride(),
            *teacher.stride(), *gradient.stride(), temperature, ROWS=tiling.rows, BLOCK=tiling.block,
            num_warps=_backward_warps(tiling),
        )  # fmt: skip
    return (gradient,)


def _backward_warps(tiling: Tiling) -> int:
    """Return the warps of a program: two where it has several rows, whose statistics fill the registers of one."""
    return max(2 if tiling.rows > 1 else 1, tiling.num_warps)


def variants() -> Iterator[Variant]:
    """Yield every kernel in the configurations that launches pick."""
    for (student, teacher), (tiling, _) in product(DTYPE_PAIRS, tilings(sideways=False)):
        sides = {"student": f"*{student}", "teacher": f"*{teacher}", "statistics": "*fp32"}
        sizes = {**dict.fromkeys(("rows", "columns", "sr", "tr"), "i32"), "temperature": "fp32"}
        signature = {**sides, "values": "*fp32", **sizes, "inverse_temperature": "fp32"}
        unit = {"sk": 1, "tk": 1}
        yield Variant(_forward_kernel, signature, {**unit, **tiling.constants}, tiling.num_warps)
        if not tiling.is_blocked:
            into = {"grad": "*fp32", "gradient": f"*{student}", **dict.fromkeys(("blocks", "go", "dr"), "i32")}
            constants = {**unit, "dk": 1, "ROWS": tiling.rows, "BLOCK": tiling.block}
            yield Variant(_backward_kernel, {**sides, **into, **sizes}, constants, _backward_warps(tiling))
