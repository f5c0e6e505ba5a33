"""Losses as published distillation code computes them in eager torch: formulas of common practice, in our own words.

Each takes the tensors of the public function of its name and returns the mean over the batch. The formulas are those
that mdistiller and torchdistill share: logits through `log_softmax` and `softmax`, maps flattened and normalised, the
Gram matrices formed by products, RKD from all pairs and all triples of differences.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def kd_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """KL divergence of softened probabilities."""
    log_q = F.log_softmax(student_logits / temperature, dim=1)
    p = F.softmax(teacher_logits.detach() / temperature, dim=1)
    return F.kl_div(log_q, p, reduction="none").sum(dim=1).mean() * temperature**2


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """The pair by masks, the rest by a large number taken from the label's logit."""
    is_label = F.one_hot(labels, student_logits.shape[1]).bool()
    teacher = teacher_logits.detach()
    q, p = (F.softmax(logits / temperature, dim=1) for logits in (student_logits, teacher))
    pair_q, pair_p = (
        torch.stack([(each * is_label).sum(dim=1), (each * ~is_label).sum(dim=1)], dim=1) for each in (q, p)
    )
    target = F.kl_div(pair_q.log(), pair_p, reduction="batchmean")
    rest_q = F.log_softmax(student_logits / temperature - 1000.0 * is_label, dim=1)
    rest_p = F.softmax(teacher / temperature - 1000.0 * is_label, dim=1)
    rest = F.kl_div(rest_q, rest_p, reduction="batchmean")
    return (alpha * target + beta * rest) * temperature**2


def cwd(student_map: Tensor, teacher_map: Tensor, *, temperature: float = 4.0) -> Tensor:
    """KL divergence of softmaxes over positions."""
    student, teacher = (each.flatten(2).flatten(0, 1) for each in (student_map, teacher_map.detach()))
    return kd_kl(student, teacher, temperature=temperature)


def hint_mse(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference."""
    return F.mse_loss(student_map, teacher_map.detach())


def hint_l2(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference of features of unit length."""
    return F.mse_loss(F.normalize(student_map, dim=1), F.normalize(teacher_map.detach(), dim=1))


def projected_mse(student_map: Tensor, teacher_map: Tensor, weight: Tensor) -> Tensor:
    """A 1x1 convolution and the mean squared difference."""
    projected = F.conv2d(student_map, weight.to(student_map.dtype)[:, :, None, None])
    return F.mse_loss(projected, teacher_map.detach().to(projected.dtype))


def pkd(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Half the mean squared difference of standardised channels."""

    def standard(feature_map: Tensor) -> Tensor:
        rows = feature_map.transpose(0, 1).flatten(1)
        rows = (rows - rows.mean(dim=1, keepdim=True)) / (rows.std(dim=1, keepdim=True) + 1e-6)
        return rows

    return F.mse_loss(standard(student_map), standard(teacher_map.detach())) / 2


def attention_transfer(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Squared difference of normalised maps of mean squares."""

    def attention(feature_map: Tensor) -> Tensor:
        return F.normalize(feature_map.pow(2).mean(dim=1).flatten(1))

    return (attention(student_map) - attention(teacher_map.detach())).pow(2).mean()


def vid(mean: Tensor, teacher_map: Tensor, raw_variance: Tensor) -> Tensor:
    """Gaussian negative log-likelihood."""
    variance = (torch.log(1.0 + torch.exp(raw_variance)) + 1e-5).view(1, -1, 1, 1)
    return (0.5 * ((mean - teacher_map.detach()) ** 2 / variance + torch.log(variance))).mean()


def pooled_mse(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared differences of a pyramid of pooled maps."""
    teacher_map = teacher_map.detach()
    total, weight, weights = F.mse_loss(student_map, teacher_map), 1.0, 1.0
    for level in (4, 2, 1):
        if level >= student_map.shape[2]:
            continue
        weight /= 2
        pair = (F.adaptive_avg_pool2d(each, (level, level)) for each in (student_map, teacher_map))
        total, weights = total + weight * F.mse_loss(*pair), weights + weight
    return total / weights


def similarity_preserving(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Squared difference of normalised similarity matrices."""

    def similarity(feature_map: Tensor) -> Tensor:
        rows = feature_map.flatten(1)
        return F.normalize(rows @ rows.t())

    difference = similarity(student_map) - similarity(teacher_map.detach())
    return difference.pow(2).sum() / len(difference) ** 2


def rkd_distance(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Huber loss of distances over their mean."""

    def distances(feature: Tensor) -> Tensor:
        squares = feature.pow(2).sum(dim=1)
        found = (squares[:, None] + squares[None, :] - 2 * feature @ feature.t()).clamp(min=1e-12).sqrt()
        found = found * (1 - torch.eye(len(feature), device=feature.device, dtype=feature.dtype))
        return found / found[found > 0].mean()

    return F.smooth_l1_loss(distances(student_feature), distances(teacher_feature.detach()))


def rkd_angle(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Huber loss of the angles of all triples, from all differences `[B, B, D]`."""

    def angles(feature: Tensor) -> Tensor:
        differences = F.normalize(feature.unsqueeze(0) - feature.unsqueeze(1), dim=2)
        return torch.bmm(differences, differences.transpose(1, 2))

    return F.smooth_l1_loss(angles(student_feature), angles(teacher_feature.detach()))


def cka_dissimilarity(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """1 less the alignment of centred Gram matrices."""

    def gram(feature: Tensor) -> Tensor:
        centre = torch.eye(len(feature), device=feature.device, dtype=feature.dtype) - 1 / len(feature)
        return centre @ (feature @ feature.t()) @ centre

    student, teacher = gram(student_feature), gram(teacher_feature.detach())
    return 1 - (student * teacher).sum() / (student.norm() * teacher.norm())


def info_nce(student_embedding: Tensor, teacher_embedding: Tensor, *, temperature: float = 0.07) -> Tensor:
    """Cross-entropy of similarities, each row's own on the diagonal."""
    student, teacher = F.normalize(student_embedding), F.normalize(teacher_embedding)
    labels = torch.arange(len(student), device=student.device)
    return F.cross_entropy(student @ teacher.t() / temperature, labels)


def bank_similarity(embedding: Tensor, bank: Tensor, rows: Tensor, *, temperature: float = 0.07) -> Tensor:
    """Rows of the bank copied, then products."""
    chosen = torch.index_select(bank.detach(), 0, rows.flatten()).view(*rows.shape, -1)
    return (torch.bmm(chosen, embedding.unsqueeze(2)).squeeze(2) / temperature).mean()


def crd(similarity: Tensor, log_normaliser: Tensor, bank_size: int) -> Tensor:
    """Noise-contrastive terms from exponentials, with the small number of common code in both denominators."""
    critic = similarity.exp() / log_normaliser.detach().exp()
    noise = (similarity.shape[1] - 1) / bank_size
    own = torch.log(critic[:, 0] / (critic[:, 0] + noise + 1e-7))
    others = torch.log(noise / (critic[:, 1:] + noise + 1e-7))
    return -(own.sum() + others.sum()) / len(similarity)
