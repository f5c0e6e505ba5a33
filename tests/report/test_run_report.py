"""A verdict may say no more than the figures beside it."""

import pytest
from pydantic import ValidationError

from edgekd.core.budget import parse_budget
from edgekd.report import BudgetResult, PairedGain, Scores, ScoreSummary, TargetRef, Verdict


def _judged(kind, value_ms):
    return BudgetResult.of(parse_budget("p99<1ms"), kind=kind, judged_ms={"p99": value_ms})


@pytest.mark.parametrize(
    ("budget", "verdict"),
    [
        (None, Verdict.NO_BUDGET),
        (_judged("measured", 0.9), Verdict.KEPT),
        (_judged("measured", 1.0), Verdict.MISSED),
        (_judged("predicted", 0.9), Verdict.PREDICTED_KEPT),
        (_judged("predicted", 1.1), Verdict.PREDICTED_MISSED),
    ],
)
def test_verdict_follows_from_the_budget_and_no_other_is_accepted(change, budget, verdict):
    target = TargetRef(name="cpu", title="this machine") if budget and budget.kind == "measured" else None
    fields = {"budget": budget} | ({"target": target} if target else {})
    assert Verdict.of(budget) is verdict
    assert change(**fields, verdict=verdict).verdict is verdict
    for other in set(Verdict) - {verdict}:
        with pytest.raises(ValidationError, match="does not follow"):
            change(**fields, verdict=other)


def test_verdicts_are_the_published_words():
    words = {verdict.value for verdict in Verdict}
    assert words == {"kept", "missed", "no budget", "predicted kept", "predicted missed"}


def test_measured_verdict_needs_a_measurement_on_the_target_itself(change):
    """The CPU was measured, the Jetson only predicted: nothing may be called kept on the Jetson."""
    with pytest.raises(ValidationError, match="measured latency of jetson-orin"):
        change(budget=_judged("measured", 0.5), verdict=Verdict.KEPT)


def test_measured_verdict_needs_the_student_not_the_teacher(change, report):
    rows = tuple(row.model_copy(update={"network": "teacher"}) for row in report.latency)
    with pytest.raises(ValidationError, match="predicted latency of jetson-orin"):
        change(latency=rows)


def test_gain_must_be_distilled_minus_alone(change, report):
    wrong = PairedGain.of(report.scores.alone, report.scores.distilled)
    for gain in (wrong, None):
        with pytest.raises(ValidationError, match="gain is not"):
            change(gain=gain)


def test_student_without_baseline_has_no_gain(change, report):
    lonely = Scores(teacher=report.scores.teacher, alone=None, distilled=report.scores.distilled)
    assert change(scores=lonely, gain=None).gain is None
    with pytest.raises(ValidationError, match="gain is not"):
        change(scores=lonely)


def test_seeds_without_a_pair_give_no_gain(change, report):
    scores = report.scores.model_copy(update={"alone": ScoreSummary.of("net", "test", {9: 0.9})})
    assert change(scores=scores, gain=None).gain is None


def test_report_is_frozen(report):
    with pytest.raises(ValidationError, match="frozen"):
        report.verdict = Verdict.KEPT
