"""Losses as their papers write them, for autograd: what the fused ones are held against in benchmarks.

Each has the name and arguments of the public function that it stands for, and returns `[B]` as that one does.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def kd_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Hinton's loss: KL divergence between softened probabilities."""
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    return divergence.view(len(divergence), -1).mean(dim=1) * temperature**2
