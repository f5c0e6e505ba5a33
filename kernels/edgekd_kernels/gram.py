"""Losses on the relations between the samples of a batch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgekd_kernels._checks import widened


def similarity_preserving(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Similarity-preserving loss, `1/B^2 * ||G_t - G_s||_F^2` with row-normalised batch Gram matrices.

    Args:
        student_map: `[B, ...]`; its shape may differ from the teacher's in all but `B`.
        teacher_map: `[B, ...]`; no gradient reaches it.

    Returns:
        `[B]`: `1/B` times the squared norm of each sample's row, so that the mean is the loss.

    Raises:
        ValueError: Batch sizes differ.

    Reference:
        arXiv 1907.09682.
    """
    if student_map.shape[0] != teacher_map.shape[0]:
        raise ValueError(f"batch sizes differ: student {student_map.shape[0]}, teacher {teacher_map.shape[0]}")
    difference = _row_normalised_gram(student_map) - _row_normalised_gram(teacher_map.detach())
    return difference.square().sum(dim=1) / student_map.shape[0]


def _row_normalised_gram(feature_map: Tensor) -> Tensor:
    flat = widened(feature_map).flatten(1)
    return F.normalize(flat @ flat.T, dim=1)
