import pytest

from edgekd.core.budget import Limit, parse_budget
from edgekd.core.errors import ConfigError


@pytest.mark.parametrize(
    "text, limits",
    [
        ("p99<8ms", (Limit("p99", 8.0),)),
        (" p50 <= 500us , p99<1.5ms", (Limit("p50", 0.5), Limit("p99", 1.5))),
        ("mean<2e-3s", (Limit("mean", 2.0),)),
    ],
)
def test_parse_budget_reads_limits_in_milliseconds(text, limits):
    assert parse_budget(text).limits == limits


@pytest.mark.parametrize(
    "text, fragment",
    [
        ("", "form p99<8ms"),
        ("p99>8ms", "form p99<8ms"),
        ("p95<8ms", "'p95' is none of"),
        ("p99<8h", "unit 'h'"),
        ("p99<0ms", "no time"),
        ("p99<8", "form"),
        ("p99<8ms,p99<9ms", "twice"),
    ],
)
def test_parse_budget_explains_what_is_wrong(text, fragment):
    with pytest.raises(ConfigError, match=fragment):
        parse_budget(text)


def test_parse_budget_reports_every_wrong_clause_at_once():
    with pytest.raises(ConfigError, match="p95.*unit 'h'"):
        parse_budget("p95<8ms, p50<1h, p99<3ms")


def test_misses_names_each_limit_not_kept():
    budget = parse_budget("p50<1ms,p99<2ms")
    assert budget.misses({"p50": 0.9, "p99": 1.9}) == ()
    assert budget.misses({"p50": 1.0, "p99": 1.9}) == ("p50 is 1 ms, the budget is 1 ms",)
    assert len(budget.misses({"p50": 3.0, "p99": 4.0})) == 2


def test_misses_counts_nan_as_missed():
    assert parse_budget("p50<1ms").misses({"p50": float("nan")})


def test_misses_refuses_a_statistic_nobody_knows():
    with pytest.raises(ConfigError, match="p90"):
        parse_budget("p90<1ms").misses({"p50": 1.0})


def test_budget_prints_as_it_is_written():
    assert str(parse_budget("p50<500us, p99 < 8ms")) == "p50<0.5ms, p99<8ms"
