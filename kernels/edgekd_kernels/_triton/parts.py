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


def joining_of(parts: int) -> Joining:
    """Return the tile for rows in so many parts."""
    at_once = next((size for size in _PARTS if parts <= size), _PARTS[-1])
    return Joining(_TILE // at_once, at_once)


def joinings() -> Iterator[Joining]:
    """Yield every tile that a launch can pick."""
    yield from map(joining_of, _PARTS)


@triton.jit
def place_of_tile(program, tiles, parts):
    """Return the outer index, the tile of rows and the part of a program; neighbours share a row."""
    return program // (tiles * parts), program // parts % tiles, program % parts


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
