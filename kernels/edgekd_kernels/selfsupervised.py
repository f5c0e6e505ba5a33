"""Losses between views of one image: rows come in groups of `views`, the first of each group being the image itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd_kernels._checks import require_same_shape, widened
from edgekd_kernels._rows import inner_products, unit_rows
from edgekd_kernels.rowwise import kd_kl


def view_similarity(projections: Tensor, *, views: int = 4) -> Tensor:
    """Cosine between every transformed view's projection and every untransformed image's.

    A projection not longer than 1e-6 has cosine 0 with all and receives no gradient.

    Args:
        projections: `[n * views, D]`.
        views: Rows of one image.

    Returns:
        `[n * (views - 1), n]`, transformed views in the order of their rows.

    Raises:
        ValueError: The rows are no multiple of `views`, or there is no transformed view.
    """
    if views < 2 or len(projections) % views:
        raise ValueError(f"{len(projections)} rows are not groups of {views} views")
    unit = unit_rows(widened(projections))
    grouped = unit.view(-1, views, unit.shape[1])
    return inner_products(grouped[:, 1:].flatten(0, 1), grouped[:, 0])


def self_supervision(projections: Tensor, *, views: int = 4) -> Tensor:
    """Cross-entropy of finding the own image of each transformed view, without a temperature.

    Args:
        projections: `[n * views, D]`.
        views: Rows of one image.

    Returns:
        `[n * views]`: 0 for untransformed rows, the others scaled so that the mean is over transformed views.

    Raises:
        ValueError: The rows are no multiple of `views`.

    Reference:
        SSKD, arXiv 2006.07114, first stage.
    """
    similarity = view_similarity(projections, views=views)
    own = torch.arange(similarity.shape[1], device=similarity.device).repeat_interleave(views - 1)
    return _scattered(F.cross_entropy(similarity, own, reduction="none"), torch.ones_like(own, dtype=torch.bool), views)


def transformed_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 4.0,
    ratio: float = 1.0,
    views: int = 4,
) -> Tensor:
    """Distillation on the transformed views whose class the teacher ranks best.

    Args:
        student_logits: `[n * views, K]`.
        teacher_logits: `[n * views, K]`; no gradient reaches it.
        labels: int64 `[n * views]`; only ranks the teacher's answers.
        temperature: Softens both sides; the loss is multiplied by its square.
        ratio: Share of the teacher's wrong rows that are kept (see `keep_best_ranked`).
        views: Rows of one image.

    Returns:
        `[n * views]`, such that the mean is over the kept rows.

    Raises:
        ValueError: Shapes differ, or the rows are no multiple of `views`.

    Reference:
        SSKD, arXiv 2006.07114.
    """
    require_same_shape(student_logits, teacher_logits)
    student, teacher, gold = (_transformed(each, views) for each in (student_logits, teacher_logits.detach(), labels))
    own = teacher.gather(1, gold[:, None])
    keep = keep_best_ranked((teacher > own).sum(dim=1), ratio=ratio)
    return _scattered(kd_kl(student, teacher, temperature=temperature), keep, views)


def similarity_transfer(
    student_projections: Tensor,
    teacher_projections: Tensor,
    *,
    temperature: float = 0.5,
    ratio: float = 0.75,
    views: int = 4,
) -> Tensor:
    """Distillation of the view-to-image similarities, on the views whose own image the teacher ranks best.

    Args:
        student_projections: `[n * views, D_s]`.
        teacher_projections: `[n * views, D_t]`; no gradient reaches it.
        temperature: Softens both rows of similarities; the loss is multiplied by its square.
        ratio: Share of the teacher's wrong rows that are kept (see `keep_best_ranked`).
        views: Rows of one image.

    Returns:
        `[n * views]`, such that the mean is over the kept rows.

    Raises:
        ValueError: The rows differ in number or are no multiple of `views`.

    Reference:
        SSKD, arXiv 2006.07114.
    """
    student = view_similarity(student_projections, views=views)
    teacher = view_similarity(teacher_projections.detach(), views=views)
    require_same_shape(student, teacher)
    own = torch.arange(teacher.shape[1], device=teacher.device).repeat_interleave(views - 1)
    keep = keep_best_ranked((teacher > teacher.gather(1, own[:, None])).sum(dim=1), ratio=ratio)
    return _scattered(kd_kl(student, teacher, temperature=temperature), keep, views)


def keep_best_ranked(rank: Tensor, *, ratio: float) -> Tensor:
    """Select every row of rank 0 and, of the others, the share `ratio` with the smallest rank.

    Args:
        rank: int64 `[R]`, 0 where the teacher is right.
        ratio: Share 0..1 of the wrong rows, rounded down.

    Returns:
        bool `[R]`; decided on the device, without a synchronisation.

    Raises:
        ValueError: The ratio is outside 0..1.
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must lie in 0..1, got {ratio}")
    position = rank.argsort(stable=True).argsort(stable=True)
    right = (rank == 0).sum()
    return position < right + ((len(rank) - right) * ratio).floor()


def _transformed(rows: Tensor, views: int) -> Tensor:
    if views < 2 or len(rows) % views:
        raise ValueError(f"{len(rows)} rows are not groups of {views} views")
    return rows.reshape(-1, views, *rows.shape[1:])[:, 1:].flatten(0, 1)


def _scattered(values: Tensor, keep: Tensor, views: int) -> Tensor:
    """Put values of transformed rows `[n * (views - 1)]` among all rows, so that the mean is over those kept."""
    count = keep.to(values.dtype).sum().clamp(min=1)
    kept = values * keep * (len(values) / count)
    groups = kept.view(-1, views - 1) * (views / (views - 1))
    return F.pad(groups, (1, 0)).flatten()
