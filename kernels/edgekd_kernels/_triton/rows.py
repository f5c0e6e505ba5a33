"""Tiles of rows: how the kernels on rows read tensors `[outer, rows, columns]`, in whatever order these lie in memory.

A program holds a tile `[ROWS, BLOCK]`. Where columns are adjacent in memory it takes as many short rows as fill the
tile; where rows are (class maps, channels last) it takes 64 rows side by side. Either way a warp's loads touch adjacent
addresses. Rows longer than a block are taken in turn by one program, or by one program for each part (`part_of`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import triton
import triton.language as tl
from torch import Tensor

FILL = tl.constexpr(-1e30)
"""Stands for minus infinity where a tile has no column: it stays finite when one is subtracted from another."""

_BLOCKS = (16, 64, 256, 1024, 4096)
_TILE = 1024
_NARROW_TILE = 256
_SIDE = 64
_PART = 2048


@dataclass(frozen=True)
class Tiling:
    """The tile of a program.

    Attributes:
        rows: Rows of the tile.
        block: Columns of the tile.
        is_blocked: Whether a row takes several tiles.
    """

    rows: int
    block: int
    is_blocked: bool

    def parts(self, columns: int) -> int:
        """Return how many tiles a row takes."""
        return max(1, -(-columns // self.block))

    @property
    def constants(self) -> dict[str, int | bool]:
        """The compile-time arguments of a kernel."""
        return {"ROWS": self.rows, "BLOCK": self.block, "IS_BLOCKED": self.is_blocked}

    @property
    def num_warps(self) -> int:
        """Warps of a program: 8 elements a thread, 16 in square tiles of rows that lie side by side; others spill."""
        return max(1, self.rows * self.block // (512 if self.rows == _SIDE and self.block == _SIDE else 256))


def tiling_of(rows: Tensor, *, sideways: bool = True) -> Tiling:
    """Return the tile for a tensor `[outer, rows, columns]`.

    Args:
        rows: The student's.
        sideways: Whether the kernel is made for rows that are adjacent in memory too. One that is not holds more of a
            tile at once, and gets a quarter of the elements.
    """
    columns = rows.shape[2]
    if sideways and rows.stride(1) < rows.stride(2) and rows.shape[1] > 1:
        block = next((block for block in (16, _SIDE) if columns <= block), _SIDE)
        return Tiling(_SIDE, block, columns > block)
    block = next((block for block in _BLOCKS if columns <= block), _BLOCKS[-1])
    return Tiling(_rows_of(block, sideways), block, columns > block)


def tilings(*, sideways: bool = True) -> Iterator[tuple[Tiling, str]]:
    """Yield every tile that a launch can pick and the axis along which its tensors are adjacent in memory.

    Args:
        sideways: Whether tensors whose rows are adjacent are among them.
    """
    for block in _BLOCKS:
        yield Tiling(_rows_of(block, sideways), block, is_blocked=False), "columns"
    yield Tiling(1, _BLOCKS[-1], is_blocked=True), "columns"
    if sideways:
        for block, is_blocked in ((16, False), (_SIDE, False), (_SIDE, True)):
            yield Tiling(_SIDE, block, is_blocked), "rows"


def part_of(tiling: Tiling) -> Tiling:
    """Return the tile where each program takes a part of a row: a smaller one, so that several share a processor.

    Args:
        tiling: One of `tilings()`.
    """
    return replace(tiling, block=_PART) if tiling.is_blocked and tiling.rows == 1 else tiling


def _rows_of(block: int, sideways: bool) -> int:
    return max(1, (_TILE if sideways else _NARROW_TILE) // block)


@triton.jit
def load_tile(pointer, row, column, row_stride, column_stride, rows, columns):
    """Return a tile in float32, 0 outside."""
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    offsets = row[:, None] * row_stride + column[None, :] * column_stride
    return tl.load(pointer + offsets, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def store_tile(pointer, tile, row, column, row_stride, column_stride, rows, columns):
    """Store a tile in the pointer's dtype."""
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    offsets = row[:, None] * row_stride + column[None, :] * column_stride
    tl.store(pointer + offsets, tile.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def load_logits(pointer, row, column, row_stride, column_stride, rows, columns, inverse_temperature):
    """Return a tile of logits divided by the temperature, `FILL` where there is no column."""
    tile = load_tile(pointer, row, column, row_stride, column_stride, rows, columns)
    return tl.where((column < columns)[None, :], tile * inverse_temperature, FILL)


@triton.jit
def softmax_tile(tile):
    """Return of each row the largest value, the sum of exponentials less it, that sum's log, and the log-softmax."""
    largest = tl.max(tile, axis=1)
    shifted = tile - largest[:, None]
    total = tl.sum(tl.exp(shifted), axis=1)
    log_total = tl.log(total)
    return largest, total, log_total, shifted - log_total[:, None]
