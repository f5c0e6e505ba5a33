"""Squared differences of features: all stages in one launch, a sample's elements in the order of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.variants import DTYPE_PAIRS, Variant

BLOCK = 2048


@triton.jit
def _squares_kernel(
    students, teachers, partials,  # one pointer for each stage, twice; [B, tiles]
    lengths, scales, tiles,  # elements of a sample and factor of each stage; tiles of a sample in all stages
    STAGES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    sample, tile = (program // tiles).to(tl.int64), program % tiles
    total = tl.zeros([BLOCK], tl.float32)
    first = 0
    for stage in tl.static_range(STAGES):
        count = tl.cdiv(lengths[stage], BLOCK)
        if (tile >= first) & (tile < first + count):
            column = (tile - first) * BLOCK + tl.arange(0, BLOCK)
            inside = column < lengths[stage]
            at = sample * lengths[stage] + column
            s = tl.load(students[stage] + at, mask=inside, other=0.0).to(tl.float32)
            t = tl.load(teachers[stage] + at, mask=inside, other=0.0).to(tl.float32)
            total = (s - t) * (s - t) * scales[stage]
        first += count
    tl.store(partials + program, tl.sum(total, axis=0))


@triton.jit
def _difference_kernel(
    grad, students, teachers, gradients,  # [B]; one pointer for each stage, three times
    lengths, scales, tiles,
    STAGES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    sample, tile = (program // tiles).to(tl.int64), program % tiles
    upstream = tl.load(grad + sample)
    first = 0
    for stage in tl.static_range(STAGES):
        count = tl.cdiv(lengths[stage], BLOCK)
        if (tile >= first) & (tile < first + count):
            column = (tile - first) * BLOCK + tl.arange(0, BLOCK)
            inside = column < lengths[stage]
            at = sample * lengths[stage] + column
            s = tl.load(students[stage] + at, mask=inside, other=0.0).to(tl.float32)
            t = tl.load(teachers[stage] + at, mask=inside, other=0.0).to(tl.float32)
            result = (s - t) * (2 * scales[stage] * upstream)
            tl.store(gradients[stage] + at, result.to(gradients[stage].dtype.element_ty), mask=inside)
        first += count


def hint_mse_forward(*features: Tensor, weights: Sequence[float]) -> tuple[Tensor]:
    """Return the weighted sum over stages of the mean squared differences, `[B]`.

    Args:
        features: The student's features of every stage, `[B, ...]`, then the teacher's.
        weights: One for each stage.
    """
    students, teachers = _ordered(features)
    batch, lengths, scales, tiles = _plan(students, weights)
    partials = students[0].new_empty(batch, tiles, dtype=torch.float32)
    with device_of(students[0]):
        _squares_kernel[(batch * tiles,)](
            students, teachers, partials, lengths, scales, tiles, STAGES=len(students), BLOCK=BLOCK
        )
    return (partials.sum(dim=1),)


def hint_mse_backward(grad: Tensor, *features: Tensor, weights: Sequence[float]) -> tuple[Tensor, ...]:
    """Return `2 w / n (s - t)` times the gradient for every stage; read once, written once."""
    students, teachers = _ordered(features)
    batch, lengths, scales, tiles = _plan(students, weights)
    gradients = tuple(torch.empty_like(each) for each in students)
    with device_of(students[0]):
        _difference_kernel[(batch * tiles,)](
            grad.contiguous(), students, teachers, gradients, lengths, scales, tiles, STAGES=len(students), BLOCK=BLOCK
        )
    return gradients


def _plan(students: Sequence[Tensor], weights: Sequence[float]) -> tuple[int, tuple[int, ...], tuple[float, ...], int]:
    """Return the samples, each stage's elements of a sample and factor, and the tiles of a sample."""
    batch = len(students[0])
    lengths = tuple(each.numel() // batch for each in students)
    scales = tuple(weight / length for weight, length in zip(weights, lengths, strict=True))
    return batch, lengths, scales, sum(triton.cdiv(length, BLOCK) for length in lengths)


def _ordered(features: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return both sides with equal strides and each sample's elements next to each other; copied where need be."""
    pairs = []
    for mine, theirs in zip(features[: len(features) // 2], features[len(features) // 2 :], strict=True):
        is_ordered = mine.stride() == theirs.stride() and _is_dense(mine)
        pairs.append((mine, theirs) if is_ordered else (mine.contiguous(), theirs.contiguous()))
    return tuple(mine for mine, _ in pairs), tuple(theirs for _, theirs in pairs)


def _is_dense(features: Tensor) -> bool:
    expected = 1
    for size, stride in sorted(zip(features.shape[1:], features.stride()[1:], strict=True), key=lambda each: each[1]):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return len(features) == 1 or features.stride(0) == expected


def variants() -> Iterator[Variant]:
    """Yield every kernel in the configurations that launches pick."""
    for student, teacher in DTYPE_PAIRS:
        for stages in (1, 4, 8):
            students, teachers = (f"*{student}",) * stages, (f"*{teacher}",) * stages
            plan: dict[str, str | tuple[str, ...]] = {
                "lengths": ("i32",) * stages,
                "scales": ("fp32",) * stages,
                "tiles": "i32",
            }
            constants = {"STAGES": stages, "BLOCK": BLOCK}
            sides: dict[str, str | tuple[str, ...]] = {"students": students, "teachers": teachers}
            yield Variant(_squares_kernel, {**sides, "partials": "*fp32", **plan}, constants)
            yield Variant(_difference_kernel, {"grad": "*fp32", **sides, "gradients": students, **plan}, constants)
