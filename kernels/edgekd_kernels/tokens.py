"""Losses on the states of a sequence's tokens, padding left out."""

from __future__ import annotations

from torch import Tensor

from edgekd_kernels._checks import widened
from edgekd_kernels._rows import inner_products


def hidden_relation(
    student_first_states: Tensor,
    student_last_states: Tensor,
    teacher_first_states: Tensor,
    teacher_last_states: Tensor,
    *,
    is_token: Tensor,
) -> Tensor:
    """Relation between two layers of token states: mean squared difference of their inner products over tokens.

    `F = H_1^T H_2 / n`, `[D1, D2]` for each sample, with `H` the states of its `n` tokens; padding counts nowhere. A
    sample without a token gives 0.

    Args:
        student_first_states: `[B, L, D1]`, already projected to the teacher's width.
        student_last_states: `[B, L, D2]`, likewise.
        teacher_first_states: `[B, L, D1]`; no gradient reaches it.
        teacher_last_states: `[B, L, D2]`; likewise.
        is_token: bool `[B, L]`, False on padding.

    Returns:
        `[B]`, the mean over the entries of `F`.

    Raises:
        ValueError: The states are not `[B, L, D]` of one `B` and `L`, or student and teacher differ in width.

    Reference:
        arXiv 2302.00444, relation knowledge: `F = H_i^T H_j / len` and the mean squared error of student and teacher.
    """
    states = (student_first_states, student_last_states, teacher_first_states, teacher_last_states)
    if any(each.dim() != 3 or each.shape[:2] != is_token.shape for each in states):
        shapes = ", ".join(str(tuple(each.shape)) for each in states)
        raise ValueError(f"states must be [B, L, D] with B and L of is_token {tuple(is_token.shape)}, got {shapes}")
    student = _relation(student_first_states, student_last_states, is_token)
    teacher = _relation(teacher_first_states.detach(), teacher_last_states.detach(), is_token)
    if student.shape != teacher.shape:
        raise ValueError(f"relations differ in shape: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}")
    return (student - teacher).square().mean(dim=(1, 2))


def _relation(first: Tensor, last: Tensor, is_token: Tensor) -> Tensor:
    counted = is_token.unsqueeze(-1)
    columns = [widened(each).where(counted, 0.0).mT for each in (first, last)]
    return inner_products(columns[0], columns[1]) / is_token.sum(dim=1).clamp(min=1).view(-1, 1, 1)
