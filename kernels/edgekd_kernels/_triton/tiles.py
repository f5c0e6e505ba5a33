"""Tiles of features `[B, C, P]`: channels by positions of one sample, in float32, at any strides.

Which of the two dimensions a tile is long in follows from the memory layout, so that NCHW and channels_last are both
read in whole cache lines.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

STRIDES = ("sb", "sc", "sp", "tb", "tc", "tp")
ELEMENTS = 1024
TILES = ((1, 1024), (16, 64), (64, 16), (1024, 1))
"""Channels and positions of tiles that the ahead-of-time check compiles for."""
COLUMN_TILES = (*TILES, (256, 16), (4096, 1))
"""The same, of tiles that `column_tile_of` gives."""
_LARGE = 4096
_ENOUGH_PROGRAMS = 1024
_NARROW = 16


@triton.jit
def load_tile(base, sample, channel, position, sb, sc, sp, inside):
    """Return a tile in float32, 0 outside."""
    at = sample * sb + channel[:, None].to(tl.int64) * sc + position[None, :].to(tl.int64) * sp
    return tl.load(base + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def store_tile(base, sample, channel, position, sb, sc, sp, inside, values):
    """Write a tile in the dtype of its tensor."""
    at = sample * sb + channel[:, None].to(tl.int64) * sc + position[None, :].to(tl.int64) * sp
    tl.store(base + at, values.to(base.dtype.element_ty), mask=inside)


def is_channels_last(features: Tensor) -> bool:
    """Return whether neighbours in memory are channels."""
    return features.stride(1) == 1 and (features.stride(2) != 1 or features.shape[2] == 1)


def tile_of(features: Tensor, *, least_channels: int = 16) -> tuple[int, int]:
    """Return the channels and positions of a tile, powers of two, 1024 elements at most.

    Args:
        features: `[B, C, P]`.
        least_channels: Of a tile whose rows are positions, if the features have as many.
    """
    _, channels, positions = (triton.next_power_of_2(size) for size in features.shape)
    if is_channels_last(features):
        block_c = min(channels, ELEMENTS // min(16, positions))
        return block_c, min(positions, ELEMENTS // block_c)
    block_p = min(positions, ELEMENTS // min(least_channels, channels))
    return min(channels, ELEMENTS // block_p), block_p


def column_tile_of(features: Tensor) -> tuple[int, int]:
    """Return the channels and positions of a tile, powers of two, for a program that takes all channels of positions.

    Few programs would leave a GPU idle. Where there are few, each takes fewer positions, and more channels at once.

    Args:
        features: `[B, C, P]`.
    """
    batch, channels, positions = features.shape
    block_c, block_p = tile_of(features)
    if batch * triton.cdiv(positions, block_p) >= _ENOUGH_PROGRAMS:
        return block_c, block_p
    block_p = min(block_p, _NARROW)
    return min(triton.next_power_of_2(channels), _LARGE // block_p), block_p


def warps_of(block_c: int, block_p: int) -> int:
    """Return the warps for a tile: 8 elements a thread, whose addresses of 64 bits fill most registers."""
    return max(1, block_c * block_p // 256)
