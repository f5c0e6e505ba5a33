"""Losses as their papers write them, left to autograd: what the fused ones are held against in benchmarks.

Each has the name and arguments of the public function that it stands for, and returns `[B]` as that one does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from edgekd_kernels._checks import widened
from edgekd_kernels._rows import inner_products, unit_rows
from torch import Tensor

_FLOOR = 1e-6
_ROUNDINGS = 8


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


def standardized_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Hinton's loss between standard scores."""
    pair = (widened(student_logits), widened(teacher_logits.detach()))
    scores = [(each - each.mean(dim=1, keepdim=True)) / each.std(dim=1, correction=0, keepdim=True) for each in pair]
    return kd_kl(*scores, temperature=temperature)


def curriculum_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    raw_temperature: Tensor,
    *,
    gradient_scale: float,
    least: float = 1.0,
    span: float = 20.0,
) -> Tensor:
    """Hinton's loss at a learned temperature whose gradient is scaled."""
    raw = widened(raw_temperature)
    temperature = least + span * torch.sigmoid(raw.detach() + gradient_scale * (raw - raw.detach()))
    student, teacher = (widened(each) / temperature for each in (student_logits, teacher_logits.detach()))
    divergence = F.kl_div(F.log_softmax(student, 1), F.log_softmax(teacher, 1), reduction="none", log_target=True)
    return divergence.sum(dim=1) * temperature.square()


def hint_mse(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference."""
    difference = widened(student_map) - widened(teacher_map.detach())
    return difference.square().flatten(1).mean(dim=1)


def hint_mse_grouped(
    student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], *, weights: Sequence[float] | None = None
) -> Tensor:
    """Weighted sum of mean squared differences."""
    weights = [1.0] * len(student_maps) if weights is None else weights
    values = [hint_mse(mine, theirs) for mine, theirs in zip(student_maps, teacher_maps, strict=True)]
    return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(dim=0)


def mgd(generated_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Sum of squared differences."""
    return (widened(generated_map) - widened(teacher_map.detach())).square().flatten(1).sum(dim=1)


def hint_l2(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference of unit vectors at each location."""
    return hint_mse(_unit(widened(student_map), 1), _unit(widened(teacher_map.detach()), 1))


def pkd(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Half the mean squared difference of standardised channels."""
    return hint_mse(_standardised(widened(student_map)), _standardised(widened(teacher_map.detach()))) / 2


def vid(mean: Tensor, teacher_map: Tensor, raw_variance: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Gaussian negative log-likelihood with one variance per channel."""
    variance = (F.softplus(widened(raw_variance)) + epsilon).view(1, -1, *([1] * (mean.dim() - 2)))
    difference = widened(mean) - widened(teacher_map.detach())
    return (0.5 * (difference.square() / variance + variance.log())).flatten(1).mean(dim=1)


def attention_transfer(student_map: Tensor, teacher_map: Tensor, *, p: float = 2.0) -> Tensor:
    """Mean squared difference of unit-length attention maps."""
    height, width = min(student_map.shape[-2:], teacher_map.shape[-2:], key=math.prod)
    maps = (F.adaptive_avg_pool2d(widened(each), (height, width)) for each in (student_map, teacher_map.detach()))
    mine, theirs = (_unit(_scaled(each, (1, 2, 3)).abs().pow(p).mean(dim=1).flatten(1), 1) for each in maps)
    return hint_mse(mine, theirs)


def pooled_mse(student_map: Tensor, teacher_map: Tensor, *, levels: tuple[int, ...] = (4, 2, 1)) -> Tensor:
    """Mean squared difference of maps and of their pooled pyramids."""
    difference = widened(student_map) - widened(teacher_map.detach())
    side = min(difference.shape[-2:])
    pyramid = [difference, *(_window_means(difference, level) for level in levels if level < side)]
    weights = [0.5**step for step in range(len(pyramid))]
    means = [floor.square().flatten(1).mean(dim=1) for floor in pyramid]
    return torch.stack([weight * mean for weight, mean in zip(weights, means, strict=True)]).sum(dim=0) / sum(weights)


def projected_mse(student_map: Tensor, teacher_map: Tensor, weight: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """Mean squared difference to a 1x1 convolution."""
    kernel = weight.view(*weight.shape, *[1] * (student_map.dim() - 2))
    return hint_mse(F.conv2d(student_map, kernel, bias), teacher_map)


def similarity_preserving(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """`1/B * ||row of G_t - row of G_s||^2` with row-normalised Gram matrices, `[B]`."""
    difference = _row_normalised_gram(student_map) - _row_normalised_gram(teacher_map.detach())
    return difference.square().sum(dim=1) / student_map.shape[0]


def rkd_distance(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Huber loss between distances relative to their mean, `[B]`."""
    student, teacher = _relative_distances(student_feature), _relative_distances(teacher_feature.detach())
    return F.smooth_l1_loss(student, teacher, reduction="none").mean(dim=1)


def rkd_angle(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Huber loss between the cosines at every sample, `[B]`, from all differences `[B, B, D]` as published."""
    student, teacher = _cosines_at_samples(student_feature), _cosines_at_samples(teacher_feature.detach())
    return F.smooth_l1_loss(student, teacher, reduction="none").mean(dim=(1, 2))


def linear_cka(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Alignment of centred Gram matrices, `[B]`."""
    student, teacher = _centred_gram(student_feature), _centred_gram(teacher_feature.detach())
    shares = (student * teacher).sum(dim=1) * student.shape[0]
    return shares / (student.square().sum() * teacher.square().sum()).sqrt()


def cka_dissimilarity(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """1 less the alignment of centred Gram matrices, `[B]`."""
    return 1 - linear_cka(student_feature, teacher_feature)


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


def _window_means(feature_map: Tensor, level: int) -> Tensor:
    for dim in (2, 3):
        size = feature_map.shape[dim]
        windows = [(i * size // level, -(-(i + 1) * size // level)) for i in range(level)]
        means = [feature_map.narrow(dim, start, end - start).mean(dim=dim) for start, end in windows]
        feature_map = torch.stack(means, dim=dim)
    return feature_map


def _unit(vectors: Tensor, dim: int) -> Tensor:
    scaled = _scaled(vectors, (dim,))
    return scaled * scaled.square().sum(dim=dim, keepdim=True).clamp(min=_FLOOR).rsqrt()


def _scaled(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    peak = values.detach().abs().amax(dim=dims, keepdim=True)
    return torch.where(peak <= _FLOOR, 0.0, values / peak.clamp(min=_FLOOR))


def _standardised(feature_map: Tensor) -> Tensor:
    dims = (0, *range(2, feature_map.dim()))
    mean = feature_map.mean(dim=dims, keepdim=True)
    centred = feature_map - mean
    variance = centred.square().mean(dim=dims, keepdim=True)
    rounding = _ROUNDINGS * torch.finfo(feature_map.dtype).eps * mean.detach().abs()
    is_flat = variance <= _FLOOR**2 + rounding**2
    return torch.where(is_flat, 0.0, centred * variance.clamp(min=_FLOOR**2).rsqrt())


def _flat(feature: Tensor) -> Tensor:
    return feature.float().flatten(1) if feature.dtype in (torch.float16, torch.bfloat16) else feature.flatten(1)


def _row_normalised_gram(feature_map: Tensor) -> Tensor:
    rows = _flat(feature_map)
    return F.normalize(rows @ rows.T, dim=1)


def _relative_distances(feature: Tensor) -> Tensor:
    rows = _flat(feature)
    squares = rows.square().sum(dim=1)
    distances = (squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * rows @ rows.T).clamp(min=1e-12).sqrt()
    distances = distances * (1 - torch.eye(len(rows), dtype=rows.dtype, device=rows.device))
    return distances / distances[distances > 0].mean()


def _cosines_at_samples(feature: Tensor) -> Tensor:
    rows = _flat(feature)
    directions = F.normalize(rows.unsqueeze(0) - rows.unsqueeze(1), dim=2)
    return torch.bmm(directions, directions.transpose(1, 2))


def _centred_gram(feature: Tensor) -> Tensor:
    rows = _flat(feature)
    centred = rows - rows.mean(dim=0)
    return centred @ centred.T
