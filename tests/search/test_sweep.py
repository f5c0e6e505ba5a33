import pytest

from edgekd.core.artifacts import LatencyReport, NetSpec
from edgekd.core.budget import parse_budget
from edgekd.core.errors import BudgetExceeded, ConfigError
from edgekd.search import Space, candidates, choose_student


def _make(depth, width):
    return NetSpec("resnet", depth, width, 8, 1, 10, (0.0,), (1.0,))


def _macs(spec):
    return spec.depth * spec.width**2


def _members(depths=(8, 14, 20), widths=(4, 8, 16, 32), max_macs=10**9):
    return candidates(Space("resnet", depths, widths), make=_make, macs_of=_macs, max_macs=max_macs)


def _latency(spec):
    """Floors make depth cost more than width does."""
    ms = spec.depth * 0.01 + _macs(spec) * 1e-5
    return LatencyReport("predicted", "orin", "fp16", "ops", ms, 1.5 * ms, 0.8 * ms, 1.2 * ms)


class Counting:
    def __init__(self):
        self.calls = []

    def __call__(self, spec):
        self.calls.append(spec.name)
        return _latency(spec)


def test_candidates_come_smallest_first_and_below_the_cap():
    members = _members(max_macs=3000)
    assert [m.macs for m in members] == sorted(m.macs for m in members)
    assert max(m.macs for m in members) <= 3000
    assert len(members) == sum(d * w * w <= 3000 for d in (8, 14, 20) for w in (4, 8, 16, 32))


def test_candidates_that_are_all_too_large_name_the_smallest():
    with pytest.raises(ConfigError, match="smallest, resnet8-w4@8, has 128"):
        _members(max_macs=100)


@pytest.mark.parametrize("limit", [0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 1.0])
def test_the_choice_equals_a_full_sweep_and_times_fewer(limit):
    budget, latency = parse_budget(f"p50<{limit}ms"), Counting()
    members = _members(widths=tuple(range(2, 33, 2)))
    fitting = [m for m in members if 1.2 * _latency(m.spec).p50_ms < limit]
    if not fitting:
        with pytest.raises(BudgetExceeded):
            choose_student(members, budget, latency_of=latency)
        return
    choice = choose_student(members, budget, latency_of=latency)
    assert choice.spec == fitting[-1].spec
    assert len(latency.calls) == len(set(latency.calls)) == len(choice.considered) < len(members) / 2


@pytest.mark.parametrize("kept", [(12,), (4, 24), (8, 16), ()])
def test_upper_ends_that_fall_as_networks_grow_are_tried_from_the_largest_down(kept):
    def latency(spec):
        ms = 1.0 if spec.width in kept else 3.0
        return LatencyReport("predicted", "orin", "fp16", "ops", ms, 1.5 * ms, 0.8 * ms, 1.2 * ms)

    members, budget = _members(depths=(8,), widths=(4, 8, 12, 16, 24, 32)), parse_budget("p50<2ms")
    if not kept:
        with pytest.raises(BudgetExceeded):
            choose_student(members, budget, latency_of=latency, grows=False)
        return
    choice = choose_student(members, budget, latency_of=latency, grows=False)
    assert choice.spec.width == max(kept)
    assert [one.spec.width for one in choice.considered] == [m.spec.width for m in members if m.spec.width >= max(kept)]


def test_a_prediction_is_held_against_the_budget_by_its_upper_end():
    members = _members(depths=(8,), widths=(4,))
    upper = 1.2 * _latency(members[0].spec).p50_ms
    with pytest.raises(BudgetExceeded):
        choose_student(members, parse_budget(f"p50<{upper}ms"), latency_of=_latency)
    assert choose_student(members, parse_budget(f"p50<{upper * 1.001}ms"), latency_of=_latency).considered[0].is_kept


def test_an_impossible_budget_says_the_smallest_reachable():
    with pytest.raises(BudgetExceeded) as error:
        choose_student(_members(), parse_budget("p50<1us"), latency_of=_latency)
    upper = 1.2 * _latency(_make(8, 4)).p50_ms
    assert f"p50<{upper:.4g}ms (predicted, upper end, resnet8-w4@8)" in str(error.value)
    assert error.value.exit_code == 3


def test_memory_is_a_limit_like_the_others_and_counted_only_where_it_is_one():
    asked = []

    def memory_mb(spec):
        asked.append(spec.name)
        return spec.width / 10

    members = _members(depths=(8,), widths=(4, 8, 16, 32))
    choice = choose_student(
        members, parse_budget("p50<1s, memory<1MB"), latency_of=_latency, memory_mb_of=memory_mb, grows=False
    )
    assert choice.spec.width == 8 and choice.considered[0].figures["memory"] == 0.8
    assert choice.reason.endswith("ms (upper end, predicted, not measured), memory 0.8 MB (counted)") and asked == [
        "resnet8-w32@8",
        "resnet8-w16@8",
        "resnet8-w8@8",
    ]
    only = choose_student(members, parse_budget("memory<2MB"), latency_of=_latency, memory_mb_of=memory_mb)
    assert only.spec.width == 16
    with pytest.raises(BudgetExceeded, match=r"reachable is p50<.*ms, memory<0.4MB \(.*resnet8-w4@8"):
        choose_student(members, parse_budget("p50<1s, memory<0.1MB"), latency_of=_latency, memory_mb_of=memory_mb)
    asked.clear()
    choose_student(members, parse_budget("p50<1s"), latency_of=_latency, memory_mb_of=memory_mb)
    assert asked == []


def test_what_is_reachable_is_told_of_the_student_that_misses_least_in_proportion():
    def latency(_spec):
        return LatencyReport("predicted", "orin", "fp16", "ops", 100.0, 150.0, 80.0, 120.0)

    with pytest.raises(BudgetExceeded, match=r"memory<0.125MB .*resnet8-w32@8"):
        choose_student(
            _members(depths=(8,), widths=(4, 8, 32)),
            parse_budget("p50<1s, memory<0.1MB"),
            latency_of=latency,
            memory_mb_of=lambda spec: 4 / spec.width,
            grows=False,
        )


def test_without_a_budget_the_largest_is_taken_and_nothing_is_timed():
    latency = Counting()
    choice = choose_student(_members(max_macs=3000), None, latency_of=latency)
    assert choice.spec == _members(max_macs=3000)[-1].spec
    assert latency.calls == []
    assert "no latency budget" in choice.reason


def test_the_reason_says_whether_it_was_predicted():
    reason = choose_student(_members(), parse_budget("p99<9ms"), latency_of=_latency).reason
    assert "predicted, not measured" in reason
    assert "largest of 12 students" in reason
