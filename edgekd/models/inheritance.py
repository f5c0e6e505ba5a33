"""Students that start from layers of their teacher instead of from drawn weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError
from edgekd.models.bert import shape_of_spec

Layers = Literal["first", "spread"]
"""The teacher's first layers, or layers spread evenly up to its last."""

_EMBEDDINGS = "net.bert.embeddings."
_LAYER = "net.bert.encoder.layer.{}."
_POSITIONS = f"{_EMBEDDINGS}position_embeddings.weight"
_SAME_OPTIONS = ("heads", "hidden")


def inherited_weights(
    student: NetSpec, teacher: NetSpec, state: Mapping[str, Tensor], *, layers: Layers
) -> dict[str, Tensor]:
    """Return what a student of the bert family takes over from a teacher: embeddings, and a layer for each of its own.

    Args:
        student: The student's architecture.
        teacher: The teacher's.
        state: The teacher's weights by name.
        layers: Which of its layers.

    Returns:
        Weights by name in the student; its classifier is not among them.

    Raises:
        ConfigError: The two do not share family, width, attention heads, feed-forward width and vocabulary, or the
            student is deeper or takes longer texts.
    """
    if problems := _problems(student, teacher):
        raise ConfigError(f"{student.name} cannot start from layers of {teacher.name}: {'; '.join(problems)}")
    taken = {name: value for name, value in state.items() if name.startswith(_EMBEDDINGS)}
    taken[_POSITIONS] = taken[_POSITIONS][: student.resolution]
    for own, theirs in enumerate(_chosen(student.depth, teacher.depth, layers)):
        source = _LAYER.format(theirs)
        for name, value in state.items():
            if name.startswith(source):
                taken[_LAYER.format(own) + name.removeprefix(source)] = value
    return {name: value.clone() for name, value in taken.items()}


def leading_weights(own: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the teacher's weights up to the first that a student has not, in the order both compute them.

    What follows layers that are the teacher's sees what it saw there; behind the first difference it would not, so
    nothing later is taken although its shape may agree.

    Args:
        own: The student's state, in order.
        teacher: The teacher's, in order.
    """
    taken = {}
    for (name, value), (theirs, weight) in zip(own.items(), teacher.items(), strict=False):
        if name != theirs or value.shape != weight.shape:
            break
        taken[name] = weight.detach().clone()
    return taken


def _chosen(own: int, theirs: int, layers: Layers) -> list[int]:
    if layers == "first":
        return list(range(own))
    return [(layer + 1) * theirs // own - 1 for layer in range(own)]


def _problems(student: NetSpec, teacher: NetSpec) -> list[str]:
    if student.family != "bert" or teacher.family != "bert":
        return [f"only networks of the bert family have such layers, these are {student.family} and {teacher.family}"]
    problems = [
        f"{name} is {mine} and {theirs}, it must agree"
        for name, mine, theirs in [
            ("width", student.width, teacher.width),
            ("vocabulary", student.vocabulary, teacher.vocabulary),
            *((name, _size(student, name), _size(teacher, name)) for name in _SAME_OPTIONS),
        ]
        if mine != theirs
    ]
    for name, mine, theirs in (
        ("depth", student.depth, teacher.depth),
        ("length", student.resolution, teacher.resolution),
    ):
        if mine > theirs:
            problems.append(f"{name} is {mine}, the teacher has {theirs}")
    return problems


def _size(spec: NetSpec, option: str) -> int:
    return int(getattr(shape_of_spec(spec), option))
