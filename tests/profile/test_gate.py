import dataclasses

import pytest

from edgekd.core.artifacts import LatencyReport
from edgekd.core.budget import parse_budget
from edgekd.core.errors import ConfigError, DataError
from edgekd.profile import verdict

MEASURED = LatencyReport("measured", "cpu", "fp32", "onnxruntime", 4.0, 9.0, 3.9, 4.1, {"p90_ms": 6.0, "mean_ms": 5.0})
PREDICTED = LatencyReport("predicted", "jetson-orin", "fp16", "roofline", 4.0, 9.0, 2.0, 7.0)


@pytest.mark.parametrize(
    ("report", "budget", "is_kept"),
    [
        (MEASURED, "p50<4.05ms", True),
        (MEASURED, "p50<4ms", False),
        (MEASURED, "p90<6.1ms", True),
        (MEASURED, "p90<5.9ms", False),
        (MEASURED, "mean<5.1ms", True),
        (MEASURED, "mean<4.9ms", False),
        (MEASURED, "p99<9.1ms, p50<5ms", True),
        (MEASURED, "p99<8ms, p50<5ms", False),
        (PREDICTED, "p50<6.9ms", False),
        (PREDICTED, "p50<7.1ms", True),
        (PREDICTED, "mean<6.9ms", False),
        (PREDICTED, "mean<7.1ms", True),
        (PREDICTED, "p90<8.9ms", False),
        (PREDICTED, "p90<9.1ms", True),
        (PREDICTED, "p99<8.9ms", False),
        (PREDICTED, "p99<9.1ms", True),
    ],
)
def test_verdict_judges_the_right_figure(report, budget, is_kept):
    result = verdict(report, parse_budget(budget))
    assert (result.is_kept, result.kind) == (is_kept, report.kind)
    assert bool(result.misses) is not is_kept


def test_misses_say_whether_they_were_measured():
    measured = verdict(MEASURED, parse_budget("p50<1ms, p99<8ms")).misses
    assert measured == (
        "cpu, measured: p50 is 4 ms, the budget is 1 ms",
        "cpu, measured: p99 is 9 ms, the budget is 8 ms",
    )
    (predicted,) = verdict(PREDICTED, parse_budget("p50<5ms")).misses
    assert predicted == "jetson-orin, predicted, not measured: upper estimate of p50 is 7 ms, the budget is 5 ms"


def test_nan_never_keeps_a_budget():
    assert not verdict(dataclasses.replace(MEASURED, p99_ms=float("nan")), parse_budget("p99<8ms")).is_kept


def test_a_statistic_that_was_not_measured_cannot_be_judged():
    with pytest.raises(ConfigError, match="limits p90"):
        verdict(dataclasses.replace(MEASURED, conditions={}), parse_budget("p90<8ms"))


def test_a_report_of_no_kind_is_refused():
    with pytest.raises(DataError, match="'guessed'"):
        verdict(dataclasses.replace(MEASURED, kind="guessed"), parse_budget("p99<8ms"))


def test_each_clause_has_its_own_verdict():
    result = verdict(MEASURED, parse_budget("p50<5ms, p99<8ms, memory<64MB"), {"memory": 32.0})
    assert [(item.clause.metric, item.is_kept) for item in result.clauses] == [
        ("p50", True),
        ("p99", False),
        ("memory", True),
    ]
    assert result.misses == ("cpu, measured: p99 is 9 ms, the budget is 8 ms",)
