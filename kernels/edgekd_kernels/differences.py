"""Squared differences of features, element by element: of one pair, or of several in one launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from edgekd_kernels._dispatch import Impl
from edgekd_kernels._maps import require_features
from edgekd_kernels._op import FusedLoss, Signature, accumulation_dtype

_MOST_STAGES = 8


def _fake_hint_mse(*features: Tensor, weights: Sequence[float]) -> tuple[Tensor, ...]:
    return (features[0].new_empty(features[0].shape[0], dtype=accumulation_dtype(*features)),)


def _hint_mse_of(stages: int) -> FusedLoss:
    students = tuple(f"student_{index}" for index in range(stages))
    inputs = (*students, *(f"teacher_{index}" for index in range(stages)))
    return FusedLoss(
        Signature(
            name="hint_mse",
            family="differences",
            inputs=inputs,
            options={"weights": "float[]"},
            gradients=students,
            kept=inputs,
            saved=(),
            fake=_fake_hint_mse,
            overload=f"of_{stages}",
        )
    )


_HINT_MSE = {stages: _hint_mse_of(stages) for stages in range(1, _MOST_STAGES + 1)}


def hint_mse(student_map: Tensor, teacher_map: Tensor, *, impl: Impl = "auto") -> Tensor:
    """FitNet's hint loss, the mean squared difference of two feature maps of one shape.

    Args:
        student_map: `[B, ...]`, already projected to the teacher's width.
        teacher_map: The same shape; no gradient reaches it.
        impl: Which implementation.

    Returns:
        `[B]`, the mean over all but the batch dimension.

    Raises:
        ValueError: Shapes or devices differ, or a tensor has no elements.
        TypeError: A tensor is not of floating point.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 1412.6550; the mean is taken where the paper writes half a sum.
    """
    require_features(student_map=student_map, teacher_map=teacher_map)
    return _HINT_MSE[1](student_map, teacher_map.detach(), weights=[1.0], impl=impl)


def hint_mse_grouped(
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    *,
    weights: Sequence[float] | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Weighted sum of `hint_mse` over the stages of two networks, one kernel launch for up to eight stages.

    Args:
        student_maps: Each `[B, ...]`, in any shapes and dtypes.
        teacher_maps: As many, each of the shape of its student's; no gradient reaches them.
        weights: One for each stage; all 1 if left out.
        impl: Which implementation.

    Returns:
        `[B]`.

    Raises:
        ValueError: There is no stage, numbers of maps and weights differ, batch sizes or devices differ between stages,
            or a pair is not one for `hint_mse`.
        TypeError: A tensor is not of floating point.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 1412.6550.
    """
    weights = [1.0] * len(student_maps) if weights is None else [float(weight) for weight in weights]
    _require_stages(student_maps, teacher_maps, weights)
    taught = [each.detach() for each in teacher_maps]
    values = []
    for first in range(0, len(weights), _MOST_STAGES):
        part = slice(first, first + _MOST_STAGES)
        mine = student_maps[part]
        values.append(_HINT_MSE[len(mine)](*mine, *taught[part], weights=weights[part], impl=impl))
    return sum(values[1:], start=values[0])


def mgd(generated_map: Tensor, teacher_map: Tensor, *, impl: Impl = "auto") -> Tensor:
    """Masked generative distillation: squared difference between the generated and the teacher's map.

    Args:
        generated_map: `[B, C, ...]`, generated from the student's masked map.
        teacher_map: The same shape, never masked; no gradient reaches it.
        impl: Which implementation.

    Returns:
        `[B]`, the sum (not the mean) over channels and positions.

    Raises:
        ValueError: Shapes or devices differ, or a tensor has no elements.
        TypeError: A tensor is not of floating point.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 2205.01529.
    """
    require_features(generated_map=generated_map, teacher_map=teacher_map)
    elements = generated_map.numel() // generated_map.shape[0]
    return _HINT_MSE[1](generated_map, teacher_map.detach(), weights=[float(elements)], impl=impl)


def _require_stages(students: Sequence[Tensor], teachers: Sequence[Tensor], weights: Sequence[float]) -> None:
    if not students or not len(students) == len(teachers) == len(weights):
        raise ValueError(
            f"one weight and one map of the teacher's expected for each of the student's: {len(students)} of the "
            f"student's, {len(teachers)} of the teacher's, {len(weights)} weights"
        )
    for index, (mine, theirs) in enumerate(zip(students, teachers, strict=True)):
        pair: dict[str, Any] = {f"student_maps[{index}]": mine, f"teacher_maps[{index}]": theirs}
        require_features(**pair)
        if mine.shape[0] != students[0].shape[0] or mine.device != students[0].device:
            raise ValueError(
                f"stages do not go together: student_maps[0] {tuple(students[0].shape)} on {students[0].device}, "
                f"student_maps[{index}] {tuple(mine.shape)} on {mine.device}"
            )
