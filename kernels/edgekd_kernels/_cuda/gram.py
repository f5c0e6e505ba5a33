"""Losses on the relations between samples: one Gram kernel, small kernels on `[B, B]`, one product back to features.

Half-precision features that are not centred are multiplied on tensor cores, all others exactly in float32. The
accuracy is that of the Triton kernels.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from edgekd_kernels._cuda.launch import ELEMENTS, Program
from edgekd_kernels._rows import ROUNDING, gram_parts

TILE = 64
BLOCK = 128
ANGLE_TILE = 32
ANCHORS = 8
STEP = 64
"""Columns that parts of the Gram matrix are a multiple of."""

_PROGRAMS = {
    dtype: Program("gram.cu", {"ELEMENT": name, **({} if mma is None else {"MMA": f'"{mma}"'})})
    for (dtype, name), mma in zip(ELEMENTS.items(), (None, "bf16", "f16"), strict=True)
}
_RELATIONS = Program("relations.cu")
_ANGLES = Program("angles.cu")


def similarity_preserving_forward(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and the gradient of their sum with respect to the student's Gram matrix, `[B, B]`."""
    (mine, _), (theirs, _) = (_gram(rows, centred=False) for rows in (student, teacher))
    batch = len(student)
    losses, slopes = (student.new_empty(shape, dtype=torch.float32) for shape in ((batch,), (batch, batch)))
    _each_row("similarity", mine, theirs, losses, slopes, batch)
    return losses, slopes


def similarity_preserving_backward(grad: Tensor, student: Tensor, slopes: Tensor) -> tuple[Tensor]:
    """Return `(M + M^T) X` for `M` the weighted slopes."""
    matrix = torch.empty_like(slopes)
    _each_row("similarity_matrix", grad.contiguous(), slopes, matrix, len(student))
    return (_combined(matrix, student, is_balanced=False),)


def linear_cka_forward(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values `[B]` and both centred Gram matrices in float64, `[B, B]`."""
    (gram, moments), (target, target_moments) = (_gram(rows, centred=True) for rows in (student, teacher))
    batch, mine, theirs = len(student), torch.empty_like(gram), torch.empty_like(target)
    statistics, losses = gram.new_empty(batch, 3), gram.new_empty(batch, dtype=torch.float32)
    _each_row(
        "alignment", gram, target, moments, target_moments, mine, theirs, statistics, batch, len(moments),
        len(target_moments), ctypes.c_double(ROUNDING),
    )  # fmt: skip
    blocks = (_ceil(batch, BLOCK),)
    _RELATIONS.launch("alignment_values", blocks, BLOCK, statistics, losses, batch, device=student.device)
    return losses, mine, theirs


def linear_cka_backward(grad: Tensor, student: Tensor, mine: Tensor, theirs: Tensor) -> tuple[Tensor]:
    """Return `(M + M^T) X` for `M_ij = g_i B L_ij / (|K| |L|) - <g, v> K_ij / |K|^2`, centred on both sides."""
    batch, grad, statistics = len(student), grad.contiguous(), mine.new_empty(len(student), 4)
    matrix = torch.empty_like(mine, dtype=torch.float32)
    _each_row("alignment_rows", grad, mine, theirs, statistics, batch)
    _each_row("alignment_matrix", grad, mine, theirs, statistics, matrix, batch)
    return (_combined(matrix, student, is_balanced=True),)


def rkd_distance_forward(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values `[B]` and both sides' squared distances in float64, `[B, B]`, 0 between coincident samples."""
    mine, theirs = _squared_distances(student), _squared_distances(teacher)
    batch, statistics = len(student), mine.new_empty(len(student), 4)
    losses = mine.new_empty(batch, dtype=torch.float32)
    _each_row("root_sums", mine, theirs, statistics, batch)
    _each_row("distance_values", mine, theirs, statistics, losses, batch)
    return losses, mine, theirs


def rkd_distance_backward(grad: Tensor, student: Tensor, mine: Tensor, theirs: Tensor) -> tuple[Tensor]:
    """Return `dL/dX` from `dL/dq_ij = (h_ij / mu - sum(h d) / (mu^2 n)) / (2 d_ij)`, `h` the slope of the loss."""
    batch, grad, statistics = len(student), grad.contiguous(), mine.new_empty(len(student), 4)
    shares, matrix = mine.new_empty(batch), torch.empty_like(mine, dtype=torch.float32)
    _each_row("root_sums", mine, theirs, statistics, batch)
    _each_row("distance_shares", grad, mine, theirs, statistics, shares, batch)
    _each_row("distance_matrix", grad, mine, theirs, statistics, shares, matrix, batch)
    return (_combined(matrix, student, is_balanced=True),)


def rkd_angle_forward(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values `[B]` and both sides' squared distances in float64, `[B, B]`, 0 between coincident samples."""
    mine, theirs = _squared_distances(student), _squared_distances(teacher)
    batch = len(student)
    tiles, groups = _ceil(batch, ANGLE_TILE), _ceil(batch, ANCHORS)
    partials = mine.new_empty(tiles * tiles, batch, dtype=torch.float32)
    _ANGLES.launch("angle_values", (tiles, tiles, groups), 256, mine, theirs, partials, batch, device=student.device)
    return partials.sum(dim=0) / batch**2, mine, theirs


def rkd_angle_backward(grad: Tensor, student: Tensor, mine: Tensor, theirs: Tensor) -> tuple[Tensor]:
    """Return `dL/dX` from `dL/dq`, to which every sample's angles add; cosines are computed again."""
    batch, device = len(student), student.device
    tiles, groups = _ceil(batch, ANGLE_TILE), _ceil(batch, ANCHORS)
    ends, sides = (mine.new_empty(count, batch, batch, dtype=torch.float32) for count in (tiles, groups))
    matrix = torch.empty_like(mine, dtype=torch.float32)
    _ANGLES.launch(
        "angle_slopes", (tiles, tiles, groups), 256, grad.contiguous(), mine, theirs, ends, sides, batch, device=device
    )
    scale = ctypes.c_double(-2 / batch**2)
    _ANGLES.launch("angle_matrix", (batch,), BLOCK, ends, sides, matrix, batch, tiles, groups, scale, device=device)
    return (_combined(matrix, student, is_balanced=True),)


def _each_row(kernel: str, first: Tensor, *arguments: object) -> None:
    """Run a kernel of relations with one block for each row of its first tensor."""
    _RELATIONS.launch(kernel, (len(first),), BLOCK, first, *arguments, device=first.device)


def _gram(rows: Tensor, *, centred: bool) -> tuple[Tensor, Tensor]:
    """Return the Gram matrix in float64 and parts whose sum is the square of the samples' mean."""
    batch, columns = rows.shape
    program, device, strides = _PROGRAMS[rows.dtype], rows.device, rows.stride()
    across = _ceil(batch, TILE)
    parts, per_part = gram_parts(batch, columns, TILE, STEP)
    partials = rows.new_empty(parts, batch, batch, dtype=torch.float32)
    gram = rows.new_empty(batch, batch, dtype=torch.float64)
    moments = rows.new_empty(_ceil(columns, BLOCK) if centred else 0, dtype=torch.float32)
    means = None
    if len(moments):
        means = rows.new_empty(columns, dtype=torch.float32)
        program.launch(
            "sample_mean", (len(moments),), 512, rows, means, moments, batch, columns, *strides, device=device
        )
    grid, sizes = (across, across, parts), (batch, columns, per_part, *strides)
    if centred or rows.dtype == torch.float32:
        program.launch("gram_exact", grid, 256, rows, means, partials, *sizes, device=device)
    else:
        program.launch("gram_tensor", grid, 128, rows, partials, *sizes, device=device)
    width = 256 if parts <= 8 else 32
    program.launch("gram_sum", (batch, _ceil(batch, width)), 256, partials, gram, batch, parts, width, device=device)
    return gram, moments


def _squared_distances(rows: Tensor) -> Tensor:
    gram, moments = _gram(rows, centred=True)
    squares = torch.empty_like(gram)
    _PROGRAMS[rows.dtype].launch(
        "squared_distances", (len(rows),), 256, rows, gram, moments, squares, *rows.shape, len(moments),
        *rows.stride(), ctypes.c_double(ROUNDING), device=rows.device,
    )  # fmt: skip
    return squares


def _combined(matrix: Tensor, rows: Tensor, *, is_balanced: bool) -> Tensor:
    """Return `matrix @ rows`; rows that sum to 0 let what samples have in common be subtracted before rounding."""
    result = torch.empty_like(rows)
    grid = (_ceil(rows.shape[1], TILE), _ceil(len(rows), TILE))
    _PROGRAMS[rows.dtype].launch(
        "combine", grid, 256, matrix, rows, result, *rows.shape, *rows.stride(), *result.stride(),
        ctypes.c_int32(is_balanced), device=rows.device,
    )  # fmt: skip
    return result


def _ceil(count: int, size: int) -> int:
    return -(-count // size)
