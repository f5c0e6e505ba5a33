"""A target in another power mode: what scales, with what, and what is not made up."""

import dataclasses

import pytest

from edgekd.core.errors import ConfigError, TargetError
from edgekd.targets import get_target, in_power_mode


def test_peaks_scale_with_sms_and_clock_and_bandwidth_with_the_memory_clock() -> None:
    top, low = get_target("jetson-orin"), get_target("jetson-orin@15W")
    share = (4 * 420.75) / (16 * 1300.5)
    assert low.peaks_tflops == pytest.approx({name: peak * share for name, peak in top.peaks_tflops.items()})
    assert low.bandwidth_gb_s == pytest.approx(204.8 * 2133 / 3200)
    assert (low.sms, low.clock_mhz, low.cuda_cores, low.tensor_cores) == (4, 420.75, 512, 16)
    assert (low.name, low.device, low.power_mode) == ("jetson-orin@15W", "jetson-agx-orin-64gb", "15W")


def test_each_scaled_figure_says_which_mode_it_is_from() -> None:
    low = get_target("jetson-agx-xavier-32gb@10w")
    assert low.sources["peaks_tflops.int8"] == "D from power mode 10W (S [8])"
    assert low.sources["bandwidth_gb_s"] == "D from power mode 10W (S [8])"
    assert low.sources["l2_bytes"] == "S [1][2]"


def test_the_top_mode_is_the_target_itself() -> None:
    assert get_target("jetson-orin@maxn").digest == get_target("jetson-orin").digest
    assert get_target("jetson-orin@maxn").name == "jetson-orin@MAXN"
    assert get_target("jetson-orin@30W").digest != get_target("jetson-orin").digest


def test_unknown_memory_clock_leaves_the_bandwidth_and_says_so() -> None:
    low = get_target("jetson-tx2@max-q")
    assert low.bandwidth_gb_s == 59.7
    assert low.notes[-1] == "The memory clock in Max-Q is not known: bandwidth is that of Max-N."
    assert low.sources["bandwidth_gb_s"] == get_target("jetson-tx2").sources["bandwidth_gb_s"]


def test_a_mode_of_unknown_clock_is_refused_with_a_way_out() -> None:
    with pytest.raises(
        TargetError, match=r"GPU clock of jetson-agx-orin-32gb in power mode 30W is not known.*targets add"
    ):
        get_target("jetson-agx-orin-32gb@30W")


def test_a_mode_that_is_none_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"unknown power mode of jetson-orin '70W'; .*50W"):
        get_target("jetson-orin@70W")
    with pytest.raises(ConfigError, match="power mode of rtx-4090"):
        get_target("rtx-4090@eco")


def test_modes_scale_both_ways() -> None:
    nano = get_target("jetson-orin-nano-8gb-super")
    low = dataclasses.replace(in_power_mode(nano, "7W"), name="own")
    back = in_power_mode(low, "MAXN_SUPER")
    assert back.peaks_tflops["fp16"] == pytest.approx(nano.peaks_tflops["fp16"])
    assert back.bandwidth_gb_s == pytest.approx(nano.bandwidth_gb_s, rel=1e-3)
