"""Figures and sentences of the page."""

import pytest

from edgekd.core.budget import parse_budget
from edgekd.report import BudgetResult, LatencyRow, PairedGain, SeedValue, TargetRef, TaskFacts, Verdict
from edgekd.report.wording import (
    condition,
    count,
    difference,
    doubts,
    explanation,
    figure,
    gain_sentence,
    headline,
    metric_title,
    milliseconds,
    percent,
    score,
    size,
    spread,
)

TOP_1 = TaskFacts(kind="classification", metric="top-1", is_share=True, agreement="same class")
R_SQUARED = TaskFacts(kind="regression", metric="R²", is_share=False, agreement="R² of means")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"), (1.0, "1.00"), (12.345, "12.3"), (123.4, "123"), (0.012345, "0.0123"), (9.996, "10.0"),
        (0.09996, "0.100"), (99.96, "100"), (-2.5, "-2.50"), (12345.6, "12346"),
        (3.8e-6, "3.80e-06"), (2.5e7, "2.50e+07"),
    ],
)  # fmt: skip
def test_figure_has_three_significant_digits(value, words):
    assert figure(value) == words
    assert float(words) == pytest.approx(value, rel=5.1e-3)


def test_units_are_written_out():
    assert milliseconds(0.1123) == "0.112 ms"
    assert percent(0.93804) == "93.80 %"


def test_shares_are_percentages_and_their_differences_points():
    assert score(0.93804, TOP_1) == "93.80 %"
    assert spread(0.0124, TOP_1) == "1.24"
    assert difference(0.0343, TOP_1) == "+3.43 points"
    assert difference(-0.01, TOP_1) == "\N{MINUS SIGN}1.00 points"


def test_scores_that_are_no_shares_are_plain_numbers():
    assert score(0.83149, R_SQUARED) == "0.831"
    assert score(-0.5, R_SQUARED) == "\N{MINUS SIGN}0.500"
    assert spread(0.0124, R_SQUARED) == "0.012"
    assert difference(0.0343, R_SQUARED) == "+0.034"


def test_a_metric_starts_a_heading_with_a_capital():
    assert [metric_title(task) for task in (TOP_1, R_SQUARED)] == ["Top-1", "R²"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (99_999, "99,999"),
        (272_186, "272 k"),
        (2_560_000, "2.56 M"),
        (999_999, "1000 k"),
        (4_100_000_000, "4.10 G"),
    ],
)
def test_count_is_short(value, words):
    assert count(value) == words


@pytest.mark.parametrize(
    ("value", "words"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (24_310, "23.7 KiB"), (5 << 40, "5120.0 GiB")]
)
def test_size_is_in_binary_units(value, words):
    assert size(value) == words


def _report_with(change, kind, value_ms):
    budget = BudgetResult.of(parse_budget("p99<1ms"), kind=kind, judged_ms={"p99": value_ms})
    target = {"target": TargetRef(name="cpu", title="this machine")} if kind == "measured" else {}
    return change(budget=budget, verdict=Verdict.of(budget), **target)


@pytest.mark.parametrize("value_ms", [0.5, 2.0])
def test_predicted_verdict_always_says_that_it_is_not_measured(change, value_ms):
    report = _report_with(change, "predicted", value_ms)
    assert "predicted, not measured" in headline(report)
    assert "prediction" in explanation(report)
    assert "No device was timed" in explanation(report)


@pytest.mark.parametrize(("value_ms", "word"), [(0.5, "kept"), (2.0, "missed")])
def test_measured_verdict_says_so_and_never_predicts(change, value_ms, word):
    report = _report_with(change, "measured", value_ms)
    assert headline(report) == f"Budget {word}, measured"
    assert "predict" not in explanation(report)
    assert milliseconds(value_ms) in explanation(report)


@pytest.mark.parametrize(
    ("kind", "latency"), [("measured", "Measured: p99 0.500 ms."), ("predicted", "prediction: p99 0.500 ms.")]
)
def test_memory_is_never_called_measured(change, kind, latency):
    figures = {"p99": 0.5, "memory": 0.25}
    budget = BudgetResult.of(parse_budget("p99<1ms, memory<1MB"), kind=kind, judged_ms=figures)
    target = {"target": TargetRef(name="cpu", title="this machine")} if kind == "measured" else {}
    text = explanation(change(budget=budget, verdict=Verdict.of(budget), **target))
    assert latency in text and "Counted, not measured: memory 0.25 MB" in text
    alone = BudgetResult.of(parse_budget("memory<1MB"), kind="predicted", judged_ms=figures)
    report = change(budget=alone, verdict=Verdict.of(alone))
    assert "prediction" not in explanation(report) and headline(report) == "Budget kept: counted, not measured"


def test_run_without_budget_claims_nothing(change):
    report = change(budget=None, verdict=Verdict.NO_BUDGET)
    assert headline(report) == "No budget was given"
    assert "nothing was asked" in explanation(report)


def test_gain_counts_seeds_that_are_strictly_better():
    differences = tuple(SeedValue(seed=seed, value=value) for seed, value in enumerate([0.03, 0.0, -0.03]))
    sentence = gain_sentence(PairedGain(mean=0.0, std=0.03, differences=differences), TOP_1)
    assert sentence == "Distilled minus alone: +0.00 points ± 3.00, better in 1 of 3 paired seeds."
    alone = gain_sentence(PairedGain(mean=0.03, std=None, differences=differences[:1]), TOP_1)
    assert alone == "Distilled minus alone: +3.00 points, better in 1 of 1 paired seeds."


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0449123, "0.0449"), (30, "30"), (True, "True"), ("onnxruntime", "onnxruntime"), ([], ""),
        ({"p50": [0.044912, 0.044942], "p99": [2.39, 4.158]}, "p50 0.0449 0.0449, p99 2.39 4.16"),
        (["too busy", "too hot"], "too busy; too hot"), ({"int8": 11}, "int8 11"), (None, "None"),
    ],
)  # fmt: skip
def test_conditions_are_words_and_figures(value, words):
    assert condition(value) == words


def test_doubts_name_the_network_and_every_reason():
    def row(precision, conditions):
        return LatencyRow(
            target="cpu", precision=precision, kind="measured", p50_ms=2.0, p99_ms=4.0, low_ms=1.9, high_ms=2.1,
            backend="onnxruntime", conditions=conditions,
        )  # fmt: skip

    rows = [row("fp32", {"warnings": ["too busy", "too hot"]}), row("int8", {"warnings": []}), row("fp16", {})]
    assert doubts(rows) == ["student fp32 on cpu: too busy; too hot"]
