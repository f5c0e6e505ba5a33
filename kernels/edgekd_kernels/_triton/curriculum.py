"""Distillation at a temperature that is learned too: one kernel each way.

With `u = t/T`, `w = s/T`, `d = log p - log q`, `g = e^-d - 1 + d` and `h = g - d^2 / 2` the divergence is `sum p g` and
the loss's derivative by the temperature

    T (2 sum p h - sum p (w - sum p w) g + (sum p g)^2).

Written so, every part is of the third order in the logits; the parts of lower order that the chain rule gives cancel,
and in float32 would leave their rounding. Forward keeps of each row what normalises its softmaxes, and that derivative:
backward reads both tensors once and writes the gradient, in tiles that need nothing from each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.rows import FILL, load_logits, store_tile, tiling_of, tilings
from edgekd_kernels._triton.variants import DTYPE_PAIRS, Variant

SUMMED = tl.constexpr(512)
"""Rows that the sum over rows takes at once."""


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _widen_lanes(largest, total, tile):
    """Return of each lane the largest value so far, its sum of exponentials and what old and new terms weigh."""
    smaller = tl.exp(-tl.abs(tile - largest))
    is_larger = tile > largest
    old, new = tl.where(is_larger, smaller, 1.0), tl.where(is_larger, 1.0, smaller)
    return tl.maximum(largest, tile), total * old + new, old, new


@triton.jit
def _normalisers(
    student, teacher, row, rows, columns, sr, sk, tr, tk, inverse_temperature,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return both sides' largest logit and sum of exponentials less it, and the teacher's mean of the student's logits.

    Each lane of the tile keeps its own, so that nothing is reduced before the end of the row.
    """
    column = tl.arange(0, BLOCK).to(tl.int64)
    shift = tl.max(load_logits(student, row, column, sr, sk, rows, columns, inverse_temperature), axis=1)
    lanes_s, lanes_t = tl.full((ROWS, BLOCK), FILL, tl.float32), tl.full((ROWS, BLOCK), FILL, tl.float32)
    total_s, total_t = tl.zeros((ROWS, BLOCK), tl.float32), tl.zeros((ROWS, BLOCK), tl.float32)
    pull = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(0, columns, BLOCK):
        s = load_logits(student, row, start + column, sr, sk, rows, columns, inverse_temperature)
        t = load_logits(teacher, row, start + column, tr, tk, rows, columns, inverse_temperature)
        lanes_s, total_s, _, _ = _widen_lanes(lanes_s, total_s, s)
        lanes_t, total_t, old, new = _widen_lanes(lanes_t, total_t, t)
        pull = pull * old + new * tl.where((start + column < columns)[None, :], s - shift[:, None], 0.0)
    largest_s, largest_t = tl.max(lanes_s, axis=1), tl.max(lanes_t, axis=1)
    total_s = tl.sum(total_s * tl.exp(lanes_s - largest_s[:, None]), axis=1)
    weights = tl.exp(lanes_t - largest_t[:, None])
    total_t = tl.sum(total_t * weights, axis=1)
    mean = tl.sum(pull * weights, axis=1) / total_t + (shift - largest_s)
    return largest_s, total_s, largest_t, total_t, mean


@triton.jit
def _terms(w, u, apart, mean):
    """Return tiles of `p`, `p g`, `2 p h - p w g`, `q - p`, `(q - p) w` and `p w`, but for the teacher's normaliser.

    For small `d` the series is taken, for others `q - p + p d`. `w` counts from the teacher's mean.

    Args:
        w: Student's logits over the temperature, less the largest.
        u: Teacher's.
        apart: What `u - w` has to be less to be `d`.
        mean: Of `w` under `p`.
    """
    d = u - w - apart[:, None]
    p = tl.exp(u)
    m = -d
    series = 1 / 24 + m * (1 / 120 + m * (1 / 720 + m * (1 / 5040 + m * (1 / 40320 + m * (1 / 362880 + m / 3628800)))))
    cubic = p * (m * m * m * (1 / 6 + m * series))
    square = 0.5 * p * d * d
    is_small = tl.abs(d) < 0.5
    convex = tl.where(is_small, square + cubic, tl.exp(u - d) - p + p * d)
    third = tl.where(is_small, cubic, convex - square)
    excess, w = convex - p * d, w - mean[:, None]
    return p, convex, 2 * third - w * convex, excess, excess * w, p * w


@triton.jit
def _joined(total, convex, bent, excess, tilt, pull):
    """Return of rows the divergence and its derivative by the temperature, times that and over it, from sums of terms.

    Where `apart` and the mean were rounded, `q` does not sum to 1 nor `p w` to 0: what that adds is taken off.
    """
    share = 1.0 / tl.sum(total, axis=1)
    divergence = tl.sum(convex, axis=1) * share
    error, offset = tl.sum(excess, axis=1) * share, tl.sum(pull, axis=1) * share
    turned = error * (tl.sum(tilt, axis=1) * share - 2 * divergence)
    return divergence, tl.sum(bent, axis=1) * share + turned + offset * divergence + divergence * divergence


@triton.jit
def _forward_kernel(
    student, teacher, raw_temperature, values, statistics,  # [rows, columns] twice, [], [rows], [5, rows]
    rows, columns, sr, sk, tr, tk, least, span,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, IS_BLOCKED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK).to(tl.int64)
    temperature = least + span * _sigmoid(tl.load(raw_temperature).to(tl.float32))
    inverse = tl.div_rn(1.0, temperature)
    if IS_BLOCKED:
        largest_s, total_s, largest_t, total_t, mean = _normalisers(
            student, teacher, row, rows, columns, sr, sk, tr, tk, inverse, ROWS, BLOCK
        )
        apart = tl.log(total_t / total_s)
        total, convex = tl.zeros((ROWS, BLOCK), tl.float32), tl.zeros((ROWS, BLOCK), tl.float32)
        bent, excess = tl.zeros((ROWS, BLOCK), tl.float32), tl.zeros((ROWS, BLOCK), tl.float32)
        tilt, pull = tl.zeros((ROWS, BLOCK), tl.float32), tl.zeros((ROWS, BLOCK), tl.float32)
        for start in range(0, columns, BLOCK):
            w = load_logits(student, row, start + column, sr, sk, rows, columns, inverse) - largest_s[:, None]
            u = load_logits(teacher, row, start + column, tr, tk, rows, columns, inverse) - largest_t[:, None]
            more, more_convex, more_bent, more_excess, more_tilt, more_pull = _terms(w, u, apart, mean)
            total, convex, bent = total + more, convex + more_convex, bent + more_bent
            excess, tilt, pull = excess + more_excess, tilt + more_tilt, pull + more_pull
    else:
        w = load_logits(student, row, column, sr, sk, rows, columns, inverse)
        u = load_logits(teacher, row, column, tr, tk, rows, columns, inverse)
        largest_s, largest_t = tl.max(w, axis=1), tl.max(u, axis=1)
        w, u = w - largest_s[:, None], u - largest_t[:, None]
        weights = tl.exp(u)
        total_s, total_t = tl.sum(tl.exp(w), axis=1), tl.sum(weights, axis=1)
        apart = tl.log(total_t / total_s)
        total, convex, bent, excess, tilt, pull = _terms(w, u, apart, tl.sum(weights * w, axis=1) / total_t)
    divergence, slope = _joined(total, convex, bent, excess, tilt, pull)
    log_t = tl.log(total_t)
    known, at, side = row < rows, statistics + row, tl.zeros_like(row) + rows
    tl.store(values + row, temperature * temperature * divergence, mask=known)
    tl.store(at, largest_s, mask=known)
    tl.store(at + side, log_t - apart, mask=known)
    tl.store(at + 2 * side, largest_t, mask=known)
    tl.store(at + 3 * side, log_t, mask=known)
    tl.store(at + 4 * side, temperature * slope, mask=known)


@triton.jit
def _raw_gradient(grad, statistics, rows, go, scale):
    """Return the gradient of the raw temperature, summed over rows in float64."""
    total = tl.zeros((SUMMED,), tl.float64)
    for first in range(0, rows, SUMMED):
        row = first + tl.arange(0, SUMMED).to(tl.int64)
        upstream = tl.load(grad + row * go, mask=row < rows, other=0.0).to(tl.float64)
        total += upstream * tl.load(statistics + 4 * tl.cast(rows, tl.int64) + row, mask=row < rows, other=0.0)
    return tl.sum(total, axis=0) * scale


@triton.jit
def _backward_kernel(
    grad, student, teacher, raw_temperature, statistics, gradient, its_gradient,  # [rows], ..., as forward, []
    rows, columns, blocks, go, sr, sk, tr, tk, dr, dk, gradient_scale, least, span,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # ds = T (q - p). The first program sums the temperature's gradient, each of the others has a tile.
    raw = tl.load(raw_temperature).to(tl.float32)
    if tl.program_id(0) == 0:
        scale = gradient_scale * span * _sigmoid(raw) * _sigmoid(-raw)
        total = _raw_gradient(grad, statistics, rows, go, scale)
        tl.store(its_gradient, total.to(its_gradient.dtype.element_ty))
    else:
        tile = tl.program_id(0).to(tl.int64) - 1
        row, column = tile // blocks * ROWS + tl.arange(0, ROWS), tile % blocks * BLOCK + tl.arange(0, BLOCK)
        known, at, side = row < rows, statistics + row, tl.zeros_like(row) + rows
        temperature = least + span * _sigmoid(raw)
        inverse = tl.div_rn(1.0, temperature)
        upstream = temperature * tl.load(grad + row * go, mask=known, other=0.0).to(tl.float32)
        largest_s, log_s = tl.load(at, mask=known, other=0.0), tl.load(at + side, mask=known, other=0.0)
        largest_t, log_t = tl.load(at + 2 * side, mask=known, other=0.0), tl.load(at + 3 * side, mask=known, other=0.0)
        w = load_logits(student, row, column, sr, sk, rows, columns, inverse)
        u = load_logits(teacher, row, column, tr, tk, rows, columns, inverse)
        q = tl.exp((w - largest_s[:, None]) - log_s[:, None])
        p = tl.exp((u - largest_t[:, None]) - log_t[:, None])
        store_tile(gradient, (q - p) * upstream[:, None], row, column, dr, dk, rows, columns)


def curriculum_kl_forward(
    student: Tensor, teacher: Tensor, raw_temperature: Tensor, *, gradient_scale: float, least: float, span: float
) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and of each row `[5, B]`: largest logit and log-normaliser of both sides, dL/dT."""
    rows, columns = student.shape
    tiling = tiling_of(student.unsqueeze(0), sideways=False)
    values = student.new_empty(rows, dtype=torch.float32)
    statistics = values.new_empty(5, rows)
    with device_of(student):
        _forward_kernel[(triton.cdiv(rows, tiling.rows),)](
            student, teacher, raw_temperature, values, statistics, rows, columns, *student.stride(), *teacher.stride(),
            least, span, num_warps=tiling.num_warps, **tiling.constants,
        )  # fmt: skip
    return values, statistics


def curriculum_kl_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, raw_temperature: Tensor, statistics: Tensor,
    *, gradient_scale: float, least: float, span: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the student's gradient `[B, K]` and the raw temperature's."""
    rows, columns = student.shape
    tiling = tiling_of(student.unsqueeze(0), sideways=False)
    gradient, its_gradient = torch.empty_like(student), torch.empty_like(raw_temperature)
    blocks = triton.cdiv(columns, tiling.block)
    with device_of(student):
        _backward_kernel[(1 + blocks * triton.cdiv(rows, tiling.rows),)](
            grad, student, teacher, raw_temperature, statistics, gradient, its_gradient, rows, columns, blocks,
            *grad.stride(), *student.stride(), *teacher.stride(), *gradient.stride(), gradient_scale, least, span,
            ROWS=tiling.rows, BLOCK=tiling.block, num_warps=tiling.num_warps,
        )  # fmt: skip
    return gradient, its_gradient


def variants() -> Iterator[Variant]:
    """Yield every kernel in the configurations that launches pick."""
    for (student, teacher), (tiling, _) in product(DTYPE_PAIRS, tilings(sideways=False)):
        sides = {"student": f"*{student}", "teacher": f"*{teacher}", "raw_temperature": "*fp32"}
        sizes = dict.fromkeys(("rows", "columns", "sr", "tr"), "i32")
        numbers = dict.fromkeys(("least", "span"), "fp32")
        unit = {"sk": 1, "tk": 1}
        signature = {**sides, "values": "*fp32", "statistics": "*fp32", **sizes, **numbers}
        yield Variant(_forward_kernel, signature, {**unit, **tiling.constants}, tiling.num_warps)
        if tiling.is_blocked:
            continue
        into = {"grad": "*fp32", "statistics": "*fp32", "gradient": f"*{student}", "its_gradient": "*fp32"}
        sizes |= dict.fromkeys(("blocks", "go", "dr"), "i32")
        signature = {**sides, **into, **sizes, **numbers, "gradient_scale": "fp32"}
        constants = {**unit, "dk": 1, "ROWS": tiling.rows, "BLOCK": tiling.block}
        yield Variant(_backward_kernel, signature, constants, tiling.num_warps)
