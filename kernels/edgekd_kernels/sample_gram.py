"""Losses on Gram matrices within each sample: between layers or between modalities."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd_kernels._checks import widened
from edgekd_kernels._rows import inner_products, require_same_batch, unit_rows


def fsp(student_first: Tensor, student_last: Tensor, teacher_first: Tensor, teacher_last: Tensor) -> Tensor:
    """Flow of solution procedure, the mean squared difference of the inner products between two layers' channels.

    `G = 1/(H W) * sum_hw first_c * last_d`, `[C1, C2]` for each sample; where two maps of one network differ in size,
    both are average-pooled to the smaller height and width.

    Args:
        student_first: `[B, C1, H, W]`.
        student_last: `[B, C2, h, w]`.
        teacher_first: `[B, C1, H, W]`; sizes may differ from the student's. No gradient reaches it.
        teacher_last: `[B, C2, h, w]`; likewise.

    Returns:
        `[B]`, the mean over the entries of `G`.

    Raises:
        ValueError: Batch sizes or channels differ.

    Reference:
        Yim, Joo, Bae, Kim, A Gift from Knowledge Distillation, CVPR 2017. Mean over entries and average pooling as the
        benchmark has them; the paper sums and uses maximum pooling.
    """
    student, teacher = _flow(student_first, student_last), _flow(teacher_first.detach(), teacher_last.detach())
    if student.shape != teacher.shape:
        raise ValueError(f"flows differ in shape: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}")
    return (student - teacher).square().mean(dim=(1, 2))


def modality_gram(
    student_embeddings: Tensor,
    teacher_embeddings: Tensor,
    *,
    normalise: bool = True,
    scope: Literal["sample", "batch"] = "sample",
) -> Tensor:
    """Mean squared difference of the relations between modalities, `1/(M(M-1)) * sum_{i != j} (G^s_ij - G^t_ij)^2`.

    Reconstructed from the paper's abstract. `G` holds inner products of embeddings; it is `[M, M]` over modalities, not
    over samples or channels. Its diagonal is left out: normalised it is constantly 1 and would only lower the weight.

    Args:
        student_embeddings: `[B, M, D]`, one row for each modality before fusion.
        teacher_embeddings: `[B, M, E]`, the same modalities in the same order; no gradient reaches it.
        normalise: Whether rows are divided by their length, so that `G` holds cosines.
        scope: `"sample"`: one `G` for each sample. `"batch"`: their mean over the batch is compared.

    Returns:
        `[B]`; with scope `"batch"` every sample has the batch's value.

    Raises:
        ValueError: Batch sizes or numbers of modalities differ, a tensor is not `[B, M, D]`, `M < 2`, or an unknown
            scope.

    Reference:
        arXiv 2112.11447.
    """
    _require_modalities(student_embeddings, teacher_embeddings)
    if scope not in ("sample", "batch"):
        raise ValueError(f"scope is {scope!r}, it must be 'sample' or 'batch'")
    student = _modality_gram(student_embeddings, normalise)
    teacher = _modality_gram(teacher_embeddings.detach(), normalise)
    difference = student - teacher
    if scope == "batch":
        difference = difference.mean(dim=0, keepdim=True).expand_as(difference)
    modalities = difference.shape[1]
    is_relation = ~torch.eye(modalities, dtype=torch.bool, device=difference.device)
    return difference.where(is_relation, 0.0).square().sum(dim=(1, 2)) / (modalities * (modalities - 1))


def _flow(first: Tensor, last: Tensor) -> Tensor:
    require_same_batch(first, last)
    size = (min(first.shape[2], last.shape[2]), min(first.shape[3], last.shape[3]))
    pooled = [F.adaptive_avg_pool2d(widened(one), size).flatten(2) for one in (first, last)]
    return inner_products(pooled[0], pooled[1]) / pooled[0].shape[2]


def _modality_gram(embeddings: Tensor, normalise: bool) -> Tensor:
    rows = widened(embeddings)
    rows = unit_rows(rows) if normalise else rows
    return inner_products(rows, rows)


def _require_modalities(student: Tensor, teacher: Tensor) -> None:
    shapes = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
    if student.dim() != 3 or student.shape[:2] != teacher.shape[:2] or teacher.dim() != 3:
        raise ValueError(f"embeddings must be [B, M, D] with the same B and M: {shapes}")
    if student.shape[1] < 2:
        raise ValueError(f"one modality has no relation to another; at least two are needed: {shapes}")
