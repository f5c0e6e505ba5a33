"""Squared differences of feature maps at several resolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from edgekd_kernels._dispatch import Impl
from edgekd_kernels._maps import require_maps
from edgekd_kernels._op import FusedLoss, Signature, accumulation_dtype


def _fake_pooled_mse(student: Tensor, teacher: Tensor, *, levels: Sequence[int]) -> tuple[Tensor, ...]:
    batch, channels = student.shape[:2]
    dtype = accumulation_dtype(student, teacher)
    windows = sum(level * level for level in levels)
    return student.new_empty(batch, dtype=dtype), student.new_empty(batch, channels, windows, dtype=dtype)


_POOLED_MSE = FusedLoss(
    Signature(
        name="pooled_mse",
        family="pooled",
        inputs=("student", "teacher"),
        options={"levels": "int[]"},
        gradients=("student",),
        kept=("student", "teacher"),
        saved=("means",),
        fake=_fake_pooled_mse,
        offered=("triton", "cuda", "torch"),
    )
)


def pooled_mse(
    student_map: Tensor, teacher_map: Tensor, *, levels: tuple[int, ...] = (4, 2, 1), impl: Impl = "auto"
) -> Tensor:
    """Hierarchical context loss: mean squared difference of two maps and of their pooled pyramids.

    The maps themselves weigh 1, each coarser level half of the one before; the sum is divided by the weights' total.
    A level as large as the map's shorter side or larger is left out. Level `l` averages `l x l` windows from
    `floor(i H / l)` to `ceil((i + 1) H / l)`, which overlap where `l` does not divide the side.

    Args:
        student_map: `[B, C, H, W]`, already adapted to the teacher's width and size.
        teacher_map: The same shape; no gradient reaches it.
        levels: Sides of the pooled maps, coarser and coarser.
        impl: Which implementation.

    Returns:
        `[B]`.

    Raises:
        ValueError: Shapes or devices differ, a tensor is no map or has no elements, or a level is not positive.
        TypeError: A tensor is not of floating point.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 2104.09044.
    """
    require_maps(student_map=student_map, teacher_map=teacher_map)
    if any(level < 1 for level in levels):
        raise ValueError(f"levels must be positive, got {levels}")
    side = min(student_map.shape[-2:])
    used = [level for level in levels if level < side]
    return _POOLED_MSE(student_map, teacher_map.detach(), levels=used, impl=impl)
