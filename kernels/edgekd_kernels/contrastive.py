"""Losses that tell a sample's own pair from the pairs of other samples."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgekd_kernels._checks import require_same_shape, widened
from edgekd_kernels._rows import inner_products, unit_rows


def info_nce(student_embedding: Tensor, teacher_embedding: Tensor, *, temperature: float = 0.07) -> Tensor:
    """In-batch contrast, `-log softmax_j(cos(s_i, t_j) / T)` at `j = i`: each student row finds its teacher row.

    Args:
        student_embedding: `[B, D]`.
        teacher_embedding: `[B, D]`, a learned head's output; it receives a gradient too, the feature below the head
            should be detached.
        temperature: `T > 0`.

    Returns:
        `[B]`; zeros without gradient for a batch of one.

    Raises:
        ValueError: Shapes differ or the temperature is not positive.

    Reference:
        arXiv 1807.03748.
    """
    require_same_shape(student_embedding, teacher_embedding)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    student, teacher = unit_rows(widened(student_embedding)), unit_rows(widened(teacher_embedding))
    return -F.log_softmax(inner_products(student, teacher) / temperature, dim=1).diagonal()
