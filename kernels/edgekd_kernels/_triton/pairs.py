"""Contrast of a sample's own pair with the pairs of other samples, from all cosines of a batch.

The forward is split into tiles of cosines, of which it keeps the largest and a sum for each row; a second kernel makes
log-normalisers of them. The backward forms the tiles again and writes the matrix that both gradients are products with.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product as product_of
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._dispatch import is_interpreted
from edgekd_kernels._rows import inner_products
from edgekd_kernels._torch.contrastive import SHORTEST
from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.products import added, product
from edgekd_kernels._triton.rows import FILL
from edgekd_kernels._triton.variants import DTYPE_PAIRS, Variant

_SIDE = 32
_LARGE_SIDE = 64
_LARGE = 512
"""Samples from which on tiles are large: with fewer they would leave a GPU idle."""
_ROWS = 4
_LONG = 256
_PARTS = {"own": "*fp32", "peaks": "*fp32", "totals": "*fp32"}


@triton.jit
def _inverse_lengths_kernel(
    rows, inverse, count, width, stride, step, least, ROWS: tl.constexpr, DEPTH: tl.constexpr  # [B, D], [B]
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    squares = tl.zeros((ROWS,), tl.float32)
    for start in range(0, width, DEPTH):
        column = start + tl.arange(0, DEPTH)
        inside = (row < count)[:, None] & (column < width)[None, :]
        tile = tl.load(rows + row[:, None] * stride + column[None, :] * step, mask=inside, other=0.0).to(tl.float32)
        squares += tl.sum(tile * tile, axis=1)
    is_short = squares <= least  # so that NaN, which compares false, stays NaN
    tl.store(inverse + row, tl.where(is_short, 0.0, 1.0 / tl.sqrt(tl.where(is_short, 1.0, squares))), mask=row < count)


@triton.jit
def _cosines(
    student, teacher, inverse_s, inverse_t, row, column, count, width, sb, sd, tb, td,
    SIDE: tl.constexpr, DEPTH: tl.constexpr, WIDEN: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Return the cosines of a block of students with a block of teachers, sums of short sums."""
    products = tl.zeros((SIDE, SIDE), tl.float32)
    for start in range(0, width, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        inside = (row < count)[:, None] & (depth < width)[None, :]
        s = tl.load(student + row[:, None] * sb + depth[None, :] * sd, mask=inside, other=0.0)
        inside = (column < count)[None, :] & (depth < width)[:, None]
        t = tl.load(teacher + column[None, :] * tb + depth[:, None] * td, mask=inside, other=0.0)
        if WIDEN:
            s, t = s.to(tl.float32), t.to(tl.float32)
        products = added(products, product(s, t, UPCAST))
    mine = tl.load(inverse_s + row, mask=row < count, other=0.0)
    theirs = tl.load(inverse_t + column, mask=column < count, other=0.0)
    return products * mine[:, None] * theirs[None, :]


@triton.jit
def _info_nce_tiles_kernel(
    student, teacher, inverse_s, inverse_t, own, peaks, totals,  # [B, D] twice, [B] thrice, [tiles, B] twice
    count, width, sb, sd, tb, td, inverse_temperature,
    SIDE: tl.constexpr, DEPTH: tl.constexpr, WIDEN: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    # One tile's largest score in each row and the sum of exponentials from it; on the diagonal the own pair's score.
    i, j = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row, column = i.to(tl.int64) * SIDE + tl.arange(0, SIDE), j * SIDE + tl.arange(0, SIDE)
    scores = inverse_temperature * _cosines(
        student, teacher, inverse_s, inverse_t, row, column, count, width, sb, sd, tb, td, SIDE, DEPTH, WIDEN, UPCAST
    )
    scores = tl.where((column < count)[None, :], scores, FILL)
    if i == j:
        its_own = tl.sum(tl.where(column[None, :] == row[:, None], scores, 0.0), axis=1)
        tl.store(own + row, its_own, mask=row < count)
    largest = tl.max(scores, axis=1)
    tl.store(peaks + j * count + row, largest, mask=row < count)
    tl.store(totals + j * count + row, tl.sum(tl.exp(scores - largest[:, None]), axis=1), mask=row < count)


@triton.jit
def _info_nce_values_kernel(
    own, peaks, totals, values, log_total,  # [B], [tiles, B] twice, [B] twice
    count, tiles,
    SIDE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    largest, total = tl.full((SIDE,), FILL, tl.float32), tl.zeros((SIDE,), tl.float32)
    for start in range(0, tiles, SIDE):
        tile = start + tl.arange(0, SIDE).to(tl.int64)
        inside = (tile < tiles)[:, None] & (row < count)[None, :]
        place = tile[:, None] * count + row[None, :]
        peak = tl.load(peaks + place, mask=inside, other=FILL)
        larger = tl.maximum(largest, tl.max(peak, axis=0))
        sums = tl.load(totals + place, mask=inside, other=0.0) * tl.exp(peak - larger[None, :])
        total = total * tl.exp(largest - larger) + tl.sum(sums, axis=0)
        largest = larger
    log_sum = tl.log(total)
    tl.store(values + row, log_sum + (largest - tl.load(own + row, mask=row < count, other=0.0)), mask=row < count)
    tl.store(log_total + row, log_sum + largest, mask=row < count)


@triton.jit
def _info_nce_weights_kernel(
    grad, student, teacher, inverse_s, inverse_t, log_total, weights,  # [B], [B, D] twice, [B] thrice, [B, B]
    count, width, go, sb, sd, tb, td, inverse_temperature,
    SIDE: tl.constexpr, DEPTH: tl.constexpr, WIDEN: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    column = tl.program_id(1).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    scores = inverse_temperature * _cosines(
        student, teacher, inverse_s, inverse_t, row, column, count, width, sb, sd, tb, td, SIDE, DEPTH, WIDEN, UPCAST
    )
    shares = tl.exp(scores - tl.load(log_total + row, mask=row < count, other=0.0)[:, None])
    upstream = inverse_temperature * tl.load(grad + row * go, mask=row < count, other=0.0).to(tl.float32)
    result = (shares - tl.where(column[None, :] == row[:, None], 1.0, 0.0)) * upstream[:, None]
    inside = (row < count)[:, None] & (column < count)[None, :]
    tl.store(weights + row[:, None] * count + column[None, :], result, mask=inside)


@triton.jit
def _through_unit_kernel(
    rows, of_unit, inverse, gradient, width, rb, rd, gb, gd, BLOCK: tl.constexpr  # [B, D] twice, [B], [B, D]
):  # fmt: skip
    # ds = (e - x <x, e>) / length for the gradient e of the unit row x.
    row = tl.program_id(0).to(tl.int64)
    scale = tl.load(inverse + row)
    along = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = tl.load(rows + row * rb + column * rd, mask=column < width, other=0.0).to(tl.float32)
        along += x * tl.load(of_unit + row * width + column, mask=column < width, other=0.0)
    share = tl.sum(along, axis=0) * scale * scale
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = tl.load(rows + row * rb + column * rd, mask=column < width, other=0.0).to(tl.float32)
        e = tl.load(of_unit + row * width + column, mask=column < width, other=0.0)
        result = ((e - x * share) * scale).to(gradient.dtype.element_ty)
        tl.store(gradient + row * gb + column * gd, result, mask=column < width)


def info_nce_forward(student: Tensor, teacher: Tensor, *, temperature: float) -> tuple[Tensor, ...]:
    """Return the values `[B]`, then the log-normalisers and both sides' inverse lengths, `[B]`.

    Args:
        student: `[B, D]`.
        teacher: `[B, D]`.
        temperature: Divides the cosines.
    """
    count, width = student.shape
    tile = _tile(count, student.dtype != teacher.dtype or student.dtype == torch.float32)
    blocks = triton.cdiv(count, tile["SIDE"])
    shapes = [(count,)] * 5 + [(blocks, count)] * 2
    values, log_total, inverse, its_inverse, own, peaks, totals = (
        student.new_empty(shape, dtype=torch.float32) for shape in shapes
    )
    with device_of(student):
        for rows, lengths in ((student, inverse), (teacher, its_inverse)):
            _inverse_lengths_kernel[(triton.cdiv(count, _ROWS),)](
                rows, lengths, count, width, *rows.stride(), SHORTEST**2, ROWS=_ROWS, DEPTH=_LONG
            )
        _info_nce_tiles_kernel[(blocks, blocks)](
            student, teacher, inverse, its_inverse, own, peaks, totals, count, width, *student.stride(),
            *teacher.stride(), 1 / temperature, WIDEN=student.dtype != teacher.dtype, UPCAST=is_interpreted(), **tile,
        )  # fmt: skip
        _info_nce_values_kernel[(triton.cdiv(count, _SIDE),)](
            own, peaks, totals, values, log_total, count, blocks, SIDE=_SIDE
        )
    return values, log_total, inverse, its_inverse


def info_nce_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, log_total: Tensor, inverse: Tensor, its_inverse: Tensor, *,
    temperature: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the gradients of both sides, `[B, D]`: the kernel's `[B, B]` times the other side's unit rows."""
    count, width = student.shape
    weights = student.new_empty(count, count, dtype=torch.float32)
    tile = _tile(count, student.dtype != teacher.dtype or student.dtype == torch.float32)
    blocks = triton.cdiv(count, tile["SIDE"])
    with device_of(student):
        _info_nce_weights_kernel[(blocks, blocks)](
            grad, student, teacher, inverse, its_inverse, log_total, weights, count, width, *grad.stride(),
            *student.stride(), *teacher.stride(), 1 / temperature, WIDEN=student.dtype != teacher.dtype,
            UPCAST=is_interpreted(), **tile,
        )  # fmt: skip
    mine, theirs = (
        rows.float() * lengths.unsqueeze(1) for rows, lengths in ((student, inverse), (teacher, its_inverse))
    )
    return (
        _through_unit(student, inner_products(weights, theirs.t()), inverse),
        _through_unit(teacher, inner_products(weights.t(), mine.t()), its_inverse),
    )


def pair_variants() -> Iterator[Variant]:
    """Yield the kernels in the configurations that launches pick."""
    for (student, teacher), count in product_of(DTYPE_PAIRS, (1, _LARGE)):
        pair = {"student": f"*{student}", "teacher": f"*{teacher}", "inverse_s": "*fp32", "inverse_t": "*fp32"}
        numbers = {**dict.fromkeys(("count", "width", "sb", "tb"), "i32"), "inverse_temperature": "fp32"}
        tile = _tile(count, student != teacher or student == "fp32")
        launch = {name: tile.pop(name) for name in ("num_warps", "num_stages")}
        constants = {**tile, "WIDEN": student != teacher, "UPCAST": False, "sd": 1, "td": 1}
        yield Variant(_info_nce_tiles_kernel, {**pair, **_PARTS, **numbers}, constants, **launch)
        matrices = {"grad": "*fp32", **pair, "log_total": "*fp32", "weights": "*fp32"}
        yield Variant(_info_nce_weights_kernel, {**matrices, **numbers, "go": "i32"}, constants, **launch)
    rows = {"values": "*fp32", "log_total": "*fp32", "count": "i32", "tiles": "i32"}
    yield Variant(_info_nce_values_kernel, {**_PARTS, **rows}, {"SIDE": _SIDE})
    for dtype in ("fp32", "bf16", "fp16"):
        yield from _variants_of_rows(dtype)


def _variants_of_rows(dtype: str) -> Iterator[Variant]:
    sizes = dict.fromkeys(("count", "width", "stride"), "i32")
    yield Variant(
        _inverse_lengths_kernel,
        {"rows": f"*{dtype}", "inverse": "*fp32", **sizes, "least": "fp32"},
        {"ROWS": _ROWS, "DEPTH": _LONG, "step": 1},
    )
    pointers = {"rows": f"*{dtype}", "of_unit": "*fp32", "inverse": "*fp32", "gradient": f"*{dtype}"}
    signature = {**pointers, **dict.fromkeys(("width", "rb", "gb"), "i32")}
    for block in (128, 512):
        yield Variant(_through_unit_kernel, signature, {"BLOCK": block, "rd": 1, "gd": 1})


def _tile(count: int, is_float32: bool) -> dict[str, Any]:
    """Return the side of a tile of cosines, the terms of a product that are taken at once, and how its program runs."""
    side, warps = (_LARGE_SIDE, 8) if count >= _LARGE else (_SIDE, 4)
    return {"SIDE": side, "DEPTH": 32 if is_float32 else 64, "num_warps": warps, "num_stages": 2}


def _through_unit(rows: Tensor, of_unit: Tensor, inverse: Tensor) -> Tensor:
    count, width = rows.shape
    gradient = torch.empty_like(rows)
    with device_of(rows):
        _through_unit_kernel[(count,)](
            rows, of_unit, inverse, gradient, width, *rows.stride(), *gradient.stride(), BLOCK=_block(width)
        )
    return gradient


def _block(width: int) -> int:
    return 128 if width <= 128 else 512
