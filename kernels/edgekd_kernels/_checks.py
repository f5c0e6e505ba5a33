"""What every loss checks and does first."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def widened(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 at least, so that sums do not overflow or lose digits."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def require_same_shape(student: Tensor, teacher: Tensor) -> None:
    """Raise `ValueError` unless two tensors have one shape."""
    if student.shape != teacher.shape:
        raise ValueError(f"shapes differ: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}")


def require_pair(*, same: str = "shape", **tensors: Tensor) -> None:
    """Check what every loss needs of a student's and a teacher's tensor.

    Args:
        same: What must agree, `"shape"` or `"batch"`.
        tensors: Two tensors by the names of the arguments.

    Raises:
        ValueError: A batch is empty, or shapes, batch sizes or devices differ.
        TypeError: A tensor is not of floating point.
    """
    (one, student), (other, teacher) = tensors.items()
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise TypeError(f"{name} has dtype {tensor.dtype}, expected floating point")
        if tensor.dim() < 2 or tensor.shape[0] == 0:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected [B, ...] with B >= 1")
    shape, its_shape = student.shape, teacher.shape
    if shape[0] != its_shape[0] or (same == "shape" and shape != its_shape):
        what = "shapes" if same == "shape" else "batch sizes"
        raise ValueError(f"{what} differ: {one} {tuple(shape)}, {other} {tuple(its_shape)}")
    if student.device != teacher.device:
        raise ValueError(f"devices differ: {one} is on {student.device}, {other} on {teacher.device}")


def require_logits(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Check a student's and a teacher's logits `[B, K]`, as `require_pair` does.

    Raises:
        ValueError: Logits are no rows.
    """
    require_pair(student_logits=student_logits, teacher_logits=teacher_logits)
    if student_logits.dim() != 2 or student_logits.shape[1] == 0:
        raise ValueError(f"logits have shape {tuple(student_logits.shape)}, expected [B, K] with K >= 1")


def require_positive(temperature: float) -> None:
    """Raise `ValueError` unless a temperature is positive and finite, `TypeError` if it is a tensor.

    A fused loss has no gradient for its temperature: one that should be learned would quietly stay as it is.
    """
    if isinstance(temperature, Tensor):
        raise TypeError("temperature is a tensor, expected a number (curriculum_kl learns its temperature)")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
