"""Intervals: distance from the calibration set and how half-widths add up."""

import math

import numpy as np
import pytest

from edgekd.latency import Layer, LayerGraph, load_parameters, parameters_for
from edgekd.latency.interval import Distance, distance_of, half_width_of_many_log, half_widths_log
from edgekd.latency.layers import concatenated
from edgekd.latency.parameters import CalibrationEntry
from edgekd.targets import get_target

CALIBRATION = CalibrationEntry(
    models=9,
    points=90,
    families=("a",),
    kinds=("conv_kxk", "conv_1x1", "pool"),
    kind_shares={"conv_kxk": 0.9, "conv_1x1": 0.5, "conv_grouped": 0.01},
    model_half_width_log=0.2,
    family_half_width_log=0.0,
    device_half_width_log=0.3,
    slope_below_log=0.1,
    slope_above_log=0.2,
    uncalibrated_half_width_log=1.0,
    log_macs=(math.log(100), math.log(10_000)),
    log_kernels=(math.log(1), math.log(4)),
    log_macs_per_kernel=(math.log(10), math.log(10_000)),
    held_out_mape=0.05,
)


def graph(macs: int, kinds: tuple[str, ...]) -> LayerGraph:
    layers = tuple(Layer(kind, macs if not index else 0, 1, 1) for index, kind in enumerate(kinds))  # type: ignore[arg-type]
    return LayerGraph("g", 1, layers)


def test_network_inside_has_no_distance() -> None:
    distance = distance_of(graph(1000, ("conv_kxk", "pool")), np.array([1.0, 1.0]), CALIBRATION)
    assert distance == Distance(0.0, 0.0, 0.0, 0.0)
    assert distance.is_inside


def test_small_network_lies_below_by_the_log_of_the_ratio() -> None:
    distance = distance_of(graph(10, ("conv_kxk", "pool")), np.array([1.0, 1.0]), CALIBRATION)
    assert distance.macs == pytest.approx(-math.log(10))
    assert distance.macs_per_kernel == pytest.approx(-math.log(2))
    assert (distance.below, distance.above) == (pytest.approx(math.log(10)), 0.0)


def test_large_network_lies_above() -> None:
    distance = distance_of(graph(10**6, ("conv_kxk",) * 8), np.ones(8), CALIBRATION)
    assert (distance.above, distance.below) == (pytest.approx(math.log(100)), 0.0)
    assert distance.kernels == pytest.approx(math.log(2))


def test_share_of_unseen_kinds_is_a_share_of_time() -> None:
    distance = distance_of(graph(1000, ("conv_kxk", "conv_grouped")), np.array([3.0, 1.0]), CALIBRATION)
    assert distance.uncalibrated_share == pytest.approx(0.25)
    assert not distance.is_inside


def test_more_of_a_kind_than_was_measured_counts_as_unseen() -> None:
    distance = distance_of(graph(1000, ("conv_kxk", "conv_1x1")), np.array([1.0, 3.0]), CALIBRATION)
    assert distance.uncalibrated_share == pytest.approx(0.75 - 0.5)


@pytest.mark.parametrize("target", ["jetson-orin", "jetson-orin-nx-16gb", "titan-rtx", "t4", "h200"])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_half_widths_of_many_are_those_of_each(target: str, precision: str) -> None:
    chosen, rng = parameters_for(get_target(target)), np.random.default_rng(0)
    kinds = ("conv_kxk", "conv_1x1", "conv_grouped", "matmul_activations", "pool")
    graphs = [graph(10 ** int(rng.integers(3, 12)), (*rng.choice(kinds, rng.integers(1, 300)),)) for _ in range(40)]
    columns, owner = concatenated([item.columns for item in graphs])
    total_s = rng.random(len(owner))
    found = half_width_of_many_log(columns, owner, total_s, chosen=chosen, precision=precision)  # type: ignore[arg-type]
    for index, item in enumerate(graphs):
        distance = distance_of(item, total_s[owner == index], chosen.parameters.calibration)
        parts = half_widths_log(chosen, distance, precision)  # type: ignore[arg-type]
        assert found[index] == pytest.approx(math.sqrt(sum(part**2 for part in parts.values())))


def test_parts_of_the_half_width() -> None:
    chosen = parameters_for(get_target("jetson-orin-nx-16gb"))
    calibration = load_parameters().sets["orin"].calibration
    inside = half_widths_log(chosen, Distance(0.0, 0.0, 0.0, 0.0), "fp16")
    assert inside == {"model": calibration.model_half_width_log, "device": calibration.device_half_width_log}
    parts = half_widths_log(chosen, Distance(-2.0, 0.0, 1.0, 0.5), "int8")
    expected = math.hypot(2.0 * calibration.slope_below_log, 1.0 * calibration.slope_above_log)
    assert parts["extrapolation"] == pytest.approx(expected)
    assert parts["unseen kernels"] == pytest.approx(0.5 * calibration.uncalibrated_half_width_log)
    assert parts["precision"] == load_parameters().sets["orin"].precisions["int8"].half_width_log


def test_detector_only_set_is_widened_for_what_is_no_such_network() -> None:
    chosen = parameters_for(get_target("titan-rtx"))
    parts = half_widths_log(chosen, Distance(0.0, -0.1, 0.0, 0.0), "fp16")
    assert parts["family"] > 0.1
    assert "device" not in parts
    assert "family" not in half_widths_log(chosen, Distance(0.0, 0.0, 0.0, 0.0), "fp16")
