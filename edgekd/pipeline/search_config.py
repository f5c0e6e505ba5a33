"""What a search over students is asked to do: the `search:` section of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgekd.core.config import StrictModel

Objective = Literal["score", "p99", "memory"]
Share = Annotated[float, Field(gt=0, le=1)]

KEEPS: tuple[float, ...] = (0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75)
"""Shares of the teacher's channels that students cut from it keep."""


class SpaceConfig(StrictModel):
    """Which students there are to choose from."""

    families: tuple[str, ...] = Field(
        (), description="Families, and pruned for the teacher with fewer channels; all that fit the task by default."
    )
    depths: Mapping[str, tuple[int, ...]] = Field({}, description="Depths by family; those the family tries itself.")
    widths: Mapping[str, tuple[int, ...]] = Field({}, description="Widths by family; those the family tries itself.")
    kernels: tuple[int, ...] = Field((3, 5), min_length=1, description="Kernel sizes, where a family has a choice.")
    reduces: tuple[int, ...] = Field(
        (1, 2), min_length=1, description="How many pixels a side are averaged into one before the first layer."
    )
    keeps: tuple[Share, ...] = Field(KEEPS, description="Shares of the teacher's channels that pruned keeps.")
    rankings: tuple[Literal["uniform", "global"], ...] = Field(
        ("uniform", "global"), min_length=1, description="Every layer keeps the share, or all layers together."
    )


class SearchConfig(StrictModel):
    """How students are searched."""

    space: SpaceConfig = SpaceConfig()
    name: str = Field("search", min_length=1, description="Name of the study in its storage.")
    storage: str | None = Field(
        None, description="File or URL (postgresql://user@host/name) of the study; a file in the run folder."
    )
    trials: int = Field(24, ge=1, description="Students to train, in all.")
    workers: int = Field(1, ge=1, le=256, description="Processes on this machine.")
    minutes: float | None = Field(None, gt=0, description="Begin no student after so many minutes.")
    method: str = Field("kd", description="Recipe of the short trainings.")
    rungs: tuple[int, ...] = Field(
        (1, 3, 9), min_length=1, description="Epochs after which the weaker students stop; the last ends the training."
    )
    share: float = Field(1 / 3, gt=0, le=1, description="Share of the students that passes a rung.")
    objectives: tuple[Objective, ...] = Field(
        ("score", "p99", "memory"), min_length=1, description="What is sought at once, the score first."
    )
    sampler: Literal["tpe", "nsga2"] = "tpe"
    seed: int = Field(0, ge=0, description="Decides what is tried, and the weights and batches of every training.")
    finalists: int = Field(3, ge=1, description="Students to return, at most.")
    inherit: bool = Field(
        True, description="Start a student from the teacher's first layers as far as names and shapes agree."
    )
    device: str | None = Field(
        None, description="Board of the target's kind, user@host: finalists are built and measured on it."
    )
    known_hosts: str | None = Field(None, description="File of the host keys trusted for it; edgekd's own.")
    identity: str | None = Field(None, description="Private key to log in there with; those of the user.")
    calibration: int = Field(10, ge=6, description="Networks measured on this CPU before it is predicted.")

    @model_validator(mode="after")
    def _is_ordered(self) -> SearchConfig:
        if list(self.rungs) != sorted(set(self.rungs)) or self.rungs[0] < 1:
            raise ValueError(f"rungs are epochs in increasing order, each once, not {list(self.rungs)}")
        if self.objectives[0] != "score" or len(set(self.objectives)) != len(self.objectives):
            raise ValueError("objectives begin with score, and name each one once")
        return self
