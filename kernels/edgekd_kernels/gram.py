"""Losses on the relations between the samples of a batch, all through the batch Gram matrix."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd_kernels._checks import require_pair, widened
from edgekd_kernels._dispatch import Impl
from edgekd_kernels._op import FusedLoss, Signature, accumulation_dtype
from edgekd_kernels._rows import inner_products, require_same_batch, sample_rows, unit_rows


def _fake_slopes(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    batch, dtype = student.shape[0], accumulation_dtype(student, teacher)
    return student.new_empty(batch, dtype=dtype), student.new_empty(batch, batch, dtype=dtype)


def _fake_relations(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch = student.shape[0]
    relations = [student.new_empty(batch, batch, dtype=torch.float64) for _ in range(2)]
    return student.new_empty(batch, dtype=accumulation_dtype(student, teacher)), relations[0], relations[1]


def _relation(name: str, saved: tuple[str, ...], fake: Callable[..., tuple[Tensor, ...]]) -> FusedLoss:
    return FusedLoss(
        Signature(
            name=name,
            family="gram",
            inputs=("student", "teacher"),
            options={},
            gradients=("student",),
            kept=("student",),
            saved=saved,
            fake=fake,
            offered=("triton", "cuda", "torch"),
        )
    )


_SIMILARITY_PRESERVING = _relation("similarity_preserving", ("slopes",), _fake_slopes)
_LINEAR_CKA = _relation("linear_cka", ("mine", "theirs"), _fake_relations)
_RKD_DISTANCE = _relation("rkd_distance", ("mine", "theirs"), _fake_relations)
_RKD_ANGLE = _relation("rkd_angle", ("mine", "theirs"), _fake_relations)


def similarity_preserving(student_map: Tensor, teacher_map: Tensor, *, impl: Impl = "auto") -> Tensor:
    """Similarity-preserving loss, `1/B^2 * ||G_t - G_s||_F^2` with row-normalised batch Gram matrices.

    Args:
        student_map: `[B, ...]`; its shape may differ from the teacher's in all but `B`.
        teacher_map: `[B, ...]`; no gradient reaches it.
        impl: Which implementation.

    Returns:
        `[B]`: `1/B` times the squared norm of each sample's row, so that the mean is the loss.

    Raises:
        ValueError: Batch sizes or devices differ, or the batch is empty.
        TypeError: Features are not of floating point.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 1907.09682.
    """
    return _run(_SIMILARITY_PRESERVING, impl, student_map=student_map, teacher_map=teacher_map)


def rkd_distance(student_feature: Tensor, teacher_feature: Tensor, *, impl: Impl = "auto") -> Tensor:
    """Relational distillation of distances, `mean_ij Huber(d^s_ij / mean d^s, d^t_ij / mean d^t)`.

    The mean distance is over pairs that do not coincide; the loss is over all `B^2` pairs, as the benchmark has it.

    Args:
        student_feature: `[B, ...]`; its shape may differ from the teacher's in all but `B`.
        teacher_feature: `[B, ...]`; no gradient reaches it.
        impl: Which implementation.

    Returns:
        `[B]`, each sample's mean over its pairs; zeros where no two samples differ, as in a batch of one.

    Raises:
        ValueError: Batch sizes or devices differ, or the batch is empty.
        TypeError: Features are not of floating point.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 1904.05068.
    """
    return _run(_RKD_DISTANCE, impl, student_feature=student_feature, teacher_feature=teacher_feature)


def rkd_angle(student_feature: Tensor, teacher_feature: Tensor, *, impl: Impl = "auto") -> Tensor:
    """Relational distillation of angles, `mean_ijk Huber(cos^s_ijk, cos^t_ijk)`, `ijk` at `i` between `j` and `k`.

    `<x_j - x_i, x_k - x_i> = G_jk - G_ij - G_ik + G_ii`, so no `[B, B, D]` tensor arises; memory is `O(B^2)`. The angle
    at a sample that coincides with `j` or `k` has cosine 0.

    Args:
        student_feature: `[B, ...]`; its shape may differ from the teacher's in all but `B`.
        teacher_feature: `[B, ...]`; no gradient reaches it.
        impl: Which implementation.

    Returns:
        `[B]`, the mean over the angles at each sample; zeros without gradient for fewer than three samples.

    Raises:
        ValueError: Batch sizes or devices differ, or the batch is empty.
        TypeError: Features are not of floating point.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 1904.05068; the mean over all `B^3` triples, degenerate ones included, is the benchmark's.
    """
    return _run(_RKD_ANGLE, impl, student_feature=student_feature, teacher_feature=teacher_feature)


def correlation_congruence(
    student_embedding: Tensor, teacher_embedding: Tensor, *, gamma: float = 0.4, order: int = 2
) -> Tensor:
    """Correlation congruence, `1/B^2 * ||C_t - C_s||_F^2` with a Gaussian kernel expanded to a polynomial.

    `C_ij = exp(-2 gamma) * sum_p (2 gamma)^p / p! * <x_i, x_j>^p` for `p = 0..order` and rows `x` of length 1: the
    Taylor series of `exp(-gamma ||x_i - x_j||^2)`.

    Args:
        student_embedding: `[B, ...]`; its width may differ from the teacher's.
        teacher_embedding: `[B, ...]`; no gradient reaches it.
        gamma: Inverse width of the kernel, positive.
        order: Highest power kept, at least 1.

    Returns:
        `[B]`, each sample's mean over its pairs.

    Raises:
        ValueError: Batch sizes differ, or an option is out of range.

    Reference:
        arXiv 1904.01802.
    """
    require_same_batch(student_embedding, teacher_embedding)
    if not gamma > 0 or order < 1:
        raise ValueError(f"gamma must be positive and order at least 1, got {gamma} and {order}")
    student = _taylor_kernel(_cosines(student_embedding), gamma, order)
    teacher = _taylor_kernel(_cosines(teacher_embedding.detach()), gamma, order)
    return (student - teacher).square().mean(dim=1)


def pkt(student_feature: Tensor, teacher_feature: Tensor, *, epsilon: float = 1e-7) -> Tensor:
    """Probabilistic knowledge transfer, the divergence of the distributions over neighbours.

    `mean_ij p_ij log(p_ij / q_ij)` with `p_ij = k_ij / sum_j k_ij` of the teacher, `q_ij` of the student, and
    `k_ij = (1 + cos(x_i, x_j)) / 2`. A sample is its own neighbour, and the mean is over all `B^2` pairs, as the
    benchmark has it; the paper leaves `i = j` out and sums.

    Args:
        student_feature: `[B, ...]`; its shape may differ from the teacher's in all but `B`.
        teacher_feature: `[B, ...]`; no gradient reaches it.
        epsilon: Floor of `k_ij`.

    Returns:
        `[B]`: `1/B` times the divergence of each sample's distributions.

    Raises:
        ValueError: Batch sizes differ.

    Reference:
        arXiv 1803.10837.
    """
    require_same_batch(student_feature, teacher_feature)
    student, teacher = _log_neighbours(student_feature, epsilon), _log_neighbours(teacher_feature.detach(), epsilon)
    return F.kl_div(student, teacher, reduction="none", log_target=True).mean(dim=1)


def linear_cka(student_feature: Tensor, teacher_feature: Tensor, *, impl: Impl = "auto") -> Tensor:
    """Linear centred kernel alignment, `<K, L> / (||K|| ||L||)` of centred Gram matrices: 1 for equal, 0 for unrelated.

    The estimator of the independence criterion (HSIC) in it is the biased one, which cannot be negative: for features
    wider than the batch it is far above 0 even where they are unrelated.

    Args:
        student_feature: `[B, ...]`; its shape may differ from the teacher's in all but `B`.
        teacher_feature: `[B, ...]`; no gradient reaches it.
        impl: Which implementation.

    Returns:
        `[B]`, each sample's share times `B`, so that the mean is the alignment; zeros without gradient where either
        side does not vary, as in a batch of one.

    Raises:
        ValueError: Batch sizes or devices differ, or the batch is empty.
        TypeError: Features are not of floating point.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 1905.00414.
    """
    return _run(_LINEAR_CKA, impl, student_feature=student_feature, teacher_feature=teacher_feature)


def cka_dissimilarity(student_feature: Tensor, teacher_feature: Tensor, *, impl: Impl = "auto") -> Tensor:
    """`1 - linear_cka`, as a loss (see there).

    Args:
        student_feature: `[B, ...]`.
        teacher_feature: `[B, ...]`; no gradient reaches it.
        impl: Which implementation.

    Returns:
        `[B]`; ones without gradient where either side does not vary.

    Raises:
        ValueError: Batch sizes or devices differ, or the batch is empty.
        TypeError: Features are not of floating point.
        RuntimeError: The wanted implementation cannot run.
    """
    return 1 - linear_cka(student_feature, teacher_feature, impl=impl)


def _run(loss: FusedLoss, impl: Impl, **features: Tensor) -> Tensor:
    """Check a student's and a teacher's features and compare their samples."""
    require_pair(same="batch", **features)
    student, teacher = features.values()
    return loss(sample_rows(student), sample_rows(teacher.detach()), impl=impl)


def _cosines(feature: Tensor) -> Tensor:
    rows = unit_rows(widened(feature).flatten(1))
    return inner_products(rows, rows)


def _taylor_kernel(cosines: Tensor, gamma: float, order: int) -> Tensor:
    series = [(2 * gamma) ** power / math.factorial(power) * cosines**power for power in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(series).sum(dim=0)


def _log_neighbours(feature: Tensor, epsilon: float) -> Tensor:
    similarity = ((1 + _cosines(feature)) / 2).clamp(min=epsilon)
    return similarity.log() - similarity.sum(dim=1, keepdim=True).log()
