"""What a probe is: networks by role and a split in, named figures out, with what is needed to read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from torch import nn

from edgekd.core.errors import ConfigError
from edgekd.core.registry import Registry
from edgekd.data import Kind, Split
from edgekd.distill.options import checked_options

Figures: TypeAlias = dict[str, float]
Models: TypeAlias = Mapping[str, nn.Module]
SplitName: TypeAlias = Literal["train", "val", "test"]

_PICTURE_AXES = 3

ROLES: Mapping[str, str] = {
    "teacher": "the network learnt from",
    "student": "the network in question",
    "independent": "a student of the same architecture trained without the teacher",
    "foreign": "a network that taught neither, as a control",
    "start": "the student as it was initialised",
}


@dataclass(frozen=True)
class Probe:
    """A comparison of networks by role.

    A figure without prefix is the student's; `teacher.`, `independent.` and so on are those of other roles, and
    `chance.` is what is known beforehand for a student that has nothing to do with the teacher.

    Attributes:
        compare: `(models by role, split, options by keyword)` to figures; takes the roles of `needs`, and `uses` where
            they are there.
        title: What it asks, in one line.
        reference: Paper and arXiv id, with any deviation.
        chance: What a second independent student in the student's place gives, in words.
        extreme: Figures by name where the student is the teacher itself.
        needs: Roles without which it cannot be run.
        uses: Roles that add figures.
        splits: Splits it is meant for.
        tasks: Kinds of task it is defined for.
        needs_pictures: Whether inputs must be pictures.
        reads_labels: Whether labels take part; where they do not, pictures of any classes will do.
    """

    compare: Callable[..., Figures]
    title: str
    reference: str
    chance: str
    extreme: Mapping[str, float] = field(default_factory=dict)
    needs: tuple[str, ...] = ("teacher", "student")
    uses: tuple[str, ...] = ("independent",)
    splits: tuple[SplitName, ...] = ("test",)
    tasks: tuple[Kind, ...] = ("classification",)
    needs_pictures: bool = True
    reads_labels: bool = True

    def __call__(self, models: Models, split: Split, **options: Any) -> Figures:
        """Run the probe.

        Args:
            models: Networks by role, inputs to one output; they are left as they were.
            split: Labelled inputs.
            **options: Keyword-only parameters of `compare`.

        Raises:
            ConfigError: A role is missing, the split is of another task, an option is unknown or out of range, or the
                networks do not fit.
        """
        self.require_fit(split)
        for role in self.needs:
            network_of(models, role)
        return self.compare(models, split, **checked_options("probe", self.compare, options))

    def require_fit(self, split: Split) -> None:
        """Raise `ConfigError` where the split is of a task or holds inputs that the probe is not for."""
        if split.task.kind not in self.tasks:
            raise ConfigError(f"this probe is for {' and '.join(self.tasks)}, the data are for {split.task.kind}")
        if self.needs_pictures and len(split.inputs.shape) != _PICTURE_AXES:
            raise ConfigError(f"this probe is for pictures [C, H, W], the inputs are {list(split.inputs.shape)}")


PROBES: Registry[Probe] = Registry("probe")


def network_of(models: Models, role: str) -> nn.Module:
    """Return the network of a role; raises `ConfigError` when it was not given."""
    if role not in models:
        raise ConfigError(f"the probe needs the role {role!r} ({ROLES[role]}); given: {', '.join(models) or 'none'}")
    return models[role]


def by_role(
    models: Models, measure: Callable[[nn.Module], Figures], roles: Sequence[str] = ("student", "independent")
) -> Figures:
    """Measure networks in turn.

    Args:
        models: Networks by role.
        measure: Figures of one network.
        roles: Whom to measure; roles that were not given are left out, the student is required.

    Returns:
        The student's figures by their own name, those of others behind `ROLE.`.

    Raises:
        ConfigError: There is no student.
    """
    network_of(models, "student")
    given = [role for role in roles if role in models]
    return {
        (name if role == "student" else f"{role}.{name}"): value
        for role in given
        for name, value in measure(models[role]).items()
    }


def prefixed(prefix: str, figures: Figures) -> Figures:
    """Return figures under the names `PREFIX.name`."""
    return {f"{prefix}.{name}": value for name, value in figures.items()}
