"""Which feature map of the student follows which of the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from edgekd.core.errors import ConfigError
from edgekd.distill.terms.base import Needs
from edgekd.distill.trace import TraceSpec, shape_of
from edgekd.models import Tap, pair_taps

Shape = tuple[int, ...]
Pairs = Literal["all", "first", "middle", "last"] | list[tuple[str, str]]


def resolve_pairs(student: TraceSpec, teacher: TraceSpec, pairs: Pairs) -> tuple[tuple[str, str], ...]:
    """Turn a pairing into module paths.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: `"all"` automatic pairs, only the `"first"`, `"middle"` or `"last"` one, or explicit path pairs.
            Automatic pairs are those of equal resolution (see `paired_by_depth`), where there are none the last maps.

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
    found = paired_by_depth(student.maps, teacher.maps) or _ends(student.maps, teacher.maps)
    if not found:
        raise ConfigError(
            "no feature maps of student and teacher go together; name them: pairs: [[student, teacher]], take a method "
            "that needs none, such as mas or kd, or on texts cls-hint or hidden-relation"
        )
    return {"all": found, "first": found[:1], "middle": (found[len(found) // 2],), "last": found[-1:]}[pairs]


def _ends(student: Mapping[str, Shape], teacher: Mapping[str, Shape]) -> tuple[tuple[str, str], ...]:
    """Pair the last maps of networks of which no two maps have the same size; terms bring them to one."""
    return ((list(student)[-1], list(teacher)[-1]),) if student and teacher else ()


def paired_by_depth(student: Mapping[str, Shape], teacher: Mapping[str, Shape]) -> tuple[tuple[str, str], ...]:
    """Pair features of equal resolution by relative depth, each used once, without crossings.

    Args:
        student: Shapes by module path, shallow to deep.
        teacher: Likewise.

    Returns:
        `(student path, teacher path)`, shallow to deep.
    """
    return tuple((mine.path, theirs.path) for mine, theirs in pair_taps(_taps(student), _taps(teacher)))


def needs_of(pairs: tuple[tuple[str, str], ...], *, least_rows: int = 1) -> Needs:
    """Return what a term reads that compares these `(student path, teacher path)`.

    Args:
        pairs: Module paths.
        least_rows: Fewest rows of a batch for which the term is defined.
    """
    return Needs(tuple(on for on, _ in pairs), tuple(to for _, to in pairs), least_rows=least_rows)


def _taps(shapes: Mapping[str, Shape]) -> list[Tap]:
    return [Tap(path, shape, (index + 1) / len(shapes)) for index, (path, shape) in enumerate(shapes.items())]
