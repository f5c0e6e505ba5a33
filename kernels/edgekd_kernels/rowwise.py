"""Losses on rows: softmax over classes, codes or positions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from edgekd_kernels._checks import require_pair, require_positive
from edgekd_kernels._dispatch import Impl
from edgekd_kernels._maps import require_features
from edgekd_kernels._op import FusedLoss, Signature, accumulation_dtype


def _fake_values(
    student: Tensor, teacher: Tensor, *labels: Tensor, is_spatial: bool = False, **_: object
) -> tuple[Tensor, ...]:
    """Return the values `[B]` and the statistics of rows, `[6, B]` for losses with labels, else `[5, outer, rows]`."""
    batch, dtype = len(student), accumulation_dtype(student, teacher)
    rows = (batch, student.shape[1] if is_spatial else math.prod(student.shape[2:]))
    shape = (6, batch) if labels else (5, *(rows if student.dim() > 2 else (1, batch)))
    return student.new_empty(batch, dtype=dtype), student.new_empty(shape, dtype=dtype)


def _loss(
    name: str,
    options: Mapping[str, str],
    *,
    family: str = "rowwise",
    labels: tuple[str, ...] = (),
    gradients: tuple[str, ...] = ("student",),
) -> FusedLoss:
    return FusedLoss(
        Signature(
            name=name,
            family=family,
            inputs=("student", "teacher", *labels),
            options=options,
            gradients=gradients,
            kept=("student", "teacher", *labels),
            saved=("statistics",),
            fake=_fake_values,
            torch_keeps_own=True,
        )
    )


def _labelled_loss(name: str, *weights: str) -> FusedLoss:
    options = dict.fromkeys((*weights, "temperature"), "float")
    return _loss(name, options, family="labelled", labels=("labels",))


_KD_KL = _loss("kd_kl", {"temperature": "float", "is_spatial": "bool"})
_BRANCH_KL = _loss("branch_kl", {"temperature": "float"}, gradients=("student", "teacher"))
_DKD = _labelled_loss("dkd", "alpha", "beta")
_NKD = _labelled_loss("nkd", "gamma")
_KD_CE = _labelled_loss("kd_ce", "label_weight", "teacher_weight")


def kd_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0, impl: Impl = "auto") -> Tensor:
    """Hinton's distillation loss, `T^2 * KL(softmax(t/T) || softmax(s/T))`.

    Args:
        student_logits: `[B, K]`, or of each position `[B, K, ...]`, over which the mean is taken.
        teacher_logits: The same shape; no gradient reaches it.
        temperature: `T > 0`, applied to both sides.
        impl: Which implementation.

    Returns:
        `[B]`.

    Raises:
        ValueError: Shapes or devices differ, a tensor has no elements, or the temperature is not positive.
        TypeError: Logits are not of floating point, or the temperature is a tensor.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 1503.02531.
    """
    require_features(student_logits=student_logits, teacher_logits=teacher_logits)
    require_positive(temperature)
    return _KD_KL(student_logits, teacher_logits.detach(), impl=impl, temperature=temperature, is_spatial=False)


def branch_kl(branch_logits: Tensor, trunk_logits: Tensor, *, temperature: float = 1.0, impl: Impl = "auto") -> Tensor:
    """How far a branch of a network is from the network itself, `T^2 * KL(softmax(z/T) || softmax(b/T))`.

    It is `kd_kl` with gradients on both sides: the branch comes nearer to the trunk, and the trunk to the branch.

    Args:
        branch_logits: `b`, `[B, K]`, or of each position `[B, K, ...]`, over which the mean is taken.
        trunk_logits: `z`, the same shape, with gradient; detach it to move the branch alone.
        temperature: `T > 0`, applied to both sides.
        impl: Which implementation.

    Returns:
        `[B]`.

    Raises:
        ValueError: Shapes or devices differ, a tensor has no elements, or the temperature is not positive.
        TypeError: Logits are not of floating point, or the temperature is a tensor.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        Student-friendly teachers, arXiv 2102.07650; the order of the two arguments is a reconstruction.
    """
    require_features(branch_logits=branch_logits, trunk_logits=trunk_logits)
    require_positive(temperature)
    return _BRANCH_KL(branch_logits, trunk_logits, impl=impl, temperature=temperature)


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    impl: Impl = "auto",
) -> Tensor:
    """Decoupled distillation loss, `T^2 * (alpha * KL(b_t || b_s) + beta * KL(r_t || r_s))`.

    `b` is the pair (probability of the label, of all the rest), `r` the probabilities of the rest renormalised, both of
    `softmax(logits / T)`. With `beta = alpha * (1 - p_t[label])` it is `alpha` times `kd_kl`.

    Args:
        student_logits: `[B, K]`, `K >= 3`; with two classes nothing is left to compare among the rest.
        teacher_logits: `[B, K]`; no gradient reaches it.
        labels: int64 `[B]` in `0..K-1`.
        alpha: Weight of the pair.
        beta: Weight of the rest.
        temperature: `T > 0`.
        impl: Which implementation.

    Returns:
        `[B]`.

    Raises:
        ValueError: Shapes or devices do not fit, fewer than three classes, the temperature is not positive, or on a CPU
            a label is out of range; on a GPU that gives NaN.
        TypeError: Logits are not of floating point, labels not int64, or the temperature is a tensor.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 2203.08679.
    """
    _require_labelled_rows(student_logits, teacher_logits, labels, temperature, least_classes=3)
    options = {"alpha": alpha, "beta": beta, "temperature": temperature}
    return _DKD(student_logits, teacher_logits.detach(), labels, impl=impl, **options)


def nkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 1.5,
    temperature: float = 1.0,
    impl: Impl = "auto",
) -> Tensor:
    """Normalised distillation loss, `-p_y log q_y - gamma * T^2 * sum over the rest of p^ log q^`.

    `p` (teacher) and `q` (student) are probabilities at temperature 1, `p^` and `q^` those of the classes other than
    the label, at `T`, renormalised. Both parts are cross-entropies, so the loss is not 0 at the teacher: its second
    part is least there, and its first part falls for as long as the student grows surer of the label.

    Args:
        student_logits: `[B, K]`, `K >= 2`.
        teacher_logits: `[B, K]`; no gradient reaches it.
        labels: int64 `[B]` in `0..K-1`.
        gamma: Weight of the rest.
        temperature: `T > 0` of the rest.
        impl: Which implementation.

    Returns:
        `[B]`.

    Raises:
        ValueError: Shapes or devices do not fit, fewer than two classes, the temperature is not positive, or on a CPU a
            label is out of range; on a GPU that gives NaN.
        TypeError: Logits are not of floating point, labels not int64, or the temperature is a tensor.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 2303.13005.
    """
    _require_labelled_rows(student_logits, teacher_logits, labels, temperature, least_classes=2)
    options = {"gamma": gamma, "temperature": temperature}
    return _NKD(student_logits, teacher_logits.detach(), labels, impl=impl, **options)


def kd_ce(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    label_weight: float = 1.0,
    teacher_weight: float = 1.0,
    temperature: float = 4.0,
    impl: Impl = "auto",
) -> Tensor:
    """Cross-entropy and Hinton's distillation loss in one reading of the student's logits.

    `label_weight * -log softmax(s)[label] + teacher_weight * T^2 * KL(softmax(t/T) || softmax(s/T))`.

    Args:
        student_logits: `[B, K]`, `K >= 2`.
        teacher_logits: `[B, K]`; no gradient reaches it.
        labels: int64 `[B]` in `0..K-1`.
        label_weight: Weight of the cross-entropy.
        teacher_weight: Weight of the distillation loss.
        temperature: `T > 0` of the distillation loss, applied to both sides.
        impl: Which implementation.

    Returns:
        `[B]`.

    Raises:
        ValueError: Shapes or devices do not fit, fewer than two classes, the temperature is not positive, or on a CPU a
            label is out of range; on a GPU that gives NaN.
        TypeError: Logits are not of floating point, labels not int64, or the temperature is a tensor.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 1503.02531.
    """
    _require_labelled_rows(student_logits, teacher_logits, labels, temperature, least_classes=2)
    options = {"label_weight": label_weight, "teacher_weight": teacher_weight, "temperature": temperature}
    return _KD_CE(student_logits, teacher_logits.detach(), labels, impl=impl, **options)


def cwd(student_map: Tensor, teacher_map: Tensor, *, temperature: float = 4.0, impl: Impl = "auto") -> Tensor:
    """Channel-wise distillation, `T^2 / C * sum over channels of KL(softmax(t_c/T) || softmax(s_c/T))`.

    The softmax of a channel is over its positions: what is matched is where a channel responds, not how strongly.

    Args:
        student_map: `[B, C, ...]`, already projected to the teacher's width and size.
        teacher_map: The same shape; no gradient reaches it.
        temperature: `T > 0`, applied to both sides.
        impl: Which implementation.

    Returns:
        `[B]`.

    Raises:
        ValueError: Shapes or devices differ, a tensor has no elements or no positions, or the temperature is not
            positive.
        TypeError: Maps are not of floating point, or the temperature is a tensor.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 2011.13256.
    """
    if student_map.dim() < 3:
        raise ValueError(f"student_map has shape {tuple(student_map.shape)}, expected [B, C, positions...]")
    require_features(student_map=student_map, teacher_map=teacher_map)
    require_positive(temperature)
    return _KD_KL(student_map, teacher_map.detach(), impl=impl, temperature=temperature, is_spatial=True)


def _require_labelled_rows(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, *, least_classes: int
) -> None:
    require_pair(student_logits=student, teacher_logits=teacher)
    require_positive(temperature)
    if student.dim() != 2 or student.shape[1] < least_classes:
        raise ValueError(f"logits have shape {tuple(student.shape)}, expected [B, K] with K >= {least_classes}")
    if labels.shape != student.shape[:1]:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, expected ({len(student)},)")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels have dtype {labels.dtype}, expected torch.int64")
    if labels.device != student.device:
        raise ValueError(f"devices differ: labels are on {labels.device}, student_logits on {student.device}")
