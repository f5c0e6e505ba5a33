"""Losses on correlations of a batch's predictions: along classes, along samples, or between pairs of either."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd_kernels._checks import require_same_shape, widened
from edgekd_kernels._rows import inner_products
from edgekd_kernels._standard import standardised
from edgekd_kernels.rowwise import kd_kl


def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 2.0,
    gamma: float = 2.0,
    temperature: float = 4.0,
) -> Tensor:
    """DIST, `T^2 * (beta * mean over samples of (1 - r) + gamma * mean over classes of (1 - r))`.

    `r` is Pearson's correlation of the student's and the teacher's probabilities `softmax(logits / T)`: over the
    classes of one sample, and over the samples of one class. Where either side does not vary (a uniform row, a batch
    of one) `r` is 0 and sends no gradient.

    Args:
        student_logits: `[B, K]`.
        teacher_logits: `[B, K]`; no gradient reaches it.
        beta: Weight of the relation between classes (along rows).
        gamma: Weight of the relation within a class (along columns).
        temperature: `T > 0`.

    Returns:
        `[B]`; each value depends on the whole batch.

    Raises:
        ValueError: Shapes differ, the logits are not `[B, K]`, or the temperature is not positive.

    Reference:
        arXiv 2205.10536; the factor `T^2` as in the authors' code, of which the paper says nothing.
    """
    student, teacher = _probabilities(student_logits, teacher_logits, temperature)
    between = (standardised(student, 1) * standardised(teacher, 1)).mean(dim=1)
    within = (standardised(student, 0) * standardised(teacher, 0)).mean(dim=1)
    return (beta * (1 - between) + gamma * (1 - within)) * temperature**2


def batch_correlation(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Batch level of multi-level logit distillation, `1/B * ||P_s P_s^T - P_t P_t^T||_F^2`.

    Args:
        student_logits: `[B, K]`; `P` is its softmax over classes at `T`.
        teacher_logits: `[B, K]`; no gradient reaches it.
        temperature: `T > 0`.

    Returns:
        `[B]`: the squared norm of each sample's row, so that the mean is the loss.

    Raises:
        ValueError: Shapes differ, the logits are not `[B, K]`, or the temperature is not positive.

    Reference:
        Jin, Wang, Lin 2023, Multi-Level Logit Distillation, CVPR.
    """
    student, teacher = _probabilities(student_logits, teacher_logits, temperature)
    return (inner_products(student, student) - inner_products(teacher, teacher)).square().sum(dim=1)


def class_correlation(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Class level of multi-level logit distillation, `1/K * ||D||_F^2` with `D = P_s^T P_s - P_t^T P_t`.

    `D` is a sum over samples, not a mean: as in the authors' code, the loss grows about as `(B/K)^2`.

    Args:
        student_logits: `[B, K]`; `P` is its softmax over classes at `T`.
        teacher_logits: `[B, K]`; no gradient reaches it.
        temperature: `T > 0`.

    Returns:
        `[B]`: `B/K * (p_s - p_t)^T D (p_s + p_t)`, each sample's share of the squared norm; single values can be
        negative, the mean is the loss.

    Raises:
        ValueError: Shapes differ, the logits are not `[B, K]`, or the temperature is not positive.

    Reference:
        Jin, Wang, Lin 2023, Multi-Level Logit Distillation, CVPR.
    """
    student, teacher = _probabilities(student_logits, teacher_logits, temperature)
    difference = inner_products(student.T, student.T) - inner_products(teacher.T, teacher.T)
    shares = inner_products(student - teacher, difference) * (student + teacher)
    return shares.sum(dim=1) * (len(student) / student.shape[1])


def mlkd(
    student_logits: Tensor, teacher_logits: Tensor, *, temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0)
) -> Tensor:
    """Multi-level logit distillation: `kd_kl`, `batch_correlation` and `class_correlation`, added over temperatures.

    Args:
        student_logits: `[B, K]`.
        teacher_logits: `[B, K]`; no gradient reaches it.
        temperatures: One or more, positive.

    Returns:
        `[B]`; single values can be negative.

    Raises:
        ValueError: Shapes differ, the logits are not `[B, K]`, no temperature, or one that is not positive.

    Reference:
        Jin, Wang, Lin 2023, Multi-Level Logit Distillation, CVPR; a reconstruction: the authors' second, strongly
        augmented view and their confidence masks are left out.
    """
    if not temperatures:
        raise ValueError("mlkd needs at least one temperature")
    levels = (class_correlation, batch_correlation, kd_kl)
    values = [level(student_logits, teacher_logits, temperature=T) for T in temperatures for level in levels]
    return torch.stack(values).sum(dim=0)


def _probabilities(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    require_same_shape(student_logits, teacher_logits)
    if student_logits.dim() != 2:
        raise ValueError(f"logits have shape {tuple(student_logits.shape)}, expected [B, K]")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    student = F.softmax(widened(student_logits) / temperature, dim=1)
    return student, F.softmax(widened(teacher_logits.detach()) / temperature, dim=1)
