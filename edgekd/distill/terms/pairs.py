"""Which feature map of the student follows which of the teacher."""

from __future__ import annotations

from typing import Literal

from edgekd.core.errors import ConfigError
from edgekd.distill.terms.base import Needs
from edgekd.distill.trace import TraceSpec, shape_of
from edgekd.models import Tap, pair_taps

Pairs = Literal["all", "first", "middle", "last"] | list[tuple[str, str]]


def resolve_pairs(student: TraceSpec, teacher: TraceSpec, pairs: Pairs) -> tuple[tuple[str, str], ...]:
    """Turn a pairing into module paths.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: `"all"` automatic pairs, only the `"first"`, `"middle"` or `"last"` one, or explicit path pairs.

    Returns:
        `(student path, teacher path)`, shallow to deep.

    Raises:
        ConfigError: An explicit path does not exist, or no pair was found.
    """
    if isinstance(pairs, list):
        for on, to in pairs:
            shape_of(student, on)
            shape_of(teacher, to)
        return tuple(pairs)
    found = pair_taps(_taps(student), _taps(teacher))
    if not found:
        raise ConfigError("no feature maps of student and teacher go together; name them: pairs: [[student, teacher]]")
    chosen = {"all": found, "first": found[:1], "middle": [found[len(found) // 2]], "last": found[-1:]}[pairs]
    return tuple((mine.path, theirs.path) for mine, theirs in chosen)


def needs_of(pairs: tuple[tuple[str, str], ...]) -> Needs:
    """Return what a term reads that compares these `(student path, teacher path)`."""
    return Needs(tuple(on for on, _ in pairs), tuple(to for _, to in pairs))


def _taps(spec: TraceSpec) -> list[Tap]:
    maps = spec.maps
    return [Tap(path, shape, (index + 1) / len(maps)) for index, (path, shape) in enumerate(maps.items())]
