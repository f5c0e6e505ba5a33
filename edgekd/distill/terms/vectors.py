"""Between which features of student and teacher relations are compared."""

from __future__ import annotations

from typing import Literal

from edgekd.distill.terms.pairs import Pairs, resolve_pairs
from edgekd.distill.trace import TraceSpec

Places = Literal["penultimate"] | Pairs


def resolve_places(student: TraceSpec, teacher: TraceSpec, places: Places) -> tuple[tuple[str, str], ...]:
    """Turn places into module paths.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        places: `"penultimate"`, the features `[B, D]` that feed the classifiers, or map pairs (see `resolve_pairs`).

    Returns:
        `(student path, teacher path)`, shallow to deep.

    Raises:
        ConfigError: A path does not exist, or no pair was found.
    """
    if places == "penultimate":
        places = [(student.penultimate, teacher.penultimate)]
    return resolve_pairs(student, teacher, places)
