"""Parts of a report refuse to say what their own figures do not."""

import numpy as np
import pytest
from pydantic import ValidationError

from edgekd.core.artifacts import FileRef, LatencyReport
from edgekd.core.budget import parse_budget
from edgekd.core.errors import ConfigError
from edgekd.report import (
    ArtifactRow,
    BudgetResult,
    LatencyRow,
    PairedGain,
    PrecisionDecision,
    PrecisionVerdict,
    ScoreSummary,
    SeedValue,
)

VALUES = {3: 0.91, 0: 0.89, 7: 0.95, 1: 0.9}


def test_summary_has_the_mean_and_sample_deviation_of_its_seeds():
    summary = ScoreSummary.of("net", "test", VALUES)
    assert summary.mean == pytest.approx(np.mean(list(VALUES.values())))
    assert summary.std == pytest.approx(np.std(list(VALUES.values()), ddof=1))
    assert [item.seed for item in summary.seeds] == [0, 1, 3, 7]
    assert summary.by_seed == VALUES


def test_deviation_of_one_seed_is_unknown_not_zero():
    assert ScoreSummary.of("net", "test", {0: 0.9}).std is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mean": 0.92}, "not those of the seeds"),
        ({"std": 0.0}, "not those of the seeds"),
        ({"std": None}, "not those of the seeds"),
        ({"seeds": ()}, "at least 1"),
        ({"seeds": (SeedValue(seed=0, value=0.9), SeedValue(seed=0, value=0.9)), "mean": 0.9, "std": 0.0}, "twice"),
        (
            {"seeds": (SeedValue(seed=0, value=1.5), SeedValue(seed=1, value=0.5)), "mean": 1.0},
            "outside 0..1|not those",
        ),
        ({"mean": float("nan")}, "finite"),
        ({"mean": "0.9"}, "valid number"),
        ({"extra": 1}, "Extra inputs"),
    ],
)
def test_summary_that_disagrees_with_its_seeds_is_refused(fields, words):
    good = ScoreSummary.of("net", "test", VALUES)
    values = {name: getattr(good, name) for name in ScoreSummary.model_fields}
    with pytest.raises(ValidationError, match=words):
        ScoreSummary(**values | fields)


def test_score_above_1_is_refused_and_below_0_is_not():
    with pytest.raises(ValidationError, match="above 1"):
        ScoreSummary.of("net", "test", {0: 1.25, 1: 0.25})
    assert ScoreSummary.of("net", "test", {0: -1.25, 1: 0.25}).mean == -0.5


def test_gain_is_paired_by_seed_and_leaves_out_seeds_of_one_side():
    distilled = ScoreSummary.of("net", "test", {0: 0.95, 1: 0.93, 5: 0.10})
    alone = ScoreSummary.of("net", "test", {1: 0.90, 0: 0.91, 6: 0.99})
    gain = PairedGain.of(distilled, alone)
    assert gain is not None
    assert {item.seed: pytest.approx(item.value) for item in gain.differences} == {0: 0.04, 1: 0.03}
    assert gain.mean == pytest.approx(0.035)
    assert gain.std == pytest.approx(np.std([0.04, 0.03], ddof=1))


def test_gain_without_common_seeds_is_unknown():
    assert PairedGain.of(ScoreSummary.of("n", "t", {0: 0.9}), ScoreSummary.of("n", "t", {1: 0.8})) is None


def test_latency_row_takes_over_every_figure_and_makes_conditions_plain():
    report = LatencyReport("measured", "cpu", "int8", "onnxruntime", 2.0, 4.0, 1.9, 2.1, {"clocks_mhz": (1, 2)})
    row = LatencyRow.of(report, network="teacher")
    assert (row.kind, row.target, row.precision, row.backend, row.network) == (
        "measured", "cpu", "int8", "onnxruntime", "teacher",
    )  # fmt: skip
    assert (row.p50_ms, row.p99_ms, row.low_ms, row.high_ms) == (2.0, 4.0, 1.9, 2.1)
    assert row.conditions == {"clocks_mhz": [1, 2]}


@pytest.mark.parametrize(
    "figures", [(2.0, 1.0, 1.9, 2.1), (2.0, 4.0, 2.05, 2.1), (2.0, 4.0, 1.9, 1.95), (0.0, 4.0, 0.0, 1.0)]
)
def test_latency_out_of_order_is_refused(figures):
    with pytest.raises(ValidationError):
        LatencyRow.of(LatencyReport("measured", "cpu", "fp32", "onnxruntime", *figures))


def test_budget_is_judged_in_words():
    budget = parse_budget("p99<8ms, p50<500us")
    result = BudgetResult.of(budget, kind="measured", judged_ms={"p50": 0.4, "p99": 9.5, "mean": 1.0})
    assert result.text == "p99<8ms, p50<0.5ms"
    assert result.misses == ("p99 is 9.5 ms, the budget is 8 ms",)
    assert [(item.metric, item.limit_ms, item.judged_ms) for item in result.limits] == [
        ("p99", 8.0, 9.5), ("p50", 0.5, 0.4),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="limits p50"):
        BudgetResult.of(budget, kind="measured", judged_ms={"p99": 1.0})


@pytest.mark.parametrize("misses", [(), ("one", "two")])
def test_budget_whose_misses_do_not_follow_is_refused(misses):
    missed = BudgetResult.of(parse_budget("p99<8ms"), kind="measured", judged_ms={"p99": 9.5})
    with pytest.raises(ValidationError, match="do not follow"):
        BudgetResult(text=missed.text, kind=missed.kind, limits=missed.limits, misses=misses)


def test_chosen_precision_must_be_accepted():
    verdicts = (
        PrecisionVerdict(precision="fp32", flavour="any", accepted=True, reason="the reference"),
        PrecisionVerdict(precision="int8", flavour="cpu", accepted=False, reason="slower"),
    )
    PrecisionDecision(chosen="fp32", flavour="any", max_drop=0.01, verdicts=verdicts)
    for chosen, flavour in [("int8", "cpu"), ("fp16", "any"), ("fp32", "cpu")]:
        with pytest.raises(ValidationError, match="not among the accepted"):
            PrecisionDecision(chosen=chosen, flavour=flavour, max_drop=0.01, verdicts=verdicts)


@pytest.mark.parametrize("half", [{"p50_ms": 1.0}, {"ms_kind": "measured"}])
def test_latency_of_a_precision_needs_its_label(half):
    with pytest.raises(ValidationError, match="needs its kind"):
        PrecisionVerdict(precision="fp32", flavour="any", accepted=True, reason="x", **half)


def test_artifact_path_is_relative_inside_the_run_and_whole_outside(tmp_path):
    inside = FileRef(str(tmp_path / "onnx" / "a.onnx"), "ab" * 32, 5)
    assert ArtifactRow.of("onnx", inside, folder=tmp_path).path == "onnx/a.onnx"
    outside = FileRef("/elsewhere/a.onnx", "ab" * 32, 5)
    row = ArtifactRow.of("onnx", outside, folder=tmp_path)
    assert (row.path, row.sha256, row.bytes) == ("/elsewhere/a.onnx", "ab" * 32, 5)


def test_budget_on_memory_is_judged_beside_latency():
    figures = {"p99": 7.0, "memory": 70.0}
    result = BudgetResult.of(parse_budget("memory<64MB, p99<8ms"), kind="predicted", judged_ms=figures)
    assert result.misses == ("memory is 70 MB, the budget is 64 MB",)
    assert [(item.metric, item.unit, item.limit, item.judged) for item in result.resources] == [
        ("memory", "MB", 64.0, 70.0)
    ]
    assert [item.metric for item in result.limits] == ["p99"]


@pytest.mark.parametrize("misses", [(), ("one", "two")])
def test_memory_whose_miss_is_not_told_is_refused(misses):
    missed = BudgetResult.of(parse_budget("memory<64MB"), kind="measured", judged_ms={"memory": 70.0})
    with pytest.raises(ValidationError, match="do not follow"):
        BudgetResult(text=missed.text, kind=missed.kind, limits=(), resources=missed.resources, misses=misses)


def test_budget_without_clauses_is_refused():
    with pytest.raises(ValidationError, match="at least one limit"):
        BudgetResult(text="", kind="measured", limits=(), misses=())
