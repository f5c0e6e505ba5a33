"""Losses as their papers write them, left to autograd: what the fused ones are held against in benchmarks.

Each has the name and arguments of the public function that it stands for, and returns `[B]` as that one does.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from edgekd_kernels._checks import widened
from edgekd_kernels._rows import inner_products, unit_rows
from torch import Tensor


def kd_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Hinton's loss: KL divergence between softened probabilities."""
    return branch_kl(student_logits, teacher_logits.detach(), temperature=temperature)


def branch_kl(branch_logits: Tensor, trunk_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL divergence between softened probabilities, with gradients on both sides."""
    branch = F.log_softmax(widened(branch_logits) / temperature, dim=1)
    trunk = F.log_softmax(widened(trunk_logits) / temperature, dim=1)
    return _kl(trunk, branch).view(len(branch), -1).mean(dim=1) * temperature**2


def cwd(student_map: Tensor, teacher_map: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Mean over channels of the KL divergence between softmaxes over positions."""
    student, teacher = (feature_map.flatten(2).flatten(0, 1) for feature_map in (student_map, teacher_map))
    return kd_kl(student, teacher, temperature=temperature).view(student_map.shape[:2]).mean(dim=1)


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """KL divergences of the pair (label, rest) and among the rest."""
    target_s, rest_s = _label_apart(widened(student_logits) / temperature, labels)
    target_t, rest_t = _label_apart(widened(teacher_logits.detach()) / temperature, labels)
    pair = _kl(_log_pair(target_t, rest_t), _log_pair(target_s, rest_s))
    rest = _kl(F.log_softmax(rest_t, dim=1), F.log_softmax(rest_s, dim=1))
    return (alpha * pair + beta * rest) * temperature**2


def nkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 1.5,
    temperature: float = 1.0,
) -> Tensor:
    """Cross-entropies of the label, weighted by the teacher's probability, and among the rest."""
    target_s, rest_s = _label_apart(widened(student_logits), labels)
    target_t, rest_t = _label_apart(widened(teacher_logits.detach()), labels)
    target = _log_pair(target_t, rest_t)[:, 0].exp() * _log_pair(target_s, rest_s)[:, 0]
    rest = F.softmax(rest_t / temperature, dim=1) * F.log_softmax(rest_s / temperature, dim=1)
    return -target - gamma * temperature**2 * rest.sum(dim=1)


def kd_ce(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    label_weight: float = 1.0,
    teacher_weight: float = 1.0,
    temperature: float = 4.0,
) -> Tensor:
    """Cross-entropy and Hinton's loss, one after the other."""
    distillation = kd_kl(student_logits, teacher_logits, temperature=temperature)
    return label_weight * F.cross_entropy(student_logits, labels, reduction="none") + teacher_weight * distillation


def info_nce(student_embedding: Tensor, teacher_embedding: Tensor, *, temperature: float = 0.07) -> Tensor:
    """Cross-entropy over the cosines with all teachers of the batch."""
    student, teacher = unit_rows(widened(student_embedding)), unit_rows(widened(teacher_embedding))
    return -F.log_softmax(inner_products(student, teacher) / temperature, dim=1).diagonal()


def bank_similarity(embedding: Tensor, bank: Tensor, rows: Tensor, *, temperature: float = 0.07) -> Tensor:
    """Products with all rows of the bank, of which the wanted ones are picked."""
    return inner_products(widened(embedding), widened(bank.detach())).gather(1, rows) / temperature


def crd(similarity: Tensor, log_normaliser: Tensor, bank_size: int) -> Tensor:
    """Log-sigmoids of the own row and of the negatives."""
    negatives = similarity.shape[1] - 1
    log_odds = widened(similarity) - log_normaliser.detach() - math.log(negatives / bank_size)
    return -F.logsigmoid(log_odds[:, 0]) - F.logsigmoid(-log_odds[:, 1:]).sum(dim=1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)


def _label_apart(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the label's logit `[B]` and the other logits `[B, K-1]` in their order."""
    label = labels.unsqueeze(1)
    others = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    return logits.gather(1, label).squeeze(1), logits.gather(1, others + (others >= label))


def _log_pair(target: Tensor, rest: Tensor) -> Tensor:
    """Return log probabilities `[B, 2]` of the label and of all the rest, `log(1 - p)` without forming `1 - p`."""
    return F.log_softmax(torch.stack([target, rest.logsumexp(dim=1)], dim=1), dim=1)
