"""Losses on feature maps whose statistics are those of whole channels, over batch and positions."""

from __future__ import annotations

from torch import Tensor

from edgekd_kernels._dispatch import Impl
from edgekd_kernels._maps import planes, require_features
from edgekd_kernels._op import FusedLoss, Signature, accumulation_dtype


def _fake_pkd(student: Tensor, teacher: Tensor) -> tuple[Tensor, ...]:
    batch, channels, _ = student.shape
    dtype = accumulation_dtype(student, teacher)
    return student.new_empty(batch, dtype=dtype), student.new_empty(batch, 5, channels, dtype=dtype)


def _fake_vid(mean: Tensor, teacher: Tensor, raw_variance: Tensor, *, epsilon: float) -> tuple[Tensor, ...]:
    dtype = accumulation_dtype(mean, teacher, raw_variance)
    return mean.new_empty(mean.shape[0], dtype=dtype), mean.new_empty(mean.shape[:2], dtype=dtype)


_PKD = FusedLoss(
    Signature(
        name="pkd",
        family="channelwise",
        inputs=("student", "teacher"),
        options={},
        gradients=("student",),
        kept=("student", "teacher"),
        saved=("moments",),
        fake=_fake_pkd,
    )
)
_VID = FusedLoss(
    Signature(
        name="vid",
        family="channelwise",
        inputs=("mean", "teacher", "raw_variance"),
        options={"epsilon": "float"},
        gradients=("mean", "raw_variance"),
        kept=("mean", "teacher", "raw_variance"),
        saved=("squares",),
        fake=_fake_vid,
        offered=("triton", "cuda", "torch"),
    )
)


def pkd(student_map: Tensor, teacher_map: Tensor, *, impl: Impl = "auto") -> Tensor:
    """Distillation by Pearson correlation: half the mean squared difference of standardised channels.

    Each channel is standardised over batch and positions (population deviation), so that the mean over the batch is
    `1 - r`, averaged over channels. A channel that is constant up to rounding becomes zero and receives no gradient.

    Values come from moments, in one read of both maps. Where the maps agree, they cancel down to rounding.

    Args:
        student_map: `[B, C, ...]`, already projected to the teacher's width.
        teacher_map: The same shape; no gradient reaches it.
        impl: Which implementation.

    Returns:
        `[B]`; each value depends on the whole batch.

    Raises:
        ValueError: Shapes or devices differ, or a tensor has no elements.
        TypeError: A tensor is not of floating point.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 2207.02039.
    """
    require_features(student_map=student_map, teacher_map=teacher_map)
    return _PKD(planes(student_map), planes(teacher_map.detach()), impl=impl)


def vid(
    mean: Tensor, teacher_map: Tensor, raw_variance: Tensor, *, epsilon: float = 1e-5, impl: Impl = "auto"
) -> Tensor:
    """Variational information distillation, a Gaussian negative log-likelihood with one variance per channel.

    `0.5 * ((mean - t)^2 / v + log v)` with `v = softplus(raw_variance) + epsilon`; the constant is left out, so the
    loss can be negative.

    Args:
        mean: `[B, C, ...]`, the teacher's map as predicted from the student.
        teacher_map: The same shape; no gradient reaches it.
        raw_variance: `[C]`, learned; receives a gradient.
        epsilon: Floor of the variance, not negative.
        impl: Which implementation.

    Returns:
        `[B]`, the mean over channels and positions.

    Raises:
        ValueError: Shapes or devices differ, a tensor has no elements, or `epsilon` is negative.
        TypeError: A tensor is not of floating point.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 1904.05835; mean instead of sum, as the benchmark code credited to the authors has it.
    """
    require_features(mean=mean, teacher_map=teacher_map)
    if raw_variance.shape != (mean.shape[1],):
        raise ValueError(f"raw_variance has shape {tuple(raw_variance.shape)}, expected ({mean.shape[1]},)")
    if not raw_variance.is_floating_point():
        raise TypeError(f"raw_variance has dtype {raw_variance.dtype}, expected floating point")
    if raw_variance.device != mean.device:
        raise ValueError(f"devices differ: mean is on {mean.device}, raw_variance on {raw_variance.device}")
    if not epsilon >= 0:
        raise ValueError(f"epsilon must not be negative, got {epsilon}")
    return _VID(planes(mean), planes(teacher_map.detach()), raw_variance, epsilon=epsilon, impl=impl)
