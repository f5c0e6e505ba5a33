from dataclasses import replace

import pytest

from edgekd.core.artifacts import LatencyReport
from edgekd.core.budget import parse_budget
from edgekd.core.errors import BudgetExceeded
from edgekd.latency import Layer, LayerGraph
from edgekd.search import Cost, excesses, memory_bytes, profile_space, require_reachable


def _profile(toys, budget):
    return profile_space(toys.SPACE, parse_budget(budget) if budget else None, toys.cost_of)


def test_a_profile_has_three_members_of_each_family_with_their_misses(toys):
    profile = _profile(toys, "p99<1ms")
    assert [(row.family, row.corner) for row in profile.rows] == [
        (family, corner) for family in ("resnet", "mobilenetv2") for corner in ("min", "centre", "max")
    ]
    assert [bool(row.misses) for row in profile.rows] == [False, True, True, False, False, True]
    assert profile.statement() == "p99<1ms can be kept by resnet, mobilenetv2"
    require_reachable(profile)


def test_an_unreachable_budget_is_refused_with_the_floor(toys):
    smallest = toys.cost_of(toys.SPACE["resnet"].corners()["min"])
    with pytest.raises(BudgetExceeded) as error:
        require_reachable(_profile(toys, "p99<0.1ms"))
    assert f"p99<{smallest.figures['p99']:.4g}ms (upper end, predicted, not measured, {smallest.name})" in str(
        error.value
    )
    assert error.value.exit_code == 3


@pytest.mark.parametrize(
    ("budget", "how"),
    [
        ("memory<1kB", "memory counted"),
        ("p99<0.1ms, memory<1kB", "upper end, predicted, not measured, memory counted"),
    ],
)
def test_memory_of_the_floor_is_counted_never_predicted(toys, budget, how):
    statement = _profile(toys, budget).statement()
    assert f" ({how}, " in statement and statement.count("predicted") == how.count("predicted")


def test_a_member_between_the_corners_that_alone_keeps_the_budget_is_found(toys):
    only = {"family": "resnet", "resnet.depth": 8, "resnet.width": 8}

    def cost(point):
        found = toys.cost_of(point)
        return replace(found, latency=replace(found.latency, p99_ms=0.5 if point == only else 5.0))

    assert only in list(toys.SPACE["resnet"].points()) and only not in toys.SPACE["resnet"].corners().values()
    profile = profile_space(toys.SPACE, parse_budget("p99<1ms"), cost)
    require_reachable(profile)
    assert profile.fitting == ("resnet",)
    nearest = {row.family: (row.point, not row.misses) for row in profile.rows if row.corner == "nearest"}
    assert nearest["resnet"] == (only, True) and nearest["mobilenetv2"][1] is False
    assert profile.statement() == "p99<1ms can be kept by resnet; not even the smallest of mobilenetv2"
    assert not [row for row in _profile(toys, "p99<1ms").rows if row.corner == "nearest"]


def test_a_budget_that_limits_nothing_and_one_that_rules_a_family_out_are_told_apart(toys):
    assert "does not limit this space" in _profile(toys, "p99<1s").statement()
    assert "no budget was given" in _profile(toys, None).statement()
    between = _profile(toys, "memory<0.0017MB")
    assert between.statement().endswith("can be kept by resnet; not even the smallest of mobilenetv2")


def test_memory_is_weights_and_the_largest_kernel():
    graph = LayerGraph(
        "net", 1, (Layer("conv_kxk", 10, 100, 50, 7), Layer("pointwise", 0, 80, 80), Layer("gemm_weights", 5, 9, 9, 13))
    )
    assert memory_bytes(graph, "fp32") == 4 * (20 + 160)
    assert memory_bytes(graph, "int8") == 20 + 160


def test_every_clause_has_its_own_excess_and_predictions_count_by_their_upper_end():
    latency = LatencyReport("predicted", "t", "fp16", "x", 1.0, 3.0, 0.5, 2.0)
    cost = Cost("net", 1, 1, 4_000_000, latency)
    assert excesses(cost, parse_budget("p50<4ms, p99<2ms, memory<8MB")) == pytest.approx((-0.5, 0.5, -0.5))
    assert excesses(cost, parse_budget("p99<3ms"))[0] > 0
    assert excesses(cost, None) == ()


def test_what_is_measured_later_is_screened_by_its_expected_value():
    latency = LatencyReport("predicted", "cpu", "fp32", "x", 1.0, 9.0, 0.5, 2.0, {"p99_expected_ms": 3.0})
    later = Cost("net", 1, 1, 1_000_000, latency, is_measured_later=True)
    assert later.figures == {"p50": 1.0, "mean": 1.0, "p90": 3.0, "p99": 3.0, "memory": 1.0}
    assert later.basis == "expected, predicted, not measured"
    assert Cost("net", 1, 1, 1, latency).figures["p99"] == 9.0
    measured = LatencyReport("measured", "cpu", "fp32", "x", 1.0, 5.0, 0.9, 1.1, {"p99_expected_ms": 3.0})
    assert Cost("net", 1, 1, 1, measured, is_measured_later=True).figures["p99"] == 5.0
