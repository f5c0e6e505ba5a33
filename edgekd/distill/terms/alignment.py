"""Bringing a student's feature map to a teacher's size and width before a loss compares them."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.distill.terms.pairs import Pairs, resolve_pairs
from edgekd.distill.trace import TraceSpec, shape_of

MapPairs = tuple[tuple[str, str], ...]


def map_pairs(student: TraceSpec, teacher: TraceSpec, pairs: Pairs) -> MapPairs:
    """Turn a pairing into module paths that give feature maps.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: See `resolve_pairs`.

    Returns:
        `(student path, teacher path)`, shallow to deep.

    Raises:
        ConfigError: No pair, an unknown path, or a path that gives a vector and no map.
    """
    found = resolve_pairs(student, teacher, pairs)
    for role, spec, paths in (
        ("student", student, [on for on, _ in found]),
        ("teacher", teacher, [to for _, to in found]),
    ):
        for path in paths:
            if len(shape_of(spec, path)) != 3:
                raise ConfigError(
                    f"{role} module {path!r} gives a feature of shape {shape_of(spec, path)}, not a map (C, H, W); "
                    f"maps: {', '.join(spec.maps)}"
                )
    return found


def widths_of(student: TraceSpec, teacher: TraceSpec, pairs: MapPairs) -> list[tuple[int, int]]:
    """Return the channels of student and teacher for each pair."""
    return [(shape_of(student, on)[0], shape_of(teacher, to)[0]) for on, to in pairs]


def normalised_projection(inputs: int, outputs: int) -> nn.Sequential:
    """Return a 1x1 convolution followed by batch normalisation."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel_size=1, bias=False), nn.BatchNorm2d(outputs))


def width_adapter(inputs: int, outputs: int) -> nn.Module:
    """Return a 1x1 convolution, or nothing at all when the widths agree."""
    return nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, kernel_size=1)


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps `[B, C, H, W]` to the size of the smaller one."""
    size = min(student.shape[-2:], teacher.shape[-2:], key=math.prod)
    return _pooled(student, (size[0], size[1])), _pooled(teacher, (size[0], size[1]))


def _pooled(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    return feature_map if feature_map.shape[-2:] == size else F.adaptive_avg_pool2d(feature_map, size)
