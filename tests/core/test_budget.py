import pytest

from edgekd.core.budget import Clause, parse_budget
from edgekd.core.errors import ConfigError


@pytest.mark.parametrize(
    "text, limits",
    [
        ("p99<8ms", (Clause("p99", 8.0),)),
        (" p50 <= 500us , p99<1.5ms", (Clause("p50", 0.5), Clause("p99", 1.5))),
        ("mean<2e-3s", (Clause("mean", 2.0),)),
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


def test_several_quantities_are_read_in_their_own_units():
    budget = parse_budget("p50<5ms, memory<64MB, energy<80mJ, p99<8ms")
    assert budget.clauses == (Clause("p50", 5), Clause("memory", 64), Clause("energy", 80), Clause("p99", 8))
    assert [clause.metric for clause in budget.limits] == ["p50", "p99"]
    assert [clause.metric for clause in budget.resources] == ["memory", "energy"]
    assert str(budget) == "p50<5ms, memory<64MB, energy<80mJ, p99<8ms"
    assert parse_budget(str(budget)) == budget


@pytest.mark.parametrize(
    "text, limit",
    [
        ("memory<64000kB", 64),
        ("memory<0.5GB", 500),
        ("memory<1KiB", 0.001024),
        ("memory<64MiB", 67.108864),
        ("memory<1GiB", 1073.741824),
        ("energy<80000uJ", 80),
        ("energy<0.08J", 80),
    ],
)
def test_units_of_memory_and_energy(text, limit):
    (clause,) = parse_budget(text).clauses
    assert clause.limit == pytest.approx(limit, rel=1e-12)


@pytest.mark.parametrize(
    "text, fragment",
    [
        ("memory<8ms", "unit 'ms' is none of kB, MB, GB, KiB, MiB, GiB"),
        ("energy<8W", "unit 'W' is none of uJ, mJ, J"),
        ("p99<8MB", "unit 'MB' is none of us, ms, s"),
        ("memory<0MB", "leaves no memory at all"),
        ("energy<0J", "leaves no energy at all"),
        ("power<15W", "'power' is none of p50, p90, p99, mean, memory, energy"),
        ("memory<1MB, memory<2MB", "memory is limited twice"),
        ("p99<1e999ms", "no limit"),
        ("p99<8ms@15W", "belongs to the target, as in --target NAME@15W"),
    ],
)
def test_wrong_clauses_of_any_quantity_are_explained(text, fragment):
    with pytest.raises(ConfigError, match=fragment):
        parse_budget(text)


def test_each_clause_is_judged_on_its_own():
    verdicts = parse_budget("p50<5ms, memory<64MB, energy<80mJ").judge({"p50": 4.0, "memory": 64.0, "energy": 90.0})
    assert [(verdict.clause.metric, verdict.is_kept) for verdict in verdicts] == [
        ("p50", True),
        ("memory", False),
        ("energy", False),
    ]
    assert str(verdicts[1]) == "memory is 64 MB, the budget is 64 MB"
    assert str(verdicts[2]) == "energy is 90 mJ, the budget is 80 mJ"


def test_a_clause_that_nobody_can_judge_is_refused_beforehand():
    budget = parse_budget("p99<8ms, energy<80mJ")
    with pytest.raises(ConfigError, match=r"energy \(energy<80mJ\) cannot be known on cpu; .* p50, p99"):
        budget.require_known(("p50", "p99"), "cpu")
    budget.require_known(("p99", "energy"), "a board")
