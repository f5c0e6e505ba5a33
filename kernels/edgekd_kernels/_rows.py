"""Rows and their products at full precision, which relations between samples need."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 2.0**-46
"""Squared length, relative to that of what it is a difference of, below which a difference is rounding in float32."""


_PROGRAMS = 288
_SMALL_PROGRAMS = 1024
"""Programs that a Gram matrix is split into: two for each multiprocessor of a large GPU; more where tiles are small."""


def require_same_batch(student: Tensor, teacher: Tensor) -> None:
    """Raise `ValueError` unless two tensors hold equally many samples."""
    if student.shape[0] != teacher.shape[0]:
        raise ValueError(f"batch sizes differ: student {student.shape[0]}, teacher {teacher.shape[0]}")


def unit_rows(rows: Tensor, *, epsilon: float = 1e-6) -> Tensor:
    """Divide vectors by their length; one not longer than `epsilon` becomes 0 and gets no gradient.

    Args:
        rows: `[..., D]`.
        epsilon: Shortest length that still has a direction.

    Returns:
        `[..., D]`.
    """
    squares = rows.square().sum(dim=-1, keepdim=True)
    is_short = squares <= epsilon**2  # so that NaN, which compares false, stays NaN
    return torch.where(is_short, 0.0, rows / squares.where(~is_short, 1.0).sqrt())


def inner_products(left: Tensor, right: Tensor) -> Tensor:
    """Return `left @ right^T` in the tensors' own precision, autocast or not.

    Args:
        left: `[..., N, D]`.
        right: `[..., M, D]`.

    Returns:
        `[..., N, M]`.
    """
    with torch.autocast(left.device.type, enabled=False):
        return left @ right.transpose(-1, -2)


def sample_rows(features: Tensor) -> Tensor:
    """Return samples as rows, their elements in the order of memory, which relations between samples do not depend on.

    So features in the layout channels-last are not copied.

    Args:
        features: `[B, ...]`.

    Returns:
        `[B, D]`.
    """
    order: list[int] = []
    for dim in range(1, features.dim()):  # sorted by hand, for torch.compile does not sort sizes that it does not know
        at = len([each for each in order if features.stride(each) >= features.stride(dim)])
        order.insert(at, dim)
    return features.permute(0, *order).flatten(1)


def gram_parts(batch: int, columns: int, tile: int, step: int) -> tuple[int, int]:
    """Return into how many parts a Gram kernel splits the columns, and the columns of one, a multiple of the step.

    The partial matrices of all parts take 8 MiB at most, for tiles of 64.

    Args:
        batch: Samples.
        columns: Of a sample.
        tile: Samples on a side of a program's tile; tiles above the diagonal are left out.
        step: Columns that a program takes at a time, at least four steps.
    """
    across = -(-batch // tile)
    programs = _SMALL_PROGRAMS if batch <= 16 else _PROGRAMS
    parts = max(1, min(2 * programs // (across * (across + 1)), -(-columns // (4 * step))))
    per_part = step * -(-columns // (step * parts))
    return -(-columns // per_part), per_part
