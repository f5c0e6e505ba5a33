"""Rows that several programs share: what each part's program leaves, `[statistics, outer, parts, rows]`, and its sums.

A divergence falls into those inside the parts and the one between the parts, `sum P (D + log P - log Q)` with `P` and
`Q` what a part has of each side's probability. Both are divergences of log-softmaxes, formed before they are
subtracted, so nothing cancels where the sides are alike; and each tensor is read once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import triton
import triton.language as tl

from edgekd_kernels._triton.rows import FILL

_TILE = 256
_PARTS = (16, 64, 256)
_MANY_ROWS = 1024


@dataclass(frozen=True)
class Joining:
    """The tile of a program that sums over parts.

    Attributes:
        rows: Rows of the tile.
        parts: Parts that it takes at once.
    """

    rows: int
    parts: int

    @property
    def constants(self) -> dict[str, int]:
        """The compile-time arguments of a kernel."""
        return {"ROWS": self.rows, "PARTS": self.parts}


def joining_of(parts: int, rows: int) -> Joining:
    """Return the tile for rows in so many parts; many rows are taken several at once, which lie side by side."""
    sizes = _PARTS[:-1] if rows >= _MANY_ROWS else _PARTS
    return _joining(next((size for size in sizes if parts <= size), sizes[-1]))


def joinings() -> Iterator[Joining]:
    """Yield every tile that a launch can pick."""
    yield from map(_joining, _PARTS)


def _joining(at_once: int) -> Joining:
    return Joining(_TILE // at_once, at_once)


@triton.jit
def place_of_tile(program, tiles, parts):
    """Return the outer index, the tile of rows and the part of a program, as int64; neighbours share a row.

    The program's number is divided as it comes: 64 bits would divide slowly.
    """
    outer, tile, part = program // (tiles * parts), program // parts % tiles, program % parts
    return outer.to(tl.int64), tile.to(tl.int64), part.to(tl.int64)


@triton.jit
def load_parts(statistics, index, side, row, part, rows, parts, other):
    """Return a tile of one statistic `[rows, parts]`."""
    inside = (row < rows)[:, None] & (part < parts)[None, :]
    offsets = part[None, :] * rows + row[:, None]
    return tl.load(statistics + index * tl.cast(side, tl.int64) + offsets, mask=inside, other=other)


@triton.jit
def load_softmax(statistics, index, side, row, part, rows, parts):
    """Return of each part the largest value and the sum of exponentials less it; of none what adds nothing."""
    largest = load_parts(statistics, index, side, row, part, rows, parts, FILL)
    return largest, load_parts(statistics, index + 1, side, row, part, rows, parts, 1.0)


@triton.jit
def load_statistic(statistics, index, side, row, rows):
    """Return one statistic of rows, 0 where there is no row."""
    return tl.load(statistics + index * tl.cast(side, tl.int64) + row, mask=row < rows, other=0.0)


@triton.jit
def store_statistic(statistics, index, side, row, rows, values):
    """Store one statistic of rows."""
    tl.store(statistics + index * tl.cast(side, tl.int64) + row, values, mask=row < rows)
