"""Losses on the relations between samples: small kernels on the batch Gram matrix and on distances from it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._rows import ROUNDING
from edgekd_kernels._triton.angles import angle_matrix, angle_values, angle_variants
from edgekd_kernels._triton.batch_gram import batch_variants, combined, gram_matrix, is_uniform, squared_distances
from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.variants import Variant

BLOCK = 128
ROWS = ((128, 1), (512, 4))
"""Entries of a row of `[B, B]` that a program takes at a time, and its warps, of a small batch and of a large one."""


@triton.jit
def _inverse(value):
    return tl.where(value == 0, 0.0, 1 / tl.where(value == 0, 1.0, value))


@triton.jit
def _similarity_kernel(
    mine, theirs, losses, slopes,  # [B, B] twice, [B], [B, B]
    batch,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # One row: lengths, then the loss and what of the error lies along the row, then its gradient across it.
    row = tl.program_id(0).to(tl.int64) * batch
    square_s, square_t = tl.zeros((BLOCK,), dtype=tl.float64), tl.zeros((BLOCK,), dtype=tl.float64)
    for start in range(0, batch, BLOCK):
        at = start + tl.arange(0, BLOCK)
        s = tl.load(mine + row + at, mask=at < batch, other=0.0)
        t = tl.load(theirs + row + at, mask=at < batch, other=0.0)
        square_s += s * s
        square_t += t * t
    length_s, length_t = tl.sqrt(tl.sum(square_s, axis=0)), tl.sqrt(tl.sum(square_t, axis=0))
    inverse_s = _inverse(tl.where(length_s <= 1e-12, 0.0, length_s))
    inverse_t = _inverse(tl.where(length_t <= 1e-12, 0.0, length_t))
    loss, along = tl.zeros((BLOCK,), dtype=tl.float64), tl.zeros((BLOCK,), dtype=tl.float64)
    for start in range(0, batch, BLOCK):
        at = start + tl.arange(0, BLOCK)
        s = tl.load(mine + row + at, mask=at < batch, other=0.0) * inverse_s
        error = s - tl.load(theirs + row + at, mask=at < batch, other=0.0) * inverse_t
        loss += error * error
        along += s * error
    tl.store(losses + tl.program_id(0), (tl.sum(loss, axis=0) / batch).to(tl.float32))
    share = tl.sum(along, axis=0)
    for start in range(0, batch, BLOCK):
        at = start + tl.arange(0, BLOCK)
        s = tl.load(mine + row + at, mask=at < batch, other=0.0) * inverse_s
        error = s - tl.load(theirs + row + at, mask=at < batch, other=0.0) * inverse_t
        slope = (error - s * share) * (inverse_s * 2 / batch)
        tl.store(slopes + row + at, slope.to(tl.float32), mask=at < batch)


@triton.jit
def _similarity_matrix_kernel(
    grad, slopes, matrix,  # [B], [B, B] twice
    batch,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < batch
    mine = tl.load(slopes + row * batch + at, mask=inside, other=0.0) * tl.load(grad + row)
    others = tl.load(slopes + at * batch + row, mask=inside, other=0.0) * tl.load(grad + at, mask=inside, other=0.0)
    tl.store(matrix + row * batch + at, mine + others, mask=inside)


@triton.jit
def _alignment_kernel(
    gram, target_gram, norms, target_norms, moments, target_moments,  # [B, B], [B], [tiles]
    mine, theirs, statistics,  # [B, B] twice, [B, 3]
    batch, tiles, target_tiles, rounding,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # One row of both Gram matrices, zeros where samples do not differ, and its products and squares.
    row = tl.program_id(0).to(tl.int64)
    is_flat = is_uniform(norms, moments, batch, tiles, rounding, BLOCK)
    is_target_flat = is_uniform(target_norms, target_moments, batch, target_tiles, rounding, BLOCK)
    product, square = tl.zeros((BLOCK,), dtype=tl.float64), tl.zeros((BLOCK,), dtype=tl.float64)
    target_square = tl.zeros((BLOCK,), dtype=tl.float64)
    for start in range(0, batch, BLOCK):
        at = start + tl.arange(0, BLOCK)
        k = tl.where(is_flat, 0.0, tl.load(gram + row * batch + at, mask=at < batch, other=0.0))
        target = tl.load(target_gram + row * batch + at, mask=at < batch, other=0.0)
        target = tl.where(is_target_flat, 0.0, target)
        tl.store(mine + row * batch + at, k, mask=at < batch)
        tl.store(theirs + row * batch + at, target, mask=at < batch)
        product += k * target
        square += k * k
        target_square += target * target
    tl.store(statistics + 3 * row, tl.sum(product, axis=0))
    tl.store(statistics + 3 * row + 1, tl.sum(square, axis=0))
    tl.store(statistics + 3 * row + 2, tl.sum(target_square, axis=0))


@triton.jit
def _alignment_rows_kernel(
    grad, mine, theirs, statistics,  # [B], [B, B] twice, [B, 4]
    batch,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    product, square = tl.zeros((BLOCK,), dtype=tl.float64), tl.zeros((BLOCK,), dtype=tl.float64)
    target_square, pull = tl.zeros((BLOCK,), dtype=tl.float64), tl.zeros((BLOCK,), dtype=tl.float64)
    for start in range(0, batch, BLOCK):
        at = start + tl.arange(0, BLOCK)
        k = tl.load(mine + row * batch + at, mask=at < batch, other=0.0)
        target = tl.load(theirs + row * batch + at, mask=at < batch, other=0.0)
        product += k * target
        square += k * k
        target_square += target * target
        pull += target * tl.load(grad + at, mask=at < batch, other=0.0)
    tl.store(statistics + 4 * row, tl.sum(product, axis=0) * tl.load(grad + row))
    tl.store(statistics + 4 * row + 1, tl.sum(square, axis=0))
    tl.store(statistics + 4 * row + 2, tl.sum(target_square, axis=0))
    tl.store(statistics + 4 * row + 3, tl.sum(pull, axis=0))


@triton.jit
def _column_sum(statistics, batch, width, column, BLOCK: tl.constexpr):
    total = tl.zeros((BLOCK,), dtype=tl.float64)
    for start in range(0, batch, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(statistics + width * at + column, mask=at < batch, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _alignment_values_kernel(
    statistics, losses,  # [B, 3], [B]
    batch,
    BLOCK: tl.constexpr,
):  # fmt: skip
    norms = tl.sqrt(_column_sum(statistics, batch, 3, 1, BLOCK)) * tl.sqrt(_column_sum(statistics, batch, 3, 2, BLOCK))
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    shares = tl.load(statistics + 3 * at, mask=at < batch, other=0.0) * (batch * _inverse(norms))
    tl.store(losses + at, shares.to(tl.float32), mask=at < batch)


@triton.jit
def _alignment_matrix_kernel(
    grad, mine, theirs, statistics, matrix,  # [B], [B, B] twice, [B, 4], [B, B]
    batch,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    square = _column_sum(statistics, batch, 4, 1, BLOCK)
    norms = tl.sqrt(square) * tl.sqrt(_column_sum(statistics, batch, 4, 2, BLOCK))
    scale = batch * _inverse(norms)
    shrink = 2 * scale * _column_sum(statistics, batch, 4, 0, BLOCK) * _inverse(square)
    mean = (_column_sum(statistics, batch, 4, 3, BLOCK) / batch - tl.load(statistics + 4 * row + 3)) / batch
    weight = tl.load(grad + row)
    for start in range(0, batch, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < batch
        k = tl.load(mine + row * batch + at, mask=inside, other=0.0)
        target = tl.load(theirs + row * batch + at, mask=inside, other=0.0)
        pull = tl.load(statistics + 4 * at + 3, mask=inside, other=0.0) / batch
        both = target * (weight + tl.load(grad + at, mask=inside, other=0.0))
        tl.store(matrix + row * batch + at, (scale * (both + mean - pull) - shrink * k).to(tl.float32), mask=inside)


@triton.jit
def _roots_kernel(
    mine, theirs, statistics,  # [B, B] twice, [B, 4]
    batch,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # Sums of the distances from a sample and how many are above 0, the student's and the teacher's.
    row = tl.program_id(0).to(tl.int64)
    total, count = tl.zeros((BLOCK,), dtype=tl.float64), tl.zeros((BLOCK,), dtype=tl.float64)
    target_total, target_count = tl.zeros((BLOCK,), dtype=tl.float64), tl.zeros((BLOCK,), dtype=tl.float64)
    for start in range(0, batch, BLOCK):
        at = start + tl.arange(0, BLOCK)
        s = tl.load(mine + row * batch + at, mask=at < batch, other=0.0)
        t = tl.load(theirs + row * batch + at, mask=at < batch, other=0.0)
        total += tl.sqrt(s)
        target_total += tl.sqrt(t)
        count += tl.where(s == 0, 0.0, 1.0)
        target_count += tl.where(t == 0, 0.0, 1.0)
    tl.store(statistics + 4 * row, tl.sum(total, axis=0))
    tl.store(statistics + 4 * row + 1, tl.sum(count, axis=0))
    tl.store(statistics + 4 * row + 2, tl.sum(target_total, axis=0))
    tl.store(statistics + 4 * row + 3, tl.sum(target_count, axis=0))


@triton.jit
def _inverse_mean(statistics, batch, column, BLOCK: tl.constexpr):
    # Of the distances above 0; 1 where there are none.
    total = _column_sum(statistics, batch, 4, column, BLOCK)
    count = _column_sum(statistics, batch, 4, column + 1, BLOCK)
    return tl.where(total == 0, 1.0, count / tl.where(total == 0, 1.0, total))


@triton.jit
def _distance_values_kernel(
    mine, theirs, statistics, losses,  # [B, B] twice, [B, 4], [B]
    batch,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    scale = _inverse_mean(statistics, batch, 0, BLOCK)
    target_scale = _inverse_mean(statistics, batch, 2, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float64)
    for start in range(0, batch, BLOCK):
        at = start + tl.arange(0, BLOCK)
        s = tl.sqrt(tl.load(mine + row * batch + at, mask=at < batch, other=0.0)) * scale
        t = tl.sqrt(tl.load(theirs + row * batch + at, mask=at < batch, other=0.0)) * target_scale
        gap = tl.abs(s - t)
        total += tl.where(gap < 1, 0.5 * gap * gap, gap - 0.5)
    tl.store(losses + row, (tl.sum(total, axis=0) / batch).to(tl.float32))


@triton.jit
def _distance_errors(mine, theirs, place, inside, scale, target_scale):
    # The student's relative distances and the slopes of the loss in them.
    s = tl.sqrt(tl.load(mine + place, mask=inside, other=0.0)) * scale
    t = tl.sqrt(tl.load(theirs + place, mask=inside, other=0.0)) * target_scale
    gap = s - t
    return s, tl.where(gap > 1, 1.0, tl.where(gap < -1, -1.0, gap))


@triton.jit
def _distance_shares_kernel(
    grad, mine, theirs, statistics, shares,  # [B], [B, B] twice, [B, 4], [B]
    batch,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # What a sample adds to the slope of the loss in the mean distance.
    row = tl.program_id(0).to(tl.int64)
    scale = _inverse_mean(statistics, batch, 0, BLOCK)
    target_scale = _inverse_mean(statistics, batch, 2, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float64)
    for start in range(0, batch, BLOCK):
        at = start + tl.arange(0, BLOCK)
        s, slope = _distance_errors(mine, theirs, row * batch + at, at < batch, scale, target_scale)
        total += s * slope
    tl.store(shares + row, tl.sum(total, axis=0) * tl.load(grad + row))


@triton.jit
def _distance_matrix_kernel(
    grad, mine, theirs, statistics, shares, matrix,  # [B], [B, B] twice, [B, 4], [B], [B, B]
    batch,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # One row of S, its diagonal such that it sums to 0.
    row = tl.program_id(0).to(tl.int64)
    scale = _inverse_mean(statistics, batch, 0, BLOCK)
    target_scale = _inverse_mean(statistics, batch, 2, BLOCK)
    common = 2 * _column_sum(shares, batch, 1, 0, BLOCK) * _inverse(_column_sum(statistics, batch, 4, 1, BLOCK))
    weight = tl.load(grad + row)
    balance = tl.zeros((BLOCK,), dtype=tl.float64)
    for start in range(0, batch, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = (at < batch) & (at != row)
        s, slope = _distance_errors(mine, theirs, row * batch + at, inside, scale, target_scale)
        pull = slope * (weight + tl.load(grad + at, mask=inside, other=0.0)) - common
        pull = pull * _inverse(s) * scale * scale / batch
        tl.store(matrix + row * batch + at, -pull.to(tl.float32), mask=inside)
        balance += tl.where(inside, pull, 0.0)
    tl.store(matrix + row * batch + row, tl.sum(balance, axis=0).to(tl.float32))


def similarity_preserving_forward(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and the gradient of their sum with respect to the student's Gram matrix, `[B, B]`."""
    (mine, *_), (theirs, *_) = (gram_matrix(rows, centred=False) for rows in (student, teacher))
    batch = len(student)
    losses, slopes = (student.new_empty(shape, dtype=torch.float32) for shape in ((batch,), (batch, batch)))
    with device_of(student):
        _similarity_kernel[(batch,)](mine, theirs, losses, slopes, batch, **_rows_of(batch))
    return losses, slopes


def similarity_preserving_backward(grad: Tensor, student: Tensor, slopes: Tensor) -> tuple[Tensor]:
    """Return `(M + M^T) X` for `M` the weighted slopes."""
    batch, matrix = len(student), torch.empty_like(slopes)
    with device_of(student):
        _similarity_matrix_kernel[(batch, triton.cdiv(batch, BLOCK))](
            grad.contiguous(), slopes, matrix, batch, BLOCK=BLOCK, num_warps=1
        )
    return (combined(matrix, student, is_balanced=False),)


def linear_cka_forward(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values `[B]` and both centred Gram matrices in float64, `[B, B]`."""
    gram, norms, moments = gram_matrix(student, centred=True)
    target, target_norms, target_moments = gram_matrix(teacher, centred=True)
    batch, mine, theirs = len(student), torch.empty_like(gram), torch.empty_like(target)
    statistics, losses = gram.new_empty(batch, 3), gram.new_empty(batch, dtype=torch.float32)
    with device_of(student):
        _alignment_kernel[(batch,)](
            gram, target, norms, target_norms, moments, target_moments, mine, theirs, statistics, batch, len(moments),
            len(target_moments), ROUNDING, **_rows_of(batch),
        )  # fmt: skip
        _alignment_values_kernel[(triton.cdiv(batch, _rows_of(batch)["BLOCK"]),)](
            statistics, losses, batch, **_rows_of(batch)
        )
    return losses, mine, theirs


def linear_cka_backward(grad: Tensor, student: Tensor, mine: Tensor, theirs: Tensor) -> tuple[Tensor]:
    """Return `(M + M^T) X` for `M_ij = g_i B L_ij / (|K| |L|) - <g, v> K_ij / |K|^2`, centred on both sides."""
    batch, grad = len(student), grad.contiguous()
    statistics = mine.new_empty(batch, 4)
    matrix = torch.empty_like(mine, dtype=torch.float32)
    with device_of(student):
        _alignment_rows_kernel[(batch,)](grad, mine, theirs, statistics, batch, **_rows_of(batch))
        _alignment_matrix_kernel[(batch,)](grad, mine, theirs, statistics, matrix, batch, **_rows_of(batch))
    return (combined(matrix, student, is_balanced=True),)


def rkd_distance_forward(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values `[B]` and both sides' squared distances in float64, `[B, B]`, 0 between coincident samples."""
    mine, theirs = squared_distances(student), squared_distances(teacher)
    batch, statistics = len(student), _root_sums(mine, theirs)
    losses = mine.new_empty(batch, dtype=torch.float32)
    with device_of(student):
        _distance_values_kernel[(batch,)](mine, theirs, statistics, losses, batch, **_rows_of(batch))
    return losses, mine, theirs


def rkd_distance_backward(grad: Tensor, student: Tensor, mine: Tensor, theirs: Tensor) -> tuple[Tensor]:
    """Return `dL/dX` from `dL/dq_ij = (h_ij / mu - sum(h d) / (mu^2 n)) / (2 d_ij)`, `h` the slope of the loss."""
    batch, grad, statistics = len(student), grad.contiguous(), _root_sums(mine, theirs)
    shares, matrix = mine.new_empty(batch), torch.empty_like(mine, dtype=torch.float32)
    with device_of(student):
        _distance_shares_kernel[(batch,)](grad, mine, theirs, statistics, shares, batch, **_rows_of(batch))
        _distance_matrix_kernel[(batch,)](grad, mine, theirs, statistics, shares, matrix, batch, **_rows_of(batch))
    return (combined(matrix, student, is_balanced=True),)


def rkd_angle_forward(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values `[B]` and both sides' squared distances in float64, `[B, B]`, 0 between coincident samples."""
    mine, theirs = squared_distances(student), squared_distances(teacher)
    return angle_values(mine, theirs), mine, theirs


def rkd_angle_backward(grad: Tensor, student: Tensor, mine: Tensor, theirs: Tensor) -> tuple[Tensor]:
    """Return `dL/dX` from `dL/dq`, to which every sample's angles add; cosines are computed again."""
    return (combined(angle_matrix(grad.contiguous(), mine, theirs), student, is_balanced=True),)


def variants() -> Iterator[Variant]:
    """Yield every kernel in the configurations that launches pick."""
    yield from batch_variants()
    yield from angle_variants()
    both = {"mine": "*fp64", "theirs": "*fp64"}
    rows = {"statistics": "*fp64"}
    grad = {"grad": "*fp32"}
    moments = {"moments": "*fp32", "target_moments": "*fp32"}
    sizes = {"tiles": "i32", "target_tiles": "i32", "rounding": "fp32"}
    grams = dict.fromkeys(("gram", "target_gram", "norms", "target_norms"), "*fp64")
    signatures = {
        _similarity_kernel: {**both, "losses": "*fp32", "slopes": "*fp32"},
        _alignment_kernel: {**grams, **moments, **both, **rows, **sizes},
        _alignment_rows_kernel: {**grad, **both, **rows},
        _alignment_values_kernel: {**rows, "losses": "*fp32"},
        _alignment_matrix_kernel: {**grad, **both, **rows, "matrix": "*fp32"},
        _roots_kernel: {**both, **rows},
        _distance_values_kernel: {**both, **rows, "losses": "*fp32"},
        _distance_shares_kernel: {**grad, **both, **rows, "shares": "*fp64"},
        _distance_matrix_kernel: {**grad, **both, **rows, "shares": "*fp64", "matrix": "*fp32"},
    }
    for (kernel, signature), (block, warps) in product(signatures.items(), ROWS):
        yield Variant(kernel, {**signature, "batch": "i32"}, {"BLOCK": block}, num_warps=warps)
    signature = {**grad, "slopes": "*fp32", "matrix": "*fp32", "batch": "i32"}
    yield Variant(_similarity_matrix_kernel, signature, {"BLOCK": BLOCK}, num_warps=1)


def _rows_of(batch: int) -> dict[str, int]:
    """Return how a program walks along a row of `[B, B]`."""
    block, warps = ROWS[batch > 2 * BLOCK]
    return {"BLOCK": block, "num_warps": warps}


def _root_sums(mine: Tensor, theirs: Tensor) -> Tensor:
    statistics = mine.new_empty(len(mine), 4)
    with device_of(mine):
        _roots_kernel[(len(mine),)](mine, theirs, statistics, len(mine), **_rows_of(len(mine)))
    return statistics
