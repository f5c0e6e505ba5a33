"""The least time any network takes, and budgets below it."""

import pytest

from edgekd.core.budget import parse_budget
from edgekd.core.errors import BudgetExceeded
from edgekd.latency import launch_floor_ms, predict, require_above_launch_floor
from edgekd.latency.layers import Layer, LayerGraph
from edgekd.targets import get_target

ORIN = get_target("jetson-orin")


def test_floor_is_what_an_empty_kernel_is_predicted_to_take() -> None:
    tiny = LayerGraph("tiny", 1, (Layer("pointwise", 0, 1, 1),) * 3)
    predicted = predict(tiny, ORIN, "fp16")
    assert launch_floor_ms(ORIN, 3) == pytest.approx(predicted.p50_ms, rel=1e-3)


def test_floor_grows_by_one_kernel_and_falls_with_the_clock() -> None:
    one, two, three = (launch_floor_ms(ORIN, count) for count in (1, 2, 3))
    assert three - two == pytest.approx(two - one)
    slow_step = launch_floor_ms(get_target("jetson-orin@30W"), 2) - launch_floor_ms(get_target("jetson-orin@30W"), 1)
    assert slow_step / (two - one) == pytest.approx(1300.5 / 624.75)


def test_budget_below_the_floor_is_refused_and_says_the_floor() -> None:
    floor_ms = launch_floor_ms(ORIN)
    with pytest.raises(BudgetExceeded, match=rf"budget p99<0\.05ms is below the launch floor.*{floor_ms:.3g} ms"):
        require_above_launch_floor(parse_budget("p50<9ms, p99<50us"), ORIN)
    require_above_launch_floor(parse_budget(f"p99<{1.01 * floor_ms}ms"), ORIN)


def test_memory_and_the_cpu_have_no_launch_floor() -> None:
    require_above_launch_floor(parse_budget("memory<0.01MB"), ORIN)
    require_above_launch_floor(parse_budget("p99<1us"), get_target("cpu"))
