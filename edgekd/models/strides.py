"""How a family spreads its strides over inputs from 8 to 224 pixels and more.

Two rules, the same for all families. Entry: a network first brings its input to at most 56 pixels, by no (up to 56
pixels), one (up to 112) or two halvings, so that CIFAR-sized inputs keep their pixels and ImageNet-sized ones reach the
first stage at 56. Stages: a later stage halves its map as its family wishes, shallow stages first, as long as the last
map keeps at least 2 x 2 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

_ENTRY_PIXELS = 56
_MAX_ENTRY_HALVINGS = 2


def entry_halvings(resolution: int) -> int:
    """Return how often an input is halved before the first stage: 0, 1 or 2.

    Args:
        resolution: Height and width of the input in pixels.
    """
    halvings = 0
    while halvings < _MAX_ENTRY_HALVINGS and resolution > _ENTRY_PIXELS << halvings:
        halvings += 1
    return halvings


def stage_strides(resolution: int, wanted: Sequence[int]) -> tuple[int, ...]:
    """Return the stride of every stage.

    Args:
        resolution: Height and width of the input in pixels, at least 8.
        wanted: Stride (1 or 2) of every stage on an input that is large enough.

    Returns:
        `wanted`, the deepest twos turned into ones where the last map would fall below 2 x 2 pixels.
    """
    allowed = resolution.bit_length() - 2 - entry_halvings(resolution)
    strides = []
    for stride in wanted:
        taken = stride if allowed > 0 else 1
        allowed -= taken - 1
        strides.append(taken)
    return tuple(strides)
