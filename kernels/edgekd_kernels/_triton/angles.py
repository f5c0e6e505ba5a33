"""Relational distillation of angles: cosines at every sample, in tiles of the pairs that it is seen with.

By the law of cosines the one at `i` between `j` and `k` is `((q_ik - q_jk) / 2 * r_ij + d_ij / 2) * r_ik`, `r = 1 / d`.
Halves of `q`, `r` and halves of `d` are worked out once for each pair, and are 0 for pairs that do not exist, so that
nothing is divided or masked for a triple: two of the terms vary with it, and stay in registers while samples pass by.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.variants import Variant

TILES = {True: (16, 16, 1), False: (128, 32, 4)}
"""Samples `j` and `k` of a tile, and warps, of a small batch and of a large one."""
MOST_ANCHORS = 64
"""Samples that one program is at in turn, at most."""
PROGRAMS = 1024
"""Programs that there are to be at least, before one is at several samples."""
SIDE = 32
ROW = 1024
PLANE_BLOCK = 256


@triton.jit
def _measure(squares, place, inside, planes, at, is_plane, plane):
    # Of a pair that is coincident or not there everything is 0; NaN stays NaN.
    square = tl.load(squares + place, mask=inside, other=0.0).to(tl.float32)
    inverse = tl.where(square == 0, 0.0, tl.rsqrt(tl.where(square == 0, 1.0, square)))
    tl.store(planes + at, 0.5 * square, mask=is_plane)
    tl.store(planes + plane + at, inverse, mask=is_plane)
    tl.store(planes + 2 * plane + at, 0.5 * square * inverse, mask=is_plane)


@triton.jit
def _planes_kernel(
    mine, theirs, planes,  # [B, B] twice, [6, pitch, pitch]
    batch, pitch,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # Half squares, inverse distances and half distances of the student, then of the teacher.
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (row < batch) & (column < batch)
    at, plane = row * pitch + column, pitch.to(tl.int64) * pitch
    _measure(mine, row * batch + column, inside, planes, at, column < pitch, plane)
    _measure(theirs, row * batch + column, inside, planes + 3 * plane, at, column < pitch, plane)


@triton.jit
def _towards(planes, plane, anchor, pitch, j, k):
    # What of a cosine does not depend on both: the inverse and half distances to j, half squares and inverses to k.
    row = planes + anchor * pitch
    inverse_j, half_j = tl.load(row + plane + j), tl.load(row + 2 * plane + j)
    half_square_k, inverse_k = tl.load(row + k), tl.load(row + plane + k)
    return inverse_j[:, None], half_j[:, None], half_square_k[None, :], inverse_k[None, :]


@triton.jit
def _values_kernel(
    planes, partials,  # [6, pitch, pitch], [tiles, B]
    batch, pitch, anchors,
    TILE_J: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    # An angle between j and k is one between k and j: blocks below the diagonal are left out, those above count twice.
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    block = column * TILE_K // TILE_J
    if block >= row:
        plane = pitch.to(tl.int64) * pitch
        j, k = row * TILE_J + tl.arange(0, TILE_J), column * TILE_K + tl.arange(0, TILE_K)
        pairs = k[None, :] * pitch + j[:, None]
        mine_jk, theirs_jk = tl.load(planes + pairs), tl.load(planes + 3 * plane + pairs)
        place = partials + (row * tl.num_programs(1) + column) * batch
        times = tl.where(block > row, 2.0, 1.0)
        first = tl.program_id(2).to(tl.int64) * anchors
        for anchor in tl.range(first, tl.minimum(first + anchors, batch), num_stages=2):
            inverse_j, half_j, square_k, inverse_k = _towards(planes, plane, anchor, pitch, j, k)
            cosines = ((square_k - mine_jk) * inverse_j + half_j) * inverse_k
            inverse_j, half_j, square_k, inverse_k = _towards(planes + 3 * plane, plane, anchor, pitch, j, k)
            gap = cosines - ((square_k - theirs_jk) * inverse_j + half_j) * inverse_k
            slope = tl.clamp(gap, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
            losses = slope * (gap - 0.5 * slope)
            tl.store(place + anchor, times * tl.sum(tl.sum(losses, axis=1), axis=0))


@triton.jit
def _slopes_kernel(
    grad, planes, ends, sides,  # [B], [6, pitch, pitch], [columns, pitch, pitch], [groups, pitch, pitch]
    batch, pitch, anchors,
    TILE_J: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    # dL/dq: of the sides j, k summed over some samples; of the ends i, j summed over a tile's k.
    row, column, group = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    plane = pitch.to(tl.int64) * pitch
    j, k = row * TILE_J + tl.arange(0, TILE_J), column * TILE_K + tl.arange(0, TILE_K)
    pairs = k[None, :] * pitch + j[:, None]
    mine_jk, theirs_jk = tl.load(planes + pairs), tl.load(planes + 3 * plane + pairs)
    total = tl.zeros((TILE_J, TILE_K), dtype=tl.float32)
    first = group * anchors
    for anchor in tl.range(first, tl.minimum(first + anchors, batch), num_stages=2):
        weight = tl.load(grad + anchor).to(tl.float32)
        inverse_j, half_j, square_k, its_inverse_k = _towards(planes + 3 * plane, plane, anchor, pitch, j, k)
        partial = (square_k - theirs_jk) * inverse_j + half_j
        inverse_j, half_j, square_k, inverse_k = _towards(planes, plane, anchor, pitch, j, k)
        cosines = ((square_k - mine_jk) * inverse_j + half_j) * inverse_k
        gap = cosines - partial * its_inverse_k
        errors = tl.clamp(gap, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
        end = tl.sum(errors * (inverse_k - inverse_j * cosines), axis=1)
        weighted = tl.load(planes + plane + anchor * pitch + j) * weight
        tl.store(ends + column * plane + anchor * pitch + j, weighted * end)
        total -= errors * inverse_k * weighted[:, None]
    tl.store(sides + group * plane + pairs, total)


@triton.jit
def _matrix_kernel(
    ends, sides, matrix,  # [columns, pitch, pitch], [groups, pitch, pitch], [B, B]
    batch, pitch, columns, groups, scale,
    SIDE: tl.constexpr,
):  # fmt: skip
    # S = scale (W + W^T) but for its diagonal; of a side, W has half, and is symmetric.
    plane = pitch.to(tl.int64) * pitch
    row = tl.program_id(0).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    column = tl.program_id(1).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    inside = (row < batch)[:, None] & (column < batch)[None, :]
    along, across = row[:, None] * pitch + column[None, :], column[None, :] * pitch + row[:, None]
    total = tl.zeros((SIDE, SIDE), dtype=tl.float32)
    for at in range(columns):
        total += tl.load(ends + at * plane + along, mask=inside, other=0.0)
        total += tl.load(ends + at * plane + across, mask=inside, other=0.0)
    for at in range(groups):
        total += tl.load(sides + at * plane + across, mask=inside, other=0.0)
    tl.store(matrix + row[:, None] * batch + column[None, :], scale * total, mask=inside)


@triton.jit
def _balance_kernel(matrix, batch, ROW: tl.constexpr):  # [B, B]
    # The diagonal, such that rows sum to 0.
    row = tl.program_id(0).to(tl.int64)
    balance = tl.zeros((ROW,), dtype=tl.float32)
    for start in range(0, batch, ROW):
        other = start + tl.arange(0, ROW)
        balance += tl.load(matrix + row * batch + other, mask=(other < batch) & (other != row), other=0.0)
    tl.store(matrix + row * batch + row, -tl.sum(balance, axis=0))


def angle_values(mine: Tensor, theirs: Tensor) -> Tensor:
    """Return each sample's mean loss over the pairs that it sees, `[B]`.

    Args:
        mine: The student's squared distances, `[B, B]`.
        theirs: The teacher's.
    """
    batch, planes = len(mine), _planes(mine, theirs)
    tile_j, tile_k, warps = TILES[batch <= SIDE]
    pitch, grid, anchors = _plan(batch)
    partials = planes.new_zeros(grid[0] * grid[1], batch)
    with device_of(mine):
        _values_kernel[grid](planes, partials, batch, pitch, anchors, TILE_J=tile_j, TILE_K=tile_k, num_warps=warps)
    return partials.sum(dim=0) / batch**2


def angle_matrix(grad: Tensor, mine: Tensor, theirs: Tensor) -> Tensor:
    """Return `S`, float32 `[B, B]`, such that `S X` is the gradient of the features.

    Args:
        grad: `[B]`, contiguous.
        mine: The student's squared distances, `[B, B]`.
        theirs: The teacher's.
    """
    batch, planes = len(mine), _planes(mine, theirs)
    tile_j, tile_k, warps = TILES[batch <= SIDE]
    pitch, grid, anchors = _plan(batch)
    ends, sides = (planes.new_empty(count, pitch, pitch) for count in grid[1:])
    matrix = planes.new_empty(batch, batch)
    side, scale = min(SIDE, tile_j), -2 / batch**2
    tiles = triton.cdiv(batch, side)
    with device_of(mine):
        _slopes_kernel[grid](
            grad, planes, ends, sides, batch, pitch, anchors, TILE_J=tile_j, TILE_K=tile_k, num_warps=warps
        )
        _matrix_kernel[(tiles, tiles)](ends, sides, matrix, batch, pitch, *grid[1:], scale, SIDE=side, num_warps=4)
        _balance_kernel[(batch,)](matrix, batch, ROW=ROW, num_warps=4)
    return matrix


def angle_variants() -> Iterator[Variant]:
    """Yield the kernels in the configurations that launches pick."""
    planes, parts = {"planes": "*fp32"}, {"ends": "*fp32", "sides": "*fp32"}
    sizes = {"batch": "i32", "pitch": "i32"}
    squares = {"mine": "*fp64", "theirs": "*fp64"}
    yield Variant(_planes_kernel, {**squares, **planes, **sizes}, {"BLOCK": PLANE_BLOCK}, aligned=("planes", "pitch"))
    for tile_j, tile_k, warps in TILES.values():
        tile, turns = {"TILE_J": tile_j, "TILE_K": tile_k}, {**sizes, "anchors": "i32"}
        signature = {**planes, "partials": "*fp32", **turns}
        yield Variant(_values_kernel, signature, tile, num_warps=warps, aligned=("planes", "pitch"))
        signature, aligned = {"grad": "*fp32", **planes, **parts, **turns}, ("planes", *parts, "pitch")
        yield Variant(_slopes_kernel, signature, tile, num_warps=warps, aligned=aligned)
        counts = {"columns": "i32", "groups": "i32", "scale": "fp32"}
        signature = {**parts, "matrix": "*fp32", **sizes, **counts}
        yield Variant(_matrix_kernel, signature, {"SIDE": min(SIDE, tile_j)}, aligned=(*parts, "pitch"))
    yield Variant(_balance_kernel, {"matrix": "*fp32", "batch": "i32"}, {"ROW": ROW})


def _plan(batch: int) -> tuple[int, tuple[int, int, int], int]:
    """Return the samples with those that fill up tiles, the grid of the kernels over triples, and samples in turn."""
    tile_j, tile_k, _ = TILES[batch <= SIDE]
    rows = triton.cdiv(batch, tile_j)
    pitch = rows * tile_j
    tiles = rows, pitch // tile_k
    anchors = max(1, min(MOST_ANCHORS, batch * tiles[0] * tiles[1] // PROGRAMS))
    return pitch, (*tiles, triton.cdiv(batch, anchors)), anchors


def _planes(mine: Tensor, theirs: Tensor) -> Tensor:
    """Return half squares, inverse distances and half distances of both, `[6, pitch, pitch]`, padded with zeros."""
    batch = len(mine)
    pitch, *_ = _plan(batch)
    planes = mine.new_empty(6, pitch, pitch, dtype=torch.float32)
    with device_of(mine):
        _planes_kernel[(pitch, triton.cdiv(pitch, PLANE_BLOCK))](
            mine, theirs, planes, batch, pitch, BLOCK=PLANE_BLOCK, num_warps=4
        )
    return planes
