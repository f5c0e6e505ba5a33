"""The report of a run on the terminal: every figure labelled, damaged ones refused."""

import json

import pytest

from edgekd.cli.report_text import report_text
from edgekd.core.artifacts import LatencyReport
from edgekd.core.budget import parse_budget
from edgekd.report import (
    BudgetResult,
    DataFacts,
    LatencyRow,
    PairedGain,
    Parity,
    PrecisionDecision,
    PrecisionVerdict,
    RunReport,
    Scores,
    ScoreSummary,
    TargetRef,
    TaskFacts,
    Verdict,
    write_report,
)


def made(*, kind="predicted", budget="p99<8ms") -> RunReport:
    target = "cpu" if kind == "measured" else "jetson-orin"
    scores = Scores(
        teacher=ScoreSummary.of("resnet20-w16@8", "test", {0: 0.98}),
        alone=ScoreSummary.of("resnet8-w4@8", "test", {0: 0.90, 1: 0.92}),
        distilled=ScoreSummary.of("resnet8-w4@8", "test", {0: 0.93, 1: 0.93}),
    )
    latency = LatencyReport(kind, target, "fp32", "somebody", p50_ms=1.25, p99_ms=2.5, low_ms=1.0, high_ms=1.5)
    limits = parse_budget(budget) if budget else None
    judged = BudgetResult.of(limits, kind=kind, judged_ms=latency.judged_ms) if limits else None
    return RunReport(
        name="demo",
        created="2026-01-02T03:04:05Z",
        command="edgekd distill",
        verdict=Verdict.of(judged),
        budget=judged,
        target=TargetRef(name=target, title=f"the {target}"),
        data=DataFacts(name="digits", digest="0" * 64, targets=10, train=1, val=1, test=1),
        method="kd",
        scores=scores,
        task=TaskFacts(kind="classification", metric="top-1", is_share=True, agreement="same class"),
        gain=PairedGain.of(scores.distilled, scores.alone),
        latency=(LatencyRow.of(latency),),
        parity=Parity(max_abs=1e-6, max_rel=2e-6, agreement=1.0, n=80, tolerance=1e-4, is_ok=True),
        precision=PrecisionDecision(
            chosen="fp32",
            flavour="any",
            max_drop=0.01,
            verdicts=(
                PrecisionVerdict(precision="fp32", flavour="any", accepted=True, reason="the reference"),
                PrecisionVerdict(precision="int8", flavour="cpu", accepted=False, reason="3.1 points less accurate"),
            ),
        ),
        sizes=(),
        curves=(),
        artifacts=(),
    )


def test_text_shows_accuracies_side_by_side_and_reasons():
    text = report_text(made())
    assert "teacher    resnet20-w16@8  98.00 %  -     1      test" in text
    assert "alone      resnet8-w4@8    91.00 %  1.41  2      test" in text
    assert "distilled  resnet8-w4@8    93.00 %  0.00  2      test" in text
    assert "better in 2 of 2 paired seeds" in text
    assert "int8       cpu      refused  3.1 points less accurate" in text
    assert "parity torch / ONNX holds: largest relative difference 2e-06 (tolerance 0.0001) on 80 inputs" in text


def test_text_labels_a_prediction_and_a_measurement():
    predicted, measured = report_text(made()), report_text(made(kind="measured"))
    row = "fp32       predicted, not measured  1.25    1.00..1.50  2.50"
    assert row in predicted
    assert predicted.splitlines()[-1].startswith("Budget kept: predicted, not measured.")
    assert "predicted" not in measured
    assert measured.splitlines()[-1].startswith("Budget kept, measured.")


def test_text_names_each_miss_last():
    assert report_text(made(budget="p99<1ms")).splitlines()[-1] == "  p99 is 2.5 ms, the budget is 1 ms"


def test_text_without_optional_parts_has_no_empty_tables():
    bare = made(budget="").model_copy(update={"parity": None, "precision": None, "latency": (), "gain": None})
    text = report_text(bare)
    assert "\n\n\n" not in text
    assert "parity" not in text
    assert "precision" not in text


def test_show_reads_a_run_folder_or_a_file(edgekd, tmp_path):
    write_report(made(), tmp_path)
    for run in (tmp_path, tmp_path / "report.json"):
        result = edgekd("report", "show", run)
        assert result.exit_code == 0
        assert result.stdout == f"{report_text(made())}\n\n{tmp_path / 'report.html'}\n"


def test_show_as_json_is_the_report_itself(edgekd, tmp_path):
    write_report(made(), tmp_path)
    result = edgekd("report", "show", tmp_path, "--json")
    assert json.loads(result.stdout) == json.loads((tmp_path / "report.json").read_text())


@pytest.mark.parametrize(
    ("content", "code"), [(None, 2), ("{", 1), ('{"schema_version": 1}', 1), ('{"schema_version": 9}', 2)]
)
def test_missing_or_damaged_report_is_one_message(edgekd, tmp_path, content, code):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    result = edgekd("report", "show", tmp_path)
    assert result.exit_code == code
    assert result.stderr.startswith(f"error: {tmp_path}/report.json")
