"""What a policy is rewarded for."""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

StudentReward = Literal["r1", "r2", "r3"]
"""r1 is `-CE_s`, r2 is `-CE_s - KD_s`, r3 mixes r2 with the accuracy on held-out rows."""


def repetition(action: Tensor, before: Tensor) -> Tensor:
    """Return the cosine of two actions `[A]`, `[]`; 0 where one of them is 0."""
    return F.cosine_similarity(action, before, dim=0)


def novelty(times: int) -> float:
    """Return `1/sqrt(n)` for an action that is taken for the n-th time, counted from 1."""
    return 1 / math.sqrt(times)


def student_reward(kind: StudentReward, cross_entropy: Tensor, distillation: Tensor, selection: Tensor) -> Tensor:
    """Return the part of a reward that a student's own losses decide, `[B]`.

    `KD_s` is the mean of the losses to the selected teachers, and to all of them where none was selected: counting that
    as 0 would reward a policy for selecting none.

    Args:
        kind: Which reward; r3 has the part of r2.
        cross_entropy: `[B]`.
        distillation: `[B, S]`, the loss to each teacher.
        selection: `[B, S]` of 0 and 1.

    Returns:
        `[B]`, never positive for losses that are not negative.
    """
    if kind == "r1":
        return -cross_entropy
    asked = selection.where(selection.sum(dim=1, keepdim=True) > 0, 1.0)
    return -cross_entropy - (asked * distillation).sum(dim=1) / asked.sum(dim=1)
