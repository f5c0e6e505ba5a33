"""What a recipe may say, key by key: networks, stages, what learns in them, from whom, by which terms and weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from edgekd.core.config import StrictModel
from edgekd.distill.trace import Depth


class WithOptions(StrictModel):
    """A registered name; every other key is an option of what it names."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    type: str

    @property
    def options(self) -> dict[str, Any]:
        """The keys besides the declared ones."""
        return dict(self.model_extra or {})


class RampSpec(StrictModel):
    """A weight that moves linearly over the first part of a stage."""

    start: float = 0.0
    end: float = 1.0
    over: float = Field(..., gt=0, le=1)


class WeigherSpec(WithOptions):
    """A weight that a registered weigher decides at each step."""


class ActionSpec(StrictModel):
    """A weight that a policy of the recipe decides."""

    policy: str
    action: int = Field(0, ge=0, description="Which of the policy's numbers it is.")


class TermSpec(WithOptions):
    """One loss term and its weight."""

    weight: float | RampSpec | ActionSpec | WeigherSpec = 1.0
    of: tuple[str, ...] = Field((), description="Names of the targets it compares with; all of the stage's when empty.")


class AttachmentSpec(WithOptions):
    """One attachment of a network."""


class SourceSpec(WithOptions):
    """Where targets come from."""

    type: str = "frozen"


class ViewSpec(WithOptions):
    """One change of each batch."""


class PolicySpec(WithOptions):
    """A learned decision on weights, kept from stage to stage."""


class RoleSpec(StrictModel):
    """A network besides student and teacher, like one of them or of the student's family and between their sizes."""

    like: Literal["student", "teacher"] | None = None
    between: float | None = Field(
        None, gt=0, lt=1, description="0 is the student's MACs, 1 the teacher's, on a log scale."
    )

    @model_validator(mode="after")
    def _is_one_of_both(self) -> RoleSpec:
        if (self.like is None) == (self.between is None):
            raise ValueError("give either like or between")
        return self


class LearnerSpec(StrictModel):
    """A network that trains in a stage, and what it learns from."""

    learner: str = Field("student", description="Its role.")
    start: Literal["as-is", "fresh", "fresh-once-prepared"] = Field(
        "as-is",
        description="Fresh: its backbone starts from new weights; once prepared: after terms saw it as it was.",
    )
    train: tuple[Literal["backbone", "head", "attachments"], ...] = ("backbone", "attachments")
    until: Depth | None = Field(None, description="Feature map above which everything stays frozen.")
    source: tuple[SourceSpec, ...] = (SourceSpec(),)
    terms: tuple[TermSpec, ...] = Field(..., min_length=1)
    lr: float = Field(1.0, gt=0, description="Multiple of the run's learning rate.")
    head_lr: float = Field(1.0, gt=0, description="Multiple of that for the head, attachments and adapters.")

    @field_validator("source", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return (value,) if isinstance(value, Mapping | SourceSpec) else value


class StageSpec(LearnerSpec):
    """One phase of training."""

    name: str
    beside: tuple[LearnerSpec, ...] = Field((), description="Networks that train in the same steps.")
    views: tuple[ViewSpec, ...] = (ViewSpec(type="identity"),)
    learns: tuple[str, ...] = Field((), description="Policies that learn; the others only decide.")
    record: int = Field(0, ge=0, description="Checkpoints of the learner to keep, evenly over the stage.")
    repeat: int = Field(1, ge=1, description="Times that the stage runs.")
    epochs: float = Field(1.0, gt=0, description="Multiple of the run's epochs.")
    milestones: tuple[float, ...] | None = None
    keep: Literal["best", "last"] | None = Field(
        None,
        description="Epoch to go on with; the run's choice. A stage that does not train the classifier keeps last.",
    )

    @field_validator("views", mode="before")
    @classmethod
    def _names_are_views(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            return value
        return [{"type": view} if isinstance(view, str) else view for view in value]

    @property
    def learners(self) -> tuple[LearnerSpec, ...]:
        """What trains: the stage's own learner first."""
        return (self, *self.beside)
