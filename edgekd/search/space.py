"""The students that may be chosen: members of families, and the teacher cut to fewer channels.

A point names one of them by plain values, the same on every machine that shares a study: `{"family": "resnet",
"resnet.depth": 20, "resnet.width": 16, "resnet.reduce": "1"}`, `{"family": "pruned", "pruned.keep": 0.5,
"pruned.ranking": "global"}`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgekd.core.errors import ConfigError

PRUNED = "pruned"

Point = dict[str, Any]
"""One student, as the values of a study's parameters."""


@dataclass(frozen=True)
class Dimension:
    """One thing that varies within a family.

    Attributes:
        name: `depth`, `width`, an option of the family (`kernel`, `reduce`), `keep` or `ranking`.
        values: What it may be, smaller networks first where there is an order.
        is_ordered: Whether neighbours among the values are alike.
    """

    name: str
    values: tuple[Any, ...]
    is_ordered: bool = True


@dataclass(frozen=True)
class FamilySpace:
    """What may be chosen of one family.

    Attributes:
        family: Name of a family of edgekd, or `pruned` for the teacher with fewer channels.
        dimensions: What varies.
    """

    family: str
    dimensions: tuple[Dimension, ...]

    def __len__(self) -> int:
        size = 1
        for dimension in self.dimensions:
            size *= len(dimension.values)
        return size

    def point(self, values: Sequence[Any]) -> Point:
        """Name the member with these values, one for each dimension."""
        named = zip(self.dimensions, values, strict=True)
        return {"family": self.family, **{f"{self.family}.{one.name}": value for one, value in named}}

    def points(self) -> Iterator[Point]:
        """Yield every member."""
        for values in itertools.product(*(dimension.values for dimension in self.dimensions)):
            yield self.point(values)

    def corners(self) -> dict[str, Point]:
        """Return the smallest member, the one in the centre and the largest: the ends and middles of all dimensions.

        What has no order (an option, a ranking) takes its first value.
        """
        shares = {"min": 0.0, "centre": 0.5, "max": 1.0}
        return {
            name: self.point(
                [
                    dimension.values[round(share * (len(dimension.values) - 1))]
                    if dimension.is_ordered
                    else dimension.values[0]
                    for dimension in self.dimensions
                ]
            )
            for name, share in shares.items()
        }


@dataclass(frozen=True)
class SearchSpace:
    """All students that may be chosen.

    Attributes:
        families: One entry a family.
        facts: What the points mean beside their values, for telling one study from another.
    """

    families: tuple[FamilySpace, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        empty = [
            f"{one.family}.{dimension.name}"
            for one in self.families
            for dimension in one.dimensions
            if not dimension.values
        ]
        if not self.families or empty:
            raise ConfigError(
                f"the search space is empty: {', '.join(empty) or 'no family'} has nothing to choose from"
            )

    def __len__(self) -> int:
        return sum(len(one) for one in self.families)

    def __getitem__(self, family: str) -> FamilySpace:
        return next(one for one in self.families if one.family == family)

    def points(self) -> Iterator[Point]:
        """Yield every member of every family."""
        for one in self.families:
            yield from one.points()

    def document(self) -> dict[str, Any]:
        """Return the space as plain data."""
        families = {
            one.family: {dimension.name: list(dimension.values) for dimension in one.dimensions}
            for one in self.families
        }
        return {"families": families, **self.facts}


class Suggesting(Protocol):
    """What of an Optuna trial a space needs."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Choose among values without order."""
        ...

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Choose a whole number, both ends included."""
        ...


def suggest(trial: Suggesting, space: SearchSpace) -> Point:
    """Let a sampler choose a member.

    Ordered values are chosen by their place, so that a sampler knows neighbours: parameter `resnet.width#` is the place
    of the width among those allowed.

    Args:
        trial: Gives the values.
        space: What to choose from.
    """
    names = [one.family for one in space.families]
    chosen = space[trial.suggest_categorical("family", names)]
    values = []
    for dimension in chosen.dimensions:
        name, choices = f"{chosen.family}.{dimension.name}", dimension.values
        if dimension.is_ordered:
            values.append(choices[trial.suggest_int(f"{name}#", 0, len(choices) - 1)])
        else:
            values.append(trial.suggest_categorical(name, choices))
    return chosen.point(values)


def parameters_of(point: Point, space: SearchSpace) -> dict[str, Any]:
    """Return a point as the parameters with which `suggest` gives it: what a study is asked to try."""
    chosen = space[point["family"]]
    parameters: dict[str, Any] = {"family": chosen.family}
    for dimension in chosen.dimensions:
        name = f"{chosen.family}.{dimension.name}"
        value = point[name]
        parameters[f"{name}#" if dimension.is_ordered else name] = (
            dimension.values.index(value) if dimension.is_ordered else value
        )
    return parameters


def values_of(point: Point) -> dict[str, Any]:
    """Return the values of a point by name of dimension, without its family."""
    start = f"{point['family']}."
    return {name.removeprefix(start): value for name, value in point.items() if name.startswith(start)}
