"""Relational distillation of angles: cosines at every sample, in tiles of the pairs that it is seen with."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.variants import Variant

TILE = 32
ANCHORS = 8
"""Samples that one program is at in turn."""


@triton.jit
def _cosines(square_jk, square_ij, square_ik, inverse_ij, inverse_ik):
    # By the law of cosines; 0 towards a coincident sample.
    products = (square_ij[:, None] + square_ik[None, :] - square_jk) * 0.5
    return products * inverse_ij[:, None] * inverse_ik[None, :]


@triton.jit
def _seen(squares, anchor, other, batch):
    # Squared distances from a sample and their inverse roots, 0 for coincident ones; NaN stays NaN.
    square = tl.load(squares + anchor * batch + other, mask=other < batch, other=0.0).to(tl.float32)
    return square, tl.where(square == 0, 0.0, tl.rsqrt(tl.where(square == 0, 1.0, square)))


@triton.jit
def _values_kernel(
    mine, theirs, partials,  # [B, B] twice, [tiles, B]
    batch,
    TILE: tl.constexpr, ANCHORS: tl.constexpr,
):  # fmt: skip
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    j, k = row * TILE + tl.arange(0, TILE), column * TILE + tl.arange(0, TILE)
    inside = (j < batch)[:, None] & (k < batch)[None, :]
    pairs = j[:, None] * batch + k[None, :]
    mine_jk = tl.load(mine + pairs, mask=inside, other=0.0).to(tl.float32)
    theirs_jk = tl.load(theirs + pairs, mask=inside, other=0.0).to(tl.float32)
    place = partials + (row * tl.num_programs(1) + column) * batch
    first = tl.program_id(2).to(tl.int64) * ANCHORS
    for anchor in range(first, tl.minimum(first + ANCHORS, batch)):
        mine_ij, inverse_ij = _seen(mine, anchor, j, batch)
        mine_ik, inverse_ik = _seen(mine, anchor, k, batch)
        cosines = _cosines(mine_jk, mine_ij, mine_ik, inverse_ij, inverse_ik)
        theirs_ij, inverse_ij = _seen(theirs, anchor, j, batch)
        theirs_ik, inverse_ik = _seen(theirs, anchor, k, batch)
        gap = tl.abs(cosines - _cosines(theirs_jk, theirs_ij, theirs_ik, inverse_ij, inverse_ik))
        losses = tl.where(inside, tl.where(gap < 1, 0.5 * gap * gap, gap - 0.5), 0.0)
        tl.store(place + anchor, tl.sum(tl.sum(losses, axis=1), axis=0))


@triton.jit
def _slopes_kernel(
    grad, mine, theirs, ends, sides,  # [B], [B, B] twice, [columns, B, B], [groups, B, B]
    batch,
    TILE: tl.constexpr, ANCHORS: tl.constexpr,
):  # fmt: skip
    # dL/dq: of the sides j, k summed over some samples; of the ends i, j summed over a tile's k.
    row, column, group = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    j, k = row * TILE + tl.arange(0, TILE), column * TILE + tl.arange(0, TILE)
    inside = (j < batch)[:, None] & (k < batch)[None, :]
    pairs = j[:, None] * batch + k[None, :]
    mine_jk = tl.load(mine + pairs, mask=inside, other=0.0).to(tl.float32)
    theirs_jk = tl.load(theirs + pairs, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros((TILE, TILE), dtype=tl.float32)
    first = group * ANCHORS
    for anchor in range(first, tl.minimum(first + ANCHORS, batch)):
        square_ij, inverse_ij = _seen(theirs, anchor, j, batch)
        square_ik, inverse_ik = _seen(theirs, anchor, k, batch)
        target = _cosines(theirs_jk, square_ij, square_ik, inverse_ij, inverse_ik)
        square_ij, inverse_ij = _seen(mine, anchor, j, batch)
        square_ik, inverse_ik = _seen(mine, anchor, k, batch)
        cosines = _cosines(mine_jk, square_ij, square_ik, inverse_ij, inverse_ik)
        gap = cosines - target
        errors = tl.where(inside, tl.where(gap > 1, 1.0, tl.where(gap < -1, -1.0, gap)), 0.0)
        weighted = inverse_ij * tl.load(grad + anchor).to(tl.float32)
        along = tl.sum(errors * cosines, axis=1)
        errors *= inverse_ik[None, :]
        end = weighted * (tl.sum(errors, axis=1) - inverse_ij * along)
        tl.store(ends + (column * batch + anchor) * batch + j, end, mask=j < batch)
        total -= 0.5 * errors * weighted[:, None]
    tl.store(sides + group * batch * batch + pairs, total, mask=inside)


@triton.jit
def _matrix_kernel(
    ends, sides, matrix,  # [columns, B, B], [groups, B, B], [B, B]
    batch, columns, groups, scale,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # One row of S = scale (W + W^T), its diagonal such that it sums to 0.
    row = tl.program_id(0).to(tl.int64)
    plane = batch.to(tl.int64) * batch
    balance = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, batch, BLOCK):
        other = start + tl.arange(0, BLOCK).to(tl.int64)
        inside = (other < batch) & (other != row)
        along, across = row * batch + other, other * batch + row
        total = tl.zeros((BLOCK,), dtype=tl.float32)
        for at in range(columns):
            total += tl.load(ends + at * plane + along, mask=inside, other=0.0)
            total += tl.load(ends + at * plane + across, mask=inside, other=0.0)
        for at in range(groups):
            total += tl.load(sides + at * plane + along, mask=inside, other=0.0)
            total += tl.load(sides + at * plane + across, mask=inside, other=0.0)
        tl.store(matrix + along, scale * total, mask=inside)
        balance += total
    tl.store(matrix + row * batch + row, -scale * tl.sum(balance, axis=0))


def angle_values(mine: Tensor, theirs: Tensor) -> Tensor:
    """Return each sample's mean loss over the pairs that it sees, `[B]`.

    Args:
        mine: The student's squared distances, `[B, B]`.
        theirs: The teacher's.
    """
    batch = len(mine)
    tiles = triton.cdiv(batch, TILE)
    partials = mine.new_empty(tiles * tiles, batch, dtype=torch.float32)
    with device_of(mine):
        _values_kernel[(tiles, tiles, triton.cdiv(batch, ANCHORS))](
            mine, theirs, partials, batch, TILE=TILE, ANCHORS=ANCHORS, num_warps=4
        )
    return partials.sum(dim=0) / batch**2


def angle_matrix(grad: Tensor, mine: Tensor, theirs: Tensor) -> Tensor:
    """Return `S`, float32 `[B, B]`, such that `S X` is the gradient of the features.

    Args:
        grad: `[B]`, contiguous.
        mine: The student's squared distances, `[B, B]`.
        theirs: The teacher's.
    """
    batch = len(mine)
    tiles, groups = triton.cdiv(batch, TILE), triton.cdiv(batch, ANCHORS)
    ends, sides = (mine.new_empty(count, batch, batch, dtype=torch.float32) for count in (tiles, groups))
    matrix = mine.new_empty(batch, batch, dtype=torch.float32)
    with device_of(mine):
        _slopes_kernel[(tiles, tiles, groups)](
            grad, mine, theirs, ends, sides, batch, TILE=TILE, ANCHORS=ANCHORS, num_warps=4
        )
        _matrix_kernel[(batch,)](ends, sides, matrix, batch, tiles, groups, -2 / batch**2, BLOCK=128, num_warps=1)
    return matrix


def angle_variants() -> Iterator[Variant]:
    """Yield the kernels in the configurations that launches pick."""
    squares = {"mine": "*fp64", "theirs": "*fp64"}
    tile = {"TILE": TILE, "ANCHORS": ANCHORS}
    yield Variant(_values_kernel, {**squares, "partials": "*fp32", "batch": "i32"}, tile)
    parts = {"ends": "*fp32", "sides": "*fp32"}
    yield Variant(_slopes_kernel, {"grad": "*fp32", **squares, **parts, "batch": "i32"}, tile)
    sizes = {"batch": "i32", "columns": "i32", "groups": "i32"}
    yield Variant(_matrix_kernel, {**parts, "matrix": "*fp32", **sizes, "scale": "fp32"}, {"BLOCK": 128}, num_warps=1)
