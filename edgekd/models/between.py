"""Networks of one family between two sizes: the assistants of a chain from teacher to student."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError
from edgekd.models.cost import count_macs
from edgekd.models.zoo import FAMILIES, build


def spec_between(small: NetSpec, large: NetSpec, *, share: float) -> NetSpec:
    """Return the network of the smaller one's family whose MACs come nearest to a point between two networks.

    Args:
        small: The student; its family, resolution and options are kept.
        large: The teacher, of any family.
        share: Where between them, on a logarithmic scale of MACs: 0 is the student, 1 the teacher.

    Returns:
        A spec larger than the student and smaller than the teacher, of depths and widths on the family's ladders or the
        student's own.

    Raises:
        ConfigError: One of them is not of edgekd's families, the teacher is no larger, or nothing lies between.
    """
    for one in (large, small):
        if one.family not in FAMILIES:
            raise ConfigError(
                f"{one.name} is not one of edgekd's families, so no assistant between {large.name} and {small.name}"
            )
    least, most = _macs(small), _macs(large)
    if most <= least:
        raise ConfigError(f"teacher {large.name} is no larger than student {small.name}: there is nothing between them")
    wanted = math.log(least) + share * (math.log(most) - math.log(least))
    fitting = [(abs(math.log(macs) - wanted), spec) for spec, macs in _sizes(small, large, most) if macs > least]
    if not fitting:
        raise ConfigError(f"no {small.family} lies between {small.name} and {large.name}; take a smaller student")
    return min(fitting, key=lambda item: item[0])[1]


def _sizes(small: NetSpec, large: NetSpec, most: int) -> Iterator[tuple[NetSpec, int]]:
    """Yield the family's networks below `most` MACs, none deeper than a teacher of the same family."""
    family = FAMILIES[small.family]
    deepest = large.depth if large.family == small.family else family.depths[-1]
    for depth in sorted({small.depth, *(depth for depth in family.depths if small.depth < depth <= deepest)}):
        for width in sorted({small.width, *(width for width in family.widths if width > small.width)}):
            spec = replace(small, depth=depth, width=width)
            macs = _macs(spec)
            if macs >= most:
                break
            yield spec, macs


def _macs(spec: NetSpec) -> int:
    with torch.random.fork_rng(devices=[]):
        return count_macs(build(spec), spec.input_shape)
