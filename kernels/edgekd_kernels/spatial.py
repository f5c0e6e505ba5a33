"""Losses on feature maps, position by position."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd_kernels._checks import require_same_shape, widened

_FLOOR = 1e-6
_ROUNDINGS = 8


def hint_mse(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """FitNet's hint loss, the mean squared difference of two feature maps of one shape.

    Args:
        student_map: `[B, ...]`, already projected to the teacher's width.
        teacher_map: The same shape; no gradient reaches it.

    Returns:
        `[B]`, the mean over all but the batch dimension.

    Raises:
        ValueError: Shapes differ.

    Reference:
        arXiv 1412.6550; the mean is taken where the paper writes half a sum.
    """
    require_same_shape(student_map, teacher_map)
    difference = widened(student_map) - widened(teacher_map.detach())
    return difference.square().flatten(1).mean(dim=1)


def hint_l2(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Hint loss on features of unit length at each location: mean squared difference, `(2 - 2 cos) / C`.

    It ignores the length of a location's feature vector. A vector below 1e-6 in every channel counts as zero and
    receives no gradient, where a division by its length would give NaN or enormous values.

    Args:
        student_map: `[B, C, ...]`, already projected to the teacher's width.
        teacher_map: The same shape; no gradient reaches it.

    Returns:
        `[B]`, the mean over channels and positions.

    Raises:
        ValueError: Shapes differ.

    Reference:
        arXiv 1412.6550 for the hint.
    """
    require_same_shape(student_map, teacher_map)
    return hint_mse(_unit(widened(student_map), 1), _unit(widened(teacher_map.detach()), 1))


def pkd(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Distillation by Pearson correlation: half the mean squared difference of standardised channels.

    Each channel is standardised over batch and positions (population deviation), so that the mean over the batch is
    `1 - r`, averaged over channels. A channel that is constant up to rounding becomes zero and receives no gradient.

    Args:
        student_map: `[B, C, ...]`, already projected to the teacher's width.
        teacher_map: The same shape; no gradient reaches it.

    Returns:
        `[B]`; each value depends on the whole batch.

    Raises:
        ValueError: Shapes differ.

    Reference:
        arXiv 2207.02039.
    """
    require_same_shape(student_map, teacher_map)
    return hint_mse(_standardised(widened(student_map)), _standardised(widened(teacher_map.detach()))) / 2


def projected_match(student_map: Tensor, teacher_map: Tensor, projection: Tensor) -> Tensor:
    """Squared distance between the student's features and a linear projection of the teacher's, `||h_s - R h_t||^2`.

    Args:
        student_map: `[B, C, ...]`.
        teacher_map: `[B, D, ...]`, the same positions; no gradient reaches it.
        projection: `R`, `[C, D]`; no gradient reaches it.

    Returns:
        `[B]`, the sum over channels and the mean over positions.

    Raises:
        ValueError: Shapes do not go together.

    Reference:
        arXiv 2503.17494; a reconstruction.
    """
    if projection.dim() != 2 or teacher_map.shape[1] != projection.shape[1]:
        raise ValueError(f"projection {tuple(projection.shape)} does not take features {tuple(teacher_map.shape)}")
    teacher = torch.einsum("cd,bd...->bc...", widened(projection.detach()), widened(teacher_map.detach()))
    student = widened(student_map)
    require_same_shape(student, teacher)
    return (student - teacher).square().reshape(*student.shape[:2], -1).sum(dim=1).mean(dim=1)


def attention_transfer(student_map: Tensor, teacher_map: Tensor, *, p: float = 2.0) -> Tensor:
    """Attention transfer: mean squared difference of unit-length maps of where the activations are.

    The attention of a map is the mean over channels of `|s|^p`, flattened and divided by its length. Where sizes
    differ the larger feature map is average-pooled first. A map below 1e-6 everywhere has zero attention and receives
    no gradient.

    Args:
        student_map: `[B, C, H, W]`; channels and size may differ from the teacher's.
        teacher_map: `[B, C', H', W']`; no gradient reaches it.
        p: Power of the activations, 1 or more.

    Returns:
        `[B]`, the mean over positions.

    Raises:
        ValueError: Batch sizes differ, a tensor is no map, or `p < 1`.

    Reference:
        arXiv 1612.03928; mean over positions where the paper writes half of a norm, as the benchmark code has it.
    """
    if not p >= 1:
        raise ValueError(f"p must be 1 or more, got {p}")
    mine, theirs = _same_size(student_map, teacher_map.detach())
    return hint_mse(_attention(mine, p), _attention(theirs, p))


def vid(mean: Tensor, teacher_map: Tensor, raw_variance: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Variational information distillation, a Gaussian negative log-likelihood with one variance per channel.

    `0.5 * ((mean - t)^2 / v + log v)` with `v = softplus(raw_variance) + epsilon`; the constant is left out, so the
    loss can be negative.

    Args:
        mean: `[B, C, H, W]`, the teacher's map as predicted from the student.
        teacher_map: `[B, C, H, W]`; no gradient reaches it.
        raw_variance: `[C]`, learned; receives a gradient.
        epsilon: Floor of the variance.

    Returns:
        `[B]`, the mean over channels and positions.

    Raises:
        ValueError: Shapes differ.

    Reference:
        arXiv 1904.05835; mean instead of sum, as the benchmark code credited to the authors has it.
    """
    require_same_shape(mean, teacher_map)
    if raw_variance.shape != (mean.shape[1],):
        raise ValueError(f"raw_variance has shape {tuple(raw_variance.shape)}, expected ({mean.shape[1]},)")
    variance = (F.softplus(widened(raw_variance)) + epsilon).view(1, -1, *([1] * (mean.dim() - 2)))
    difference = widened(mean) - widened(teacher_map.detach())
    return (0.5 * (difference.square() / variance + variance.log())).flatten(1).mean(dim=1)


def factor_transfer(student_factor: Tensor, teacher_factor: Tensor) -> Tensor:
    """Factor transfer: mean absolute difference of factors, each sample's divided by its length.

    A factor below 1e-6 everywhere counts as zero and receives no gradient.

    Args:
        student_factor: `[B, ...]`, the translated map of the student.
        teacher_factor: The same shape, the paraphrased map of the teacher; no gradient reaches it.

    Returns:
        `[B]`, the mean over all but the batch dimension.

    Raises:
        ValueError: Shapes differ.

    Reference:
        arXiv 1802.04977, with `p = 1`; mean over elements where the paper writes a norm, as the benchmark code has it.
    """
    require_same_shape(student_factor, teacher_factor)
    mine, theirs = (_unit(widened(each).flatten(1), 1) for each in (student_factor, teacher_factor.detach()))
    return (mine - theirs).abs().mean(dim=1)


def nst(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Neuron selectivity transfer: squared maximum mean discrepancy between the channels of two maps.

    Each channel's map, flattened and of unit length, is a sample; the kernel is `(x . y)^2`. Its mean over pairs of
    channels is `||X^T X / C||_F^2`, so that the discrepancy is `||S^T S / C_s - T^T T / C_t||_F^2` over pairs of
    positions. With more positions than channels the equal sum over pairs of channels is taken instead. Where sizes
    differ the larger map is average-pooled first. A channel below 1e-6 everywhere counts as zero and receives no
    gradient.

    Args:
        student_map: `[B, C, H, W]`; channels and size may differ from the teacher's.
        teacher_map: `[B, C', H', W']`; no gradient reaches it.

    Returns:
        `[B]`.

    Raises:
        ValueError: Batch sizes differ or a tensor is no map.

    Reference:
        arXiv 1707.01219.
    """
    mine, theirs = (_unit(each.flatten(2), 2) for each in _same_size(student_map, teacher_map.detach()))
    with torch.autocast(mine.device.type, enabled=False):
        channels = mine.shape[1] + theirs.shape[1]
        if mine.shape[2] <= channels:
            difference = mine.mT @ mine / mine.shape[1] - theirs.mT @ theirs / theirs.shape[1]
            return difference.square().flatten(1).sum(dim=1)
        both = torch.cat([mine, theirs], dim=1)
        counts = ((mine.shape[1], 1.0), (theirs.shape[1], -1.0))
        shares = torch.cat([both.new_full((count,), sign / count) for count, sign in counts])
        return torch.einsum("bij,i,j->b", (both @ both.mT).square(), shares, shares)


def mgd(generated_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Masked generative distillation: squared difference between the generated and the teacher's map.

    Args:
        generated_map: `[B, C, ...]`, generated from the student's masked map.
        teacher_map: The same shape, never masked; no gradient reaches it.

    Returns:
        `[B]`, the sum (not the mean) over channels and positions.

    Raises:
        ValueError: Shapes differ.

    Reference:
        arXiv 2205.01529.
    """
    require_same_shape(generated_map, teacher_map)
    return (widened(generated_map) - widened(teacher_map.detach())).square().flatten(1).sum(dim=1)


def pooled_mse(student_map: Tensor, teacher_map: Tensor, *, levels: tuple[int, ...] = (4, 2, 1)) -> Tensor:
    """Hierarchical context loss: mean squared difference of two maps and of their pooled pyramids.

    The maps themselves weigh 1, each coarser level half of the one before; the sum is divided by the weights' total.
    A level as large as the map's shorter side or larger is left out. Level `l` averages `l x l` windows from
    `floor(i H / l)` to `ceil((i + 1) H / l)`, which overlap where `l` does not divide the side.

    Args:
        student_map: `[B, C, H, W]`, already adapted to the teacher's width and size.
        teacher_map: The same shape; no gradient reaches it.
        levels: Sides of the pooled maps, coarser and coarser.

    Returns:
        `[B]`.

    Raises:
        ValueError: Shapes differ, a tensor is no map, or a level is not positive.

    Reference:
        arXiv 2104.09044.
    """
    require_same_shape(student_map, teacher_map)
    _require_maps(student_map, teacher_map)
    if any(level < 1 for level in levels):
        raise ValueError(f"levels must be positive, got {levels}")
    difference = widened(student_map) - widened(teacher_map.detach())
    side = min(difference.shape[-2:])
    pyramid = [difference, *(_window_means(difference, level) for level in levels if level < side)]
    weights = [0.5**step for step in range(len(pyramid))]
    means = [floor.square().flatten(1).mean(dim=1) for floor in pyramid]
    return torch.stack([weight * mean for weight, mean in zip(weights, means, strict=True)]).sum(dim=0) / sum(weights)


def _window_means(feature_map: Tensor, level: int) -> Tensor:
    for dim in (2, 3):
        size = feature_map.shape[dim]
        windows = [(i * size // level, -(-(i + 1) * size // level)) for i in range(level)]
        means = [feature_map.narrow(dim, start, end - start).mean(dim=dim) for start, end in windows]
        feature_map = torch.stack(means, dim=dim)
    return feature_map


def _attention(feature_map: Tensor, p: float) -> Tensor:
    scaled = _scaled(feature_map, (1, 2, 3))
    return _unit(scaled.abs().pow(p).mean(dim=1).flatten(1), 1)


def _unit(vectors: Tensor, dim: int) -> Tensor:
    scaled = _scaled(vectors, (dim,))
    return scaled * scaled.square().sum(dim=dim, keepdim=True).clamp(min=_FLOOR).rsqrt()


def _scaled(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Divide by the largest magnitude over `dims`, a constant to autograd; what is below the floor becomes zero.

    For use before something that ignores scale: its gradient is exact then, and no square over- or underflows.
    """
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


def _same_size(student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
    _require_maps(student_map, teacher_map)
    height, width = min(student_map.shape[-2:], teacher_map.shape[-2:], key=math.prod)
    mine, theirs = (F.adaptive_avg_pool2d(widened(each), (height, width)) for each in (student_map, teacher_map))
    return mine, theirs


def _require_maps(student_map: Tensor, teacher_map: Tensor) -> None:
    shapes = f"student {tuple(student_map.shape)}, teacher {tuple(teacher_map.shape)}"
    if student_map.dim() != 4 or teacher_map.dim() != 4:
        raise ValueError(f"feature maps [B, C, H, W] expected: {shapes}")
    if student_map.shape[0] != teacher_map.shape[0]:
        raise ValueError(f"batch sizes differ: {shapes}")
