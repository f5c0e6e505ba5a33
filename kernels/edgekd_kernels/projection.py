"""Losses that compare features through a linear projection of one side."""

from __future__ import annotations

import torch
from torch import Tensor

from edgekd_kernels._checks import require_same_shape, widened
from edgekd_kernels._dispatch import Impl
from edgekd_kernels._maps import planes, require_features
from edgekd_kernels._op import FusedLoss, Signature, accumulation_dtype


def _fake_projected_mse(student: Tensor, teacher: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
    values = student.new_empty(student.shape[0], dtype=accumulation_dtype(student, teacher, *parameters))
    return values, torch.empty_like(teacher, dtype=student.dtype)


def _projected_mse_of(*parameters: str) -> FusedLoss:
    return FusedLoss(
        Signature(
            name="projected_mse",
            family="projection",
            inputs=("student", "teacher", *parameters),
            options={},
            gradients=("student", *parameters),
            kept=("student", *parameters),
            saved=("residual",),
            fake=_fake_projected_mse,
            overload="_".join(parameters),
        )
    )


_BY_WEIGHT = _projected_mse_of("weight")
_BY_WEIGHT_AND_BIAS = _projected_mse_of("weight", "bias")


def projected_mse(
    student_map: Tensor, teacher_map: Tensor, weight: Tensor, *, bias: Tensor | None = None, impl: Impl = "auto"
) -> Tensor:
    """FitNet's hint loss with its projection, `mean (W s + b - t)^2`: a 1x1 convolution and a mean squared difference.

    The projected map is never formed; the residual is, once, in the student's dtype, and serves all gradients. Products
    of float32 keep its digits, those of half precision are accumulated in float32, with the weight in the student's
    dtype.

    Args:
        student_map: `[B, Cs, ...]`.
        teacher_map: `[B, Ct, ...]`, the same positions; no gradient reaches it.
        weight: `W`, `[Ct, Cs]`; receives a gradient.
        bias: `b`, `[Ct]`; receives a gradient.
        impl: Which implementation.

    Returns:
        `[B]`, the mean over channels and positions.

    Raises:
        ValueError: Shapes do not go together, devices differ, or a tensor has no elements.
        TypeError: A tensor is not of floating point.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 1412.6550; the mean is taken where the paper writes half a sum.
    """
    require_features(same="batch", student_map=student_map, teacher_map=teacher_map)
    if student_map.shape[2:] != teacher_map.shape[2:]:
        raise ValueError(
            f"positions differ: student_map {tuple(student_map.shape)}, teacher_map {tuple(teacher_map.shape)}"
        )
    _require_parameter("weight", weight, (teacher_map.shape[1], student_map.shape[1]), student_map)
    tensors = planes(student_map), planes(teacher_map.detach()), weight
    if bias is None:
        return _BY_WEIGHT(*tensors, impl=impl)
    _require_parameter("bias", bias, (teacher_map.shape[1],), student_map)
    return _BY_WEIGHT_AND_BIAS(*tensors, bias, impl=impl)


def projected_match(student_map: Tensor, teacher_map: Tensor, projection: Tensor) -> Tensor:
    """Squared distance between the student's features and a linear projection of the teacher's, `||h_s - R h_t||^2`.

    Args:
        student_map: `[B, C, ...]`.
        teacher_map: `[B, D, ...]`, the same positions; no gradient reaches it.
        projection: `R`, `[C, D]`; no gradient reaches it.

    Returns:
        `[B]`, the sum over channels and the mean over positions.

    Raises:
        ValueError: Shapes do not go together.

    Reference:
        arXiv 2503.17494; a reconstruction.
    """
    if projection.dim() != 2 or teacher_map.shape[1] != projection.shape[1]:
        raise ValueError(f"projection {tuple(projection.shape)} does not take features {tuple(teacher_map.shape)}")
    with torch.autocast(teacher_map.device.type, enabled=False):
        teacher = torch.einsum("cd,bd...->bc...", widened(projection.detach()), widened(teacher_map.detach()))
    student = widened(student_map)
    require_same_shape(student, teacher)
    return (student - teacher).square().reshape(*student.shape[:2], -1).sum(dim=1).mean(dim=1)


def _require_parameter(name: str, parameter: Tensor, shape: tuple[int, ...], student_map: Tensor) -> None:
    if parameter.shape != shape:
        raise ValueError(f"{name} has shape {tuple(parameter.shape)}, expected {shape}")
    if not parameter.is_floating_point():
        raise TypeError(f"{name} has dtype {parameter.dtype}, expected floating point")
    if parameter.device != student_map.device:
        raise ValueError(f"devices differ: student_map is on {student_map.device}, {name} on {parameter.device}")
