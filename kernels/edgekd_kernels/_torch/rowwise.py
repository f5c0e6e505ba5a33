"""Losses on rows: softmax over classes or positions."""

from __future__ import annotations

from torch import Tensor

from edgekd_kernels._op import accumulation_dtype


def kd_kl_forward(student: Tensor, teacher: Tensor, *, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values `[B]` and both sides' log normalisers at the temperature, `[B, R]`.

    Args:
        student: `[B, R, K]`, rows along the last dimension.
        teacher: The same shape.
        temperature: Softens both sides.
    """
    dtype = accumulation_dtype(student, teacher)
    mine, theirs = student.to(dtype) / temperature, teacher.to(dtype) / temperature
    normalisers = mine.logsumexp(dim=2), theirs.logsumexp(dim=2)
    log_q, log_p = (rows - total.unsqueeze(2) for rows, total in zip((mine, theirs), normalisers, strict=True))
    values = (log_p.exp() * (log_p - log_q)).sum(dim=2)
    return values.mean(dim=1) * temperature**2, *normalisers


def kd_kl_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, log_q: Tensor, log_p: Tensor, *, temperature: float
) -> tuple[Tensor]:
    """Return `T/R (q - p)` times the gradient, `[B, R, K]`."""
    dtype = accumulation_dtype(student, teacher)
    pairs = (student, log_q), (teacher, log_p)
    q, p = ((rows.to(dtype) / temperature - total.unsqueeze(2)).exp() for rows, total in pairs)
    return (q.sub_(p).mul_((grad * (temperature / student.shape[1])).view(-1, 1, 1)),)
