"""Distillation between standard scores of logits."""

from __future__ import annotations

from torch import Tensor

from edgekd_kernels._checks import require_logits, require_positive
from edgekd_kernels._dispatch import Impl
from edgekd_kernels._op import FusedLoss, Signature, accumulation_dtype


def _fake(student: Tensor, teacher: Tensor, **_: float) -> tuple[Tensor, ...]:
    rows, dtype = len(student), accumulation_dtype(student, teacher)
    return student.new_empty(rows, dtype=dtype), student.new_empty(7, rows, dtype=dtype)


_STANDARDIZED_KL = FusedLoss(
    Signature(
        name="standardized_kl",
        family="standard",
        inputs=("student", "teacher"),
        options={"temperature": "float"},
        gradients=("student",),
        kept=("student", "teacher"),
        saved=("statistics",),
        fake=_fake,
        torch_keeps_own=True,
    )
)


def standardized_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 2.0, impl: Impl = "auto"
) -> Tensor:
    """Distillation loss on standard scores, `T^2 * KL(softmax(Z(t)/T) || softmax(Z(s)/T))`.

    `Z` subtracts a row's mean and divides by its population deviation, so the student matches the order and spacing of
    the teacher's logits but not their size. A constant row has score 0 and receives no gradient.

    Args:
        student_logits: `[B, K]`.
        teacher_logits: `[B, K]`; no gradient reaches it.
        temperature: Base temperature `T > 0`, applied to both sides.
        impl: Which implementation.

    Returns:
        `[B]`.

    Raises:
        ValueError: Shapes or devices do not fit, the batch is empty, or the temperature is not positive.
        TypeError: Logits are not of floating point, or the temperature is a tensor.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 2403.01427; the deviation divides by `K` as the paper's algorithm does, the authors' code by `K - 1`.
    """
    require_logits(student_logits, teacher_logits)
    require_positive(temperature)
    return _STANDARDIZED_KL(student_logits, teacher_logits.detach(), temperature=float(temperature), impl=impl)
