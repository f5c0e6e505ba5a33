"""The batch Gram matrix, squared distances from it, and the product that carries a gradient back to features.

The Gram matrix is summed over parts of `D` into float32 partials and these in float64, in a fixed order. Products run
on tensor cores, those of float32 features, and of all that are centred, by parts that keep float32's digits. A part is
a sum of short sums: a long one costs the digits that a small loss is made of, as tensor cores cut off where others
round. Where a difference of entries would cancel, `q_ij < 1e-4 (G_ii + G_jj)`, the distance is taken from the rows
themselves; a cosine seen from such a pair keeps an error of about `1e-7 |x| / d_ij`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product as pairs
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._dispatch import is_interpreted
from edgekd_kernels._rows import ROUNDING, gram_parts
from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.products import added, product
from edgekd_kernels._triton.variants import Variant

MEANS_OF_FEW = (256, 16)
MEANS_OF_MANY = (64, 128)
"""Rows and columns that one program takes the mean of at a time: few columns make few programs otherwise."""
MANY_COLUMNS = 2**14
MEAN_WARPS = 8
NEAR = {True: (32, 32), False: (256, 8)}
"""Other samples of a program, and columns in which near ones are compared at a time, of a small batch and a large."""
NORMS = 1024
TILE = 64
COMBINED_COLUMNS = 32
FEW_PARTS = (8, 128)
MANY_PARTS = (64, 32)
"""Parts and columns that one program adds up at a time: independent loads, as their latency is what the sum costs."""


@triton.jit
def _mean_kernel(
    rows, means, moments,  # [B, D], [D], [D / COLUMNS]
    batch, columns, sb, sd,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    # In float64, in which the mean of equal samples is exact. An error of the mean shows in all entries of a row of the
    # Gram matrix alike, and what samples have in common carries it to the gradient.
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < columns
    sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float64)
    for start in range(0, batch, ROWS):
        row = start + tl.arange(0, ROWS).to(tl.int64)
        mask = (row < batch)[:, None] & inside[None, :]
        sums += tl.load(rows + row[:, None] * sb + column[None, :] * sd, mask=mask, other=0.0).to(tl.float64)
    total = tl.sum(sums, axis=0)
    mean = (total / batch).to(tl.float32)
    tl.store(means + column, mean, mask=inside)
    tl.store(moments + tl.program_id(0), tl.sum(tl.where(inside, mean * mean, 0.0), axis=0))


@triton.jit
def _gram_kernel(
    rows, means, partials,  # [B, D], [D], [P, B, B]
    batch, columns, per_part, sb, sd,
    TILE: tl.constexpr, STEP: tl.constexpr, CENTRED: tl.constexpr, EXACT: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    # Tiles on and below the diagonal, each over its part of the columns.
    i, j, part = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    if i >= j:
        left = i.to(tl.int64) * TILE + tl.arange(0, TILE)
        right = j.to(tl.int64) * TILE + tl.arange(0, TILE)
        is_left, is_right = left < batch, right < batch
        sums = tl.zeros((TILE, TILE), dtype=tl.float32)
        stop = tl.minimum((part + 1) * per_part, columns)
        for start in range(part * per_part, stop, STEP):
            column = start + tl.arange(0, STEP)
            inside = column < stop
            mask_a, mask_b = is_left[:, None] & inside[None, :], inside[:, None] & is_right[None, :]
            a = tl.load(rows + left[:, None] * sb + column[None, :] * sd, mask=mask_a, other=0.0)
            b = tl.load(rows + column[:, None] * sd + right[None, :] * sb, mask=mask_b, other=0.0)
            if EXACT:
                a, b = a.to(tl.float32), b.to(tl.float32)
            if CENTRED:
                mean = tl.load(means + column, mask=inside, other=0.0)
                a, b = tl.where(mask_a, a - mean[None, :], 0.0), tl.where(mask_b, b - mean[:, None], 0.0)
            sums = added(sums, product(a, b, UPCAST))
        place = part * batch * batch + left[:, None] * batch + right[None, :]
        tl.store(partials + place, sums, mask=is_left[:, None] & is_right[None, :])


@triton.jit
def _sum_kernel(
    partials, gram, norms,  # [P, B, B], [B, B], [B]
    batch, parts,
    PARTS: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    # Of one row, and its entry on the diagonal; what lies above the diagonal's tiles is read from below it.
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < batch
    is_below = row // TILE >= column // TILE
    place = tl.where(is_below, row * batch + column, column * batch + row)
    total = tl.zeros((PARTS, BLOCK), dtype=tl.float64)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS).to(tl.int64)
        mask = (part < parts)[:, None] & inside[None, :]
        at = part[:, None] * batch * batch + place[None, :]
        total += tl.load(partials + at, mask=mask, other=0.0).to(tl.float64)
    whole = tl.sum(total, axis=0)
    tl.store(gram + row * batch + column, whole, mask=inside)
    tl.store(norms + column, whole, mask=column == row)


@triton.jit
def is_uniform(norms, moments, batch, tiles, rounding, BLOCK: tl.constexpr):
    """Return whether samples differ by no more than rounding, of which their mean's square is the measure."""
    square, moment = tl.zeros((BLOCK,), dtype=tl.float64), tl.zeros((BLOCK,), dtype=tl.float64)
    for start in range(0, batch, BLOCK):
        at = start + tl.arange(0, BLOCK)
        square += tl.load(norms + at, mask=at < batch, other=0.0)
    for start in range(0, tiles, BLOCK):
        at = start + tl.arange(0, BLOCK)
        moment += tl.load(moments + at, mask=at < tiles, other=0.0).to(tl.float64)
    spread = tl.sum(square, axis=0)
    return spread <= rounding * (spread + batch * tl.sum(moment, axis=0))


@triton.jit
def _squares_kernel(
    rows, gram, norms, moments, squares,  # [B, D], [B, B], [B], [tiles], [B, B]
    batch, columns, tiles, sb, sd, rounding,
    BLOCK: tl.constexpr, STEP: tl.constexpr, NORMS: tl.constexpr,
):  # fmt: skip
    # Squared distances from one sample to a block of others, exactly 0 to coincident ones.
    row = tl.program_id(0).to(tl.int64)
    other = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = other < batch
    both = tl.load(norms + row) + tl.load(norms + other, mask=inside, other=0.0)
    square = both - 2 * tl.load(gram + row * batch + other, mask=inside, other=0.0)
    near = inside & (other != row) & (square < 1e-4 * both)
    if tl.sum(near.to(tl.int32), axis=0) > 0:
        direct = tl.zeros((BLOCK,), dtype=tl.float32)
        for at in range(0, columns, STEP):
            column = at + tl.arange(0, STEP).to(tl.int64)
            held = column < columns
            mask = near[:, None] & held[None, :]
            a = tl.load(rows + row * sb + column * sd, mask=held, other=0.0).to(tl.float32)
            b = tl.load(rows + other[:, None] * sb + column[None, :] * sd, mask=mask, other=0.0).to(tl.float32)
            gap = tl.where(mask, a[None, :] - b, 0.0)
            direct += tl.sum(gap * gap, axis=1)
        square = tl.where(near, direct.to(tl.float64), square)
    uniform = is_uniform(norms, moments, batch, tiles, rounding, NORMS)
    square = tl.where(uniform, 0.0, tl.where(square <= rounding * both, 0.0, square))
    tl.store(squares + row * batch + other, square, mask=inside)


@triton.jit
def _combine_kernel(
    matrix, rows, combined,  # [B, B], [B, D], [B, D]
    batch, columns, sb, sd, cb, cd,
    TILE: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, SHIFTED: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    # matrix @ rows. A matrix whose rows sum to 0 does not see what is subtracted from all samples.
    row = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = row < batch, column < columns
    first = tl.load(rows + column * sd, mask=is_column, other=0.0).to(tl.float32)
    sums = tl.zeros((TILE, COLUMNS), dtype=tl.float32)
    for start in range(0, batch, STEP):
        other = start + tl.arange(0, STEP).to(tl.int64)
        held = other < batch
        mask = held[:, None] & is_column[None, :]
        m = tl.load(matrix + row[:, None] * batch + other[None, :], mask=is_row[:, None] & held[None, :], other=0.0)
        x = tl.load(rows + other[:, None] * sb + column[None, :] * sd, mask=mask, other=0.0).to(tl.float32)
        if SHIFTED:
            x = tl.where(mask, x - first[None, :], 0.0)
        sums = added(sums, product(m, x, UPCAST))
    place = combined + row[:, None] * cb + column[None, :] * cd
    tl.store(place, sums.to(combined.dtype.element_ty), mask=is_row[:, None] & is_column[None, :])


def gram_matrix(rows: Tensor, *, centred: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the Gram matrix of samples `[B, B]` in float64, its diagonal, and parts of their mean's square.

    Args:
        rows: `[B, D]`.
        centred: Whether samples are taken about their mean.
    """
    batch, columns = rows.shape
    means, moments = _means(rows) if centred else [rows.new_empty(0, dtype=torch.float32)] * 2
    is_exact = centred or is_interpreted() or rows.dtype == torch.float32
    tile = tile_of(batch)
    steps = steps_of(tile, is_exact, centred)
    across = triton.cdiv(batch, tile)
    parts, per_part = gram_parts(batch, columns, tile, steps["STEP"])
    partials = rows.new_empty(parts, batch, batch, dtype=torch.float32)
    with device_of(rows):
        _gram_kernel[(across, across, parts)](
            rows, means, partials, batch, columns, per_part, *rows.stride(), TILE=tile, CENTRED=centred,
            EXACT=is_exact, UPCAST=is_interpreted(), num_warps=warps_of(tile), **steps,
        )  # fmt: skip
    return *sum_parts(partials, tile), moments


def sum_parts(partials: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """Return the sum of the parts in float64, mirrored above the tiles on the diagonal, and its diagonal.

    Args:
        partials: float32 `[P, B, B]`.
        tile: Side of the tiles, those above the diagonal missing in the parts.
    """
    parts, batch, _ = partials.shape
    gram, norms = (partials.new_empty(shape, dtype=torch.float64) for shape in ((batch, batch), (batch,)))
    together, block = FEW_PARTS if parts <= FEW_PARTS[0] else MANY_PARTS
    with device_of(gram):
        _sum_kernel[(batch, triton.cdiv(batch, block))](
            partials, gram, norms, batch, parts, PARTS=together, BLOCK=block, TILE=tile, num_warps=4
        )
    return gram, norms


def squared_distances(rows: Tensor) -> Tensor:
    """Return squared distances between samples in float64, `[B, B]`, exactly 0 between coincident ones."""
    gram, norms, moments = gram_matrix(rows, centred=True)
    squares = torch.empty_like(gram)
    block, step = NEAR[len(rows) <= TILE]
    with device_of(rows):
        _squares_kernel[(len(rows), triton.cdiv(len(rows), block))](
            rows, gram, norms, moments, squares, *rows.shape, len(moments), *rows.stride(), ROUNDING,
            BLOCK=block, STEP=step, NORMS=NORMS, num_warps=4,
        )  # fmt: skip
    return squares


def combined(matrix: Tensor, rows: Tensor, *, is_balanced: bool) -> Tensor:
    """Return `matrix @ rows`, in the rows' dtype and layout.

    Args:
        matrix: float32 `[B, B]`.
        rows: `[B, D]`.
        is_balanced: Whether the matrix's rows sum to 0; what samples have in common is then subtracted before rounding.
    """
    batch, columns = rows.shape
    result, tile = torch.empty_like(rows), tile_of(batch)
    with device_of(rows):
        _combine_kernel[(triton.cdiv(columns, COMBINED_COLUMNS), triton.cdiv(batch, tile))](
            matrix, rows, result, batch, columns, *rows.stride(), *result.stride(), TILE=tile, COLUMNS=COMBINED_COLUMNS,
            SHIFTED=is_balanced, UPCAST=is_interpreted(), num_warps=warps_of(tile),
            **steps_of(tile, is_exact=True, is_centred=is_balanced),
        )  # fmt: skip
    return result


def tile_of(batch: int) -> int:
    """Return the side of a Gram tile."""
    return 16 if batch <= 16 else TILE


def warps_of(tile: int) -> int:
    """Return the warps of a program with a tile of such a side."""
    return 8 if tile == TILE else 4


def steps_of(tile: int, is_exact: bool, is_centred: bool) -> dict[str, Any]:
    """Return the columns of a tile's rows that are multiplied at a time, and the stages of the pipeline of loads.

    Parts of float32 take registers, and more so where rows are not centred on the way: as many as spill none.
    """
    if not is_exact:
        return {"STEP": 64, "num_stages": 2}
    if tile < TILE:
        return {"STEP": 32, "num_stages": 1}
    return {"STEP": 32 if is_centred else 16, "num_stages": 2}


def _means(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of samples, `[D]`, and parts that add up to its square."""
    batch, columns = rows.shape
    at_once, across = MEANS_OF_FEW if columns < MANY_COLUMNS else MEANS_OF_MANY
    tiles = triton.cdiv(columns, across)
    means, moments = (rows.new_empty(count, dtype=torch.float32) for count in (columns, tiles))
    with device_of(rows):
        _mean_kernel[(tiles,)](
            rows, means, moments, batch, columns, *rows.stride(), ROWS=at_once, COLUMNS=across, num_warps=MEAN_WARPS
        )
    return means, moments


def batch_variants() -> Iterator[Variant]:
    """Yield the kernels that all relations share, in the configurations that launches pick."""
    for dtype in ("fp32", "bf16", "fp16"):
        yield from _variants_of_rows(dtype)
    for tile, (parts, block) in pairs((16, TILE), (FEW_PARTS, MANY_PARTS)):
        yield Variant(
            _sum_kernel,
            {"partials": "*fp32", "gram": "*fp64", "norms": "*fp64", "batch": "i32", "parts": "i32"},
            {"PARTS": parts, "BLOCK": block, "TILE": tile},
        )


def _variants_of_rows(dtype: str) -> Iterator[Variant]:
    rows, strides, sizes = {"rows": f"*{dtype}"}, {"sb": "i32", "sd": "i32"}, {"batch": "i32", "columns": "i32"}
    for at_once, across in (MEANS_OF_FEW, MEANS_OF_MANY):
        signature = {**rows, "means": "*fp32", "moments": "*fp32", **sizes, **strides}
        yield Variant(_mean_kernel, signature, {"ROWS": at_once, "COLUMNS": across}, num_warps=MEAN_WARPS)
    for block, step in NEAR.values():
        tensors = {**rows, "gram": "*fp64", "norms": "*fp64", "moments": "*fp32", "squares": "*fp64"}
        signature = {**tensors, **sizes, "tiles": "i32", **strides, "rounding": "fp32"}
        yield Variant(_squares_kernel, signature, {"BLOCK": block, "STEP": step, "NORMS": NORMS})
    for tile, is_centred in pairs((16, TILE), (True, False)):
        is_exact, warps = is_centred or dtype == "fp32", warps_of(tile)
        steps = steps_of(tile, is_exact, is_centred)
        signature = {**rows, "means": "*fp32", "partials": "*fp32", **sizes, "per_part": "i32", **strides}
        constants = {"TILE": tile, "STEP": steps.pop("STEP"), "CENTRED": is_centred, "EXACT": is_exact, "UPCAST": False}
        yield Variant(_gram_kernel, signature, constants, num_warps=warps, **steps)
        steps = steps_of(tile, is_exact=True, is_centred=is_centred)
        signature = {"matrix": "*fp32", **rows, "combined": f"*{dtype}", **sizes, **strides, "cb": "i32", "cd": "i32"}
        constants = {"TILE": tile, "STEP": steps.pop("STEP"), "COLUMNS": COMBINED_COLUMNS, "SHIFTED": is_centred}
        yield Variant(_combine_kernel, signature, {**constants, "UPCAST": False}, num_warps=warps, **steps)
