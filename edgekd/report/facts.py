"""The parts of a report. Summaries carry the values they summarise and refuse to disagree with them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from edgekd.core.artifacts import FileRef, LatencyReport, Precision
from edgekd.core.budget import Budget, Clause

Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Score: TypeAlias = Annotated[float, Field(le=1, description="In the metric of the task; 1 is perfect")]
Milliseconds: TypeAlias = Annotated[float, Field(gt=0)]
Count: TypeAlias = Annotated[int, Field(ge=0)]
Digest: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Kind: TypeAlias = Literal["predicted", "measured"]
Network: TypeAlias = Literal["teacher", "student"]


class ReportModel(BaseModel):
    """Frozen, strict, no unknown keys, no NaN: the settings of every model here."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class TargetRef(ReportModel):
    """The device the run was for."""

    name: str = Field(description="Target name, e.g. jetson-orin")
    title: str = Field(description="What the name stands for")


class TaskFacts(ReportModel):
    """What was learnt, and what its figures are called."""

    kind: Literal["classification", "segmentation", "regression"]
    metric: str = Field(description="What scores are, e.g. top-1 or mean IoU")
    is_share: bool = Field(description="Whether scores are printed as percentages, their differences as points")
    agreement: str = Field(description="What agreement of two networks is, e.g. same class")


class CorruptInputRow(ReportModel):
    """An input that could not be decoded, and that another one of its class stood in for."""

    part: Literal["train", "val", "test"]
    name: str = Field(description="Path, or shard and key")
    reason: str


class DataFacts(ReportModel):
    """The data set, and how many inputs each split has."""

    name: str
    digest: Digest
    targets: Annotated[int, Field(ge=1, description="Classes, or quantities in regression")]
    train: Count
    val: Count
    test: Count
    unlabelled: Count = Field(0, description="Of the training inputs, those without a label")
    shards: Count | None = Field(None, description="Files that it lies in, where they are many")
    missing_shards: tuple[str, ...] = Field((), description="Those that should be there, and were skipped")
    corrupt: tuple[CorruptInputRow, ...] = Field((), description="Inputs that could not be decoded")


class SeedValue(ReportModel):
    """One number of one seed."""

    seed: int
    value: float


class ScoreSummary(ReportModel):
    """Score of one network over seeds; `std` is the sample deviation, null with a single seed."""

    net: str = Field(description="Architecture, e.g. resnet8-w4@8")
    split: str = Field(description="Split it was measured on")
    mean: Score
    std: Annotated[float, Field(ge=0)] | None
    seeds: Annotated[tuple[SeedValue, ...], Field(min_length=1)]

    @classmethod
    def of(cls, net: str, split: str, by_seed: Mapping[int, float]) -> ScoreSummary:
        """Summarise scores by seed."""
        seeds = _seed_values(by_seed)
        return cls(net=net, split=split, mean=_mean(seeds), std=_std(seeds), seeds=seeds)

    @model_validator(mode="after")
    def _agrees(self) -> ScoreSummary:
        _require_agreement("score", self.seeds, self.mean, self.std)
        if any(item.value > 1 for item in self.seeds):
            raise ValueError("a score is above 1")
        return self

    @property
    def by_seed(self) -> dict[int, float]:
        """Score by seed."""
        return {item.seed: item.value for item in self.seeds}


class Scores(ReportModel):
    """The three networks side by side; `alone` is null when the student was not also trained without a teacher."""

    teacher: ScoreSummary
    alone: ScoreSummary | None
    distilled: ScoreSummary


class PairedGain(ReportModel):
    """Score distilled minus alone, seed by seed."""

    mean: float
    std: Annotated[float, Field(ge=0)] | None
    differences: Annotated[tuple[SeedValue, ...], Field(min_length=1)]

    @classmethod
    def of(cls, distilled: ScoreSummary, alone: ScoreSummary) -> PairedGain | None:
        """Compare two summaries over the seeds they share; None when they share none."""
        shared = sorted(distilled.by_seed.keys() & alone.by_seed.keys())
        if not shared:
            return None
        differences = _seed_values({seed: distilled.by_seed[seed] - alone.by_seed[seed] for seed in shared})
        return cls(mean=_mean(differences), std=_std(differences), differences=differences)

    @model_validator(mode="after")
    def _agrees(self) -> PairedGain:
        _require_agreement("gain", self.differences, self.mean, self.std)
        return self


class FidelityRow(ReportModel):
    """How well one student follows the teacher, right or wrong; not the same as a good score."""

    role: Literal["alone", "distilled"]
    seed: int
    split: str
    agreement: Score = Field(description="How far both answer alike, as the task's facts say")
    kl: Annotated[float, Field(ge=0)] = Field(description="Mean KL(teacher || student) at temperature 1, in nats")


class LatencyRow(ReportModel):
    """Latency of one network on one target; `low_ms`..`high_ms` is the interval of the median."""

    target: str
    network: Network = "student"
    precision: Precision
    kind: Kind
    p50_ms: Milliseconds
    p99_ms: Milliseconds
    low_ms: Milliseconds
    high_ms: Milliseconds
    backend: str
    conditions: dict[str, JsonValue] = Field(default_factory=dict)

    @classmethod
    def of(cls, report: LatencyReport, *, network: Network = "student") -> LatencyRow:
        """Take over a latency report; conditions become plain JSON."""
        return cls(
            target=report.target,
            network=network,
            precision=report.precision,
            kind=report.kind,
            p50_ms=report.p50_ms,
            p99_ms=report.p99_ms,
            low_ms=report.low_ms,
            high_ms=report.high_ms,
            backend=report.backend,
            conditions=json.loads(json.dumps(dict(report.conditions), allow_nan=False)),
        )

    @model_validator(mode="after")
    def _is_ordered(self) -> LatencyRow:
        if not (self.low_ms <= self.p50_ms <= self.high_ms and self.p50_ms <= self.p99_ms):
            raise ValueError("a latency is not low <= p50 <= high and p50 <= p99")
        return self


class BudgetLimit(ReportModel):
    """One limit on latency, and the figure it was compared with."""

    metric: Literal["p50", "p90", "p99", "mean"]
    limit_ms: Milliseconds
    judged_ms: Milliseconds


class ResourceLimit(ReportModel):
    """One limit on memory or energy, and the figure it was compared with."""

    metric: Literal["memory", "energy"]
    unit: Literal["MB", "mJ"]
    limit: Annotated[float, Field(gt=0)]
    judged: Annotated[float, Field(gt=0)]


class BudgetResult(ReportModel):
    """The budget and what became of each clause."""

    text: str = Field(description="The budget as written, e.g. p99<8ms")
    kind: Kind = Field(description="Whether measured or predicted figures were compared with it")
    limits: tuple[BudgetLimit, ...] = Field(description="Clauses on latency")
    resources: tuple[ResourceLimit, ...] = Field((), description="Clauses on memory and energy")
    misses: tuple[str, ...] = Field(description="One sentence for each limit missed")

    @classmethod
    def of(cls, budget: Budget, *, kind: Kind, judged_ms: Mapping[str, float]) -> BudgetResult:
        """Judge a budget.

        Args:
            budget: The limits.
            kind: Where the figures come from.
            judged_ms: Figure by metric, the same that the gate compared: milliseconds of a statistic, and where the
                budget limits them `memory` in MB and `energy` in mJ.

        Returns:
            The result, misses in words.

        Raises:
            ConfigError: A figure that the budget limits is not in `judged_ms`.
        """
        misses = budget.misses(judged_ms)
        limits = tuple(
            BudgetLimit(metric=clause.metric, limit_ms=clause.limit, judged_ms=judged_ms[clause.metric])  # type: ignore[arg-type]
            for clause in budget.limits
        )
        resources = tuple(
            ResourceLimit(
                metric=clause.metric,  # type: ignore[arg-type]
                unit=clause.unit,  # type: ignore[arg-type]
                limit=clause.limit,
                judged=judged_ms[clause.metric],
            )
            for clause in budget.resources
        )
        return cls(text=str(budget), kind=kind, limits=limits, resources=resources, misses=misses)

    @model_validator(mode="after")
    def _agrees(self) -> BudgetResult:
        if not self.limits and not self.resources:
            raise ValueError("a budget has at least one limit")
        rows = [(str(item.metric), item.limit_ms, item.judged_ms) for item in self.limits]
        rows += [(str(item.metric), item.limit, item.judged) for item in self.resources]
        budget = Budget(tuple(Clause(metric, limit) for metric, limit, _ in rows))
        if len(budget.misses({metric: judged for metric, _, judged in rows})) != len(self.misses):
            raise ValueError("the misses do not follow from the limits and the judged figures")
        return self


class Parity(ReportModel):
    """How closely the ONNX model repeats the torch model on the same inputs."""

    max_abs: Annotated[float, Field(ge=0)]
    max_rel: Annotated[float, Field(ge=0)]
    agreement: Score | None = Field(description="How far both answer alike; null where the task is unknown")
    n: Annotated[int, Field(ge=1)]
    tolerance: Annotated[float, Field(ge=0)]
    is_ok: bool


class PrecisionVerdict(ReportModel):
    """What became of one precision, with its reason; figures are null when unknown."""

    precision: Precision
    flavour: str
    accepted: bool
    reason: str
    score: Score | None = None
    p50_ms: Milliseconds | None = None
    ms_kind: Kind | None = None
    variant: str = Field("", description="How it was made, where one precision is there in several ways")

    @model_validator(mode="after")
    def _is_labelled(self) -> PrecisionVerdict:
        if (self.p50_ms is None) != (self.ms_kind is None):
            raise ValueError("a latency needs its kind, and a kind its latency")
        return self


class LayerPrecision(ReportModel):
    """One layer of a model mixed layer by layer."""

    layer: str
    operator: str
    snr_db: float = Field(description="Power of its output over that of the error when it alone is quantised, in dB")
    drop: float = Field(description="Score lost when it alone is quantised; negative where the score rose")
    gain_ms: float = Field(description="Milliseconds that int8 saves in it; negative where it costs some")
    precision: Precision


class LayerMixture(ReportModel):
    """One choice of layers on the way to the one taken."""

    kept_float: tuple[str, ...]
    score: Score
    latency_ms: float


class LayerTable(ReportModel):
    """The choice layer by layer: what each layer loses and gains, and the mixtures that no other beats."""

    rows: tuple[LayerPrecision, ...]
    front: tuple[LayerMixture, ...]
    kind: Kind
    reason: str


class PrecisionDecision(ReportModel):
    """Which precision is shipped, and why the others are not."""

    chosen: Precision
    flavour: str
    max_drop: Share = Field(description="Score that may be lost against fp32; 0.01 is one point of accuracy")
    verdicts: Annotated[tuple[PrecisionVerdict, ...], Field(min_length=1)]
    variant: str = Field("", description="How the chosen one was made, where one precision is there in several ways")
    layers: LayerTable | None = None

    @model_validator(mode="after")
    def _chose_an_accepted_one(self) -> PrecisionDecision:
        accepted = {(one.precision, one.flavour, one.variant) for one in self.verdicts if one.accepted}
        if (self.chosen, self.flavour, self.variant) not in accepted:
            raise ValueError("the chosen precision is not among the accepted ones")
        return self


class SizeRow(ReportModel):
    """How large a network is."""

    network: Network
    net: str
    params: Count
    macs: Annotated[Count, Field(description="Multiply-accumulates of one inference at batch 1")]
    onnx_bytes: dict[str, Count] = Field(default_factory=dict, description="Length of the ONNX file by precision")


class CurvePoint(ReportModel):
    """One epoch; `val_score` is null where it was not measured."""

    epoch: Count
    loss: float
    val_score: Score | None = None


class Curve(ReportModel):
    """How one stage of one seed went."""

    stage: str = Field(description="teacher, alone, distilled, or the name of another stage")
    seed: int
    points: tuple[CurvePoint, ...]


class ArtifactRow(ReportModel):
    """A file the run made."""

    kind: str
    path: str = Field(description="Relative to the run folder where it lies inside")
    sha256: Digest
    bytes: Count

    @classmethod
    def of(cls, kind: str, file: FileRef, *, folder: Path) -> ArtifactRow:
        """Describe a file, its path relative to the run folder when it lies inside."""
        path = Path(file.path)
        shown = path.relative_to(folder) if path.is_relative_to(folder) else path
        return cls(kind=kind, path=shown.as_posix(), sha256=file.sha256, bytes=file.size_bytes)


def _seed_values(by_seed: Mapping[int, float]) -> tuple[SeedValue, ...]:
    return tuple(SeedValue(seed=seed, value=float(value)) for seed, value in sorted(by_seed.items()))


def _mean(seeds: tuple[SeedValue, ...]) -> float:
    return statistics.fmean(item.value for item in seeds)


def _std(seeds: tuple[SeedValue, ...]) -> float | None:
    return statistics.stdev(item.value for item in seeds) if len(seeds) > 1 else None


def _require_agreement(name: str, seeds: tuple[SeedValue, ...], mean: float, std: float | None) -> None:
    if len({item.seed for item in seeds}) != len(seeds):
        raise ValueError(f"{name}: a seed is given twice")
    expected = _std(seeds)
    is_mean_right = math.isclose(mean, _mean(seeds), abs_tol=1e-9)
    is_std_right = std is None if expected is None else std is not None and math.isclose(std, expected, abs_tol=1e-9)
    if not (is_mean_right and is_std_right):
        raise ValueError(f"{name}: mean and std are not those of the seeds")
