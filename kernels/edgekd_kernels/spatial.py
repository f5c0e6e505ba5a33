"""Losses on feature maps where each location or each sample counts by its direction, not by its length."""

from __future__ import annotations

import torch
from torch import Tensor

from edgekd_kernels._checks import require_same_shape, widened
from edgekd_kernels._dispatch import Impl
from edgekd_kernels._maps import planes, require_features, require_maps, same_size
from edgekd_kernels._op import FusedLoss, Signature, accumulation_dtype

_FLOOR = 1e-6


def _fake_hint_l2(student: Tensor, teacher: Tensor) -> tuple[Tensor, ...]:
    batch, _, positions = student.shape
    dtype = accumulation_dtype(student, teacher)
    return tuple(student.new_empty(shape, dtype=dtype) for shape in ((batch,), (3, batch, positions)))


def _fake_attention_transfer(student: Tensor, teacher: Tensor, *, p: float) -> tuple[Tensor, ...]:
    batch, _, positions = student.shape
    dtype = accumulation_dtype(student, teacher)
    return tuple(student.new_empty(shape, dtype=dtype) for shape in ((batch,), (batch, positions), (batch,)))


_HINT_L2 = FusedLoss(
    Signature(
        name="hint_l2",
        family="spatial",
        inputs=("student", "teacher"),
        options={},
        gradients=("student",),
        kept=("student", "teacher"),
        saved=("statistics",),
        fake=_fake_hint_l2,
    )
)
_ATTENTION_TRANSFER = FusedLoss(
    Signature(
        name="attention_transfer",
        family="spatial",
        inputs=("student", "teacher"),
        options={"p": "float"},
        gradients=("student",),
        kept=("student",),
        saved=("slopes", "scales"),
        fake=_fake_attention_transfer,
    )
)


def hint_l2(student_map: Tensor, teacher_map: Tensor, *, impl: Impl = "auto") -> Tensor:
    """Hint loss on features of unit length at each location: mean squared difference, `(2 - 2 cos) / C`.

    It ignores the length of a location's feature vector. A vector below 1e-6 in every channel counts as zero and
    receives no gradient, where a division by its length would give NaN or enormous values. The Triton kernel takes the
    cosine itself, in one read of both maps; values below about `1e-7 / C` are rounding there.

    Args:
        student_map: `[B, C, ...]`, already projected to the teacher's width.
        teacher_map: The same shape; no gradient reaches it.
        impl: Which implementation.

    Returns:
        `[B]`, the mean over channels and positions.

    Raises:
        ValueError: Shapes or devices differ, or a tensor has no elements.
        TypeError: A tensor is not of floating point.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 1412.6550 for the hint.
    """
    require_features(student_map=student_map, teacher_map=teacher_map)
    return _HINT_L2(planes(student_map), planes(teacher_map.detach()), impl=impl)


def attention_transfer(student_map: Tensor, teacher_map: Tensor, *, p: float = 2.0, impl: Impl = "auto") -> Tensor:
    """Attention transfer: mean squared difference of unit-length maps of where the activations are.

    The attention of a map is the mean over channels of `|s|^p`, flattened and divided by its length. Where sizes
    differ the larger feature map is average-pooled first. A map below 1e-6 everywhere has zero attention and receives
    no gradient. Backward reads the student's map alone.

    Args:
        student_map: `[B, C, H, W]`; channels and size may differ from the teacher's.
        teacher_map: `[B, C', H', W']`; no gradient reaches it.
        p: Power of the activations, 1 or more.
        impl: Which implementation.

    Returns:
        `[B]`, the mean over positions.

    Raises:
        ValueError: Batch sizes or devices differ, a tensor is no map or has no elements, or `p < 1`.
        TypeError: A tensor is not of floating point.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 1612.03928; mean over positions where the paper writes half of a norm, as the benchmark code has it.
    """
    require_maps(same="batch", student_map=student_map, teacher_map=teacher_map)
    if not p >= 1:
        raise ValueError(f"p must be 1 or more, got {p}")
    mine, theirs = same_size(student_map, teacher_map.detach())
    return _ATTENTION_TRANSFER(planes(mine), planes(theirs), p=float(p), impl=impl)


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
    require_maps(same="batch", student_map=student_map, teacher_map=teacher_map)
    maps = same_size(student_map, teacher_map.detach())
    mine, theirs = (_unit(widened(each).flatten(2), 2) for each in maps)
    with torch.autocast(mine.device.type, enabled=False):
        channels = mine.shape[1] + theirs.shape[1]
        if mine.shape[2] <= channels:
            difference = mine.mT @ mine / mine.shape[1] - theirs.mT @ theirs / theirs.shape[1]
            return difference.square().flatten(1).sum(dim=1)
        both = torch.cat([mine, theirs], dim=1)
        counts = ((mine.shape[1], 1.0), (theirs.shape[1], -1.0))
        shares = torch.cat([both.new_full((count,), sign / count) for count, sign in counts])
        return torch.einsum("bij,i,j->b", (both @ both.mT).square(), shares, shares)


def _unit(vectors: Tensor, dim: int) -> Tensor:
    scaled = _scaled(vectors, (dim,))
    return scaled * scaled.square().sum(dim=dim, keepdim=True).clamp(min=_FLOOR).rsqrt()


def _scaled(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Divide by the largest magnitude over `dims`, a constant to autograd; what is below the floor becomes zero.

    For use before something that ignores scale: its gradient is exact then, and no square over- or underflows.
    """
    peak = values.detach().abs().amax(dim=dims, keepdim=True)
    return torch.where(peak <= _FLOOR, 0.0, values / peak.clamp(min=_FLOOR))
