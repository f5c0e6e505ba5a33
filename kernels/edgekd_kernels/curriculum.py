"""Distillation at a temperature that is learned too."""

from __future__ import annotations

from torch import Tensor

from edgekd_kernels._checks import require_logits
from edgekd_kernels._dispatch import Impl
from edgekd_kernels._op import FusedLoss, Signature, accumulation_dtype


def _fake(student: Tensor, teacher: Tensor, _: Tensor, **__: float) -> tuple[Tensor, ...]:
    rows, dtype = len(student), accumulation_dtype(student, teacher)
    return student.new_empty(rows, dtype=dtype), student.new_empty(5, rows, dtype=dtype)


_CURRICULUM_KL = FusedLoss(
    Signature(
        name="curriculum_kl",
        family="curriculum",
        inputs=("student", "teacher", "raw_temperature"),
        options=dict.fromkeys(("gradient_scale", "least", "span"), "float"),
        gradients=("student", "raw_temperature"),
        kept=("student", "teacher", "raw_temperature"),
        saved=("statistics",),
        fake=_fake,
        torch_keeps_own=True,
    )
)


def curriculum_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    raw_temperature: Tensor,
    *,
    gradient_scale: float,
    least: float = 1.0,
    span: float = 20.0,
    impl: Impl = "auto",
) -> Tensor:
    """Distillation loss at a learned temperature, `T^2 * KL(softmax(t/T) || softmax(s/T))`.

    `T = least + span * sigmoid(raw_temperature)`. The gradient that reaches `raw_temperature` is multiplied by
    `gradient_scale`: at -1 the optimiser that lowers the loss by the student raises it by the temperature.

    Args:
        student_logits: `[B, K]`.
        teacher_logits: `[B, K]`; no gradient reaches it.
        raw_temperature: A scalar tensor, learned.
        gradient_scale: Multiplies the gradient of `raw_temperature`; it does not change the value.
        least: Lower bound of `T`, positive.
        span: Upper bound of `T` less `least`, not negative.
        impl: Which implementation.

    Returns:
        `[B]`.

    Raises:
        ValueError: Shapes or devices do not fit, the batch is empty, or the bounds of the temperature are not positive.
        TypeError: Logits or the temperature are not of floating point.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 2211.16231, its global temperature.
    """
    require_logits(student_logits, teacher_logits)
    if raw_temperature.dim() != 0:
        raise ValueError(f"raw_temperature has shape {tuple(raw_temperature.shape)}, expected a scalar")
    if not raw_temperature.is_floating_point():
        raise TypeError(f"raw_temperature has dtype {raw_temperature.dtype}, expected floating point")
    if raw_temperature.device != student_logits.device:
        raise ValueError(
            f"devices differ: raw_temperature is on {raw_temperature.device}, student_logits on {student_logits.device}"
        )
    if not (least > 0 and span >= 0):
        raise ValueError(f"least must be positive and span not negative, got {least} and {span}")
    options = {"gradient_scale": float(gradient_scale), "least": float(least), "span": float(span)}
    return _CURRICULUM_KL(student_logits, teacher_logits.detach(), raw_temperature, impl=impl, **options)
