"""The whole report of a run, and the rule that its verdict may say no more than its figures do."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgekd.report.facts import (
    ArtifactRow,
    BudgetResult,
    Curve,
    DataFacts,
    FidelityRow,
    LatencyRow,
    PairedGain,
    Parity,
    PrecisionDecision,
    ReportModel,
    Scores,
    SizeRow,
    TargetRef,
    TaskFacts,
)

REPORT_SCHEMA_VERSION = 1


class Verdict(str, Enum):
    """How the run ended with respect to its latency budget.

    `kept` and `missed` rest on a measurement on the run's target. `predicted kept` and `predicted missed` rest on the
    latency model and are no measurement. `no budget`: none was given.
    """

    KEPT = "kept"
    MISSED = "missed"
    NO_BUDGET = "no budget"
    PREDICTED_KEPT = "predicted kept"
    PREDICTED_MISSED = "predicted missed"

    @classmethod
    def of(cls, budget: BudgetResult | None) -> Verdict:
        """Return the verdict that follows from a judged budget."""
        if budget is None:
            return cls.NO_BUDGET
        if budget.kind == "measured":
            return cls.MISSED if budget.misses else cls.KEPT
        return cls.PREDICTED_MISSED if budget.misses else cls.PREDICTED_KEPT


class RunReport(ReportModel):
    """Everything a run found: the content of `report.json`."""

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(min_length=1, description="Name of the run")]
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", description="UTC")]
    command: str = Field(description="Command that made or resumes the run")
    verdict: Verdict
    budget: BudgetResult | None
    target: TargetRef
    data: DataFacts
    method: str = Field(description="Distillation recipe")
    task: TaskFacts
    scores: Scores
    gain: PairedGain | None = Field(description="Distilled minus alone, seed by seed; null without common seeds")
    fidelity: tuple[FidelityRow, ...] = Field((), description="Agreement of the students with the teacher")
    latency: tuple[LatencyRow, ...]
    parity: Parity | None
    precision: PrecisionDecision | None
    sizes: tuple[SizeRow, ...]
    curves: tuple[Curve, ...]
    artifacts: tuple[ArtifactRow, ...]
    notes: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict, description="Version by program or package")

    @model_validator(mode="after")
    def _says_what_it_knows(self) -> RunReport:
        if self.verdict is not Verdict.of(self.budget):
            raise ValueError(f"verdict {self.verdict.value!r} does not follow from the budget")
        if self.budget is not None and not any(self._is_of(row, self.budget.kind) for row in self.latency):
            raise ValueError(
                f"the budget was judged on a {self.budget.kind} latency of {self.target.name}; none is here"
            )
        alone = self.scores.alone
        if self.gain != (None if alone is None else PairedGain.of(self.scores.distilled, alone)):
            raise ValueError("gain is not distilled minus alone over the common seeds")
        return self

    def _is_of(self, row: LatencyRow, kind: str) -> bool:
        return row.kind == kind and row.network == "student" and row.target == self.target.name
