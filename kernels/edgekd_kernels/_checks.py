"""What every loss checks and does first."""

from __future__ import annotations

import torch
from torch import Tensor


def widened(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 at least, so that sums do not overflow or lose digits."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def require_same_shape(student: Tensor, teacher: Tensor) -> None:
    """Raise `ValueError` unless two tensors have one shape."""
    if student.shape != teacher.shape:
        raise ValueError(f"shapes differ: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}")
