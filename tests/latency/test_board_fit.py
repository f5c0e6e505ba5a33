"""A board learned from its own measurements: what it recovers, what it says of itself, what it refuses."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from edgekd.core.errors import ConfigError, DataError, TargetError
from edgekd.latency import Layer, LayerGraph, parameters_for, predict, predict_many
from edgekd.latency.board_fit import LEAST_HALF_WIDTH_LOG, MeasuredNetwork, conformal_half_width, fit_board
from edgekd.latency.kernel_model import kernel_times
from edgekd.latency.parameters import fp16_hardware
from edgekd.targets import get_target, load_target
from edgekd.targets.board import document_of, save_board

ORIN = get_target("jetson-orin-nano-8gb")


def conv(width: int, size: int, area: int) -> Layer:
    pixels, inner = size * size, area * width
    kind = "conv_1x1" if area == 1 else "conv_kxk"
    elems = pixels * width
    return Layer(kind, elems * inner, elems, elems, width * inner, pixels, width, inner, 1, area)


def network(index: int) -> LayerGraph:
    rng = np.random.default_rng(index)
    width, size = int(rng.choice([16, 32, 64, 128])), int(rng.choice([16, 32, 64, 128]))
    layers = (conv(width, size, 9),) * int(rng.integers(5, 40)) + (conv(width, size, 1),) * int(rng.integers(3, 30))
    return LayerGraph(f"n{index}", 1, layers, size)


def true_ms(graph: LayerGraph, **changes: float) -> float:
    """Time a network on a board that differs from its generation in some parameters."""
    kernel = dataclasses.replace(parameters_for(ORIN).kernel)
    kernel = dataclasses.replace(kernel, **{name: getattr(kernel, name) * factor for name, factor in changes.items()})
    total = kernel_times(graph.columns, fp16_hardware(ORIN), kernel).total_s.sum()
    return float(1e3 * (kernel.constant_us * 1e-6 + total))


CHANGES = {"floor_cycles": 1.6, "eff_bandwidth": 0.7, "constant_us": 2.0}
GIVEN = [MeasuredNetwork(f"n{i}", network(i), "fp16", true_ms(network(i), **CHANGES)) for i in range(10)]


def fitted(networks, target=ORIN):
    result = fit_board(networks, target)
    return result, dataclasses.replace(target, latency=result.fit.model_dump(mode="json"))


@pytest.fixture(scope="module")
def learned():
    return fitted(GIVEN)


def test_ten_points_learn_a_board_that_differs_from_its_generation(learned) -> None:
    _, own = learned
    unseen = [network(i) for i in range(100, 130)]
    truth = np.array([true_ms(graph, **CHANGES) for graph in unseen])
    before = np.array([report.p50_ms for report in predict_many(unseen, ORIN, "fp16")])
    after = np.array([report.p50_ms for report in predict_many(unseen, own, "fp16")])
    assert np.abs(before / truth - 1).mean() > 0.15
    assert np.abs(after / truth - 1).mean() < 0.04


def test_each_network_is_predicted_from_the_others(learned) -> None:
    result, _ = learned
    rows = {row.name: row for row in result.networks}
    seven = rows["n7"]
    _, without = fitted([item for item in GIVEN if item.name != "n7"])
    assert seven.held_out_ms == pytest.approx(predict(network(7), without, "fp16").p50_ms, rel=1e-3)
    assert seven.before_ms == pytest.approx(predict(network(7), ORIN, "fp16").p50_ms)
    assert seven.measured_ms == GIVEN[7].p50_ms
    errors = [abs(row.held_out_ms / row.measured_ms - 1) for row in result.networks]
    assert result.held_out_mape == pytest.approx(float(np.mean(errors)))
    assert result.held_out_mape < result.before_mape / 3


def test_the_interval_is_that_of_the_held_out_errors(learned) -> None:
    result, own = learned
    scores = [abs(math.log(row.held_out_ms / row.measured_ms)) for row in result.networks]
    assert result.half_width_log == pytest.approx(max(conformal_half_width(scores), LEAST_HALF_WIDTH_LOG))
    report = predict(network(3), own, "fp16")
    assert math.log(report.high_ms / report.p50_ms) == pytest.approx(result.half_width_log, abs=1e-3)
    assert report.conditions["calibration_models"] == 10
    assert report.conditions["parameters"] == "jetson-orin-nano-8gb, fitted on 10 networks of one's own"


def test_conformal_half_width_is_the_right_rank_or_widened() -> None:
    assert conformal_half_width([i / 100 for i in range(1, 20)]) == 0.18  # ceil(20 x 0.9) = 18th of 19
    assert conformal_half_width([0.1] * 9) == 0.1
    assert conformal_half_width([0.1, 0.2, 0.05]) == pytest.approx(0.2 * 2.920 / 1.645, rel=1e-3)


def test_a_network_measured_twice_is_left_out_as_a_whole() -> None:
    twice = [*GIVEN[:6], dataclasses.replace(GIVEN[0], p50_ms=GIVEN[0].p50_ms * 3)]
    result, _ = fitted(twice)
    first, again = result.networks[0], result.networks[6]
    assert first.held_out_ms == pytest.approx(again.held_out_ms)
    assert result.fit.parameters.calibration.models == 6


def test_other_precisions_are_learned_through_their_ratio() -> None:
    factor = parameters_for(ORIN).parameters.precisions["int8"].factor
    ms = []
    for i in range(8):
        kernel, graph = parameters_for(ORIN).kernel, network(i)
        times = kernel_times(graph.columns, fp16_hardware(ORIN), kernel)
        work = factor * (times.total_s - times.floor_s) + 1.5 * times.floor_s
        ms.append(float(1e3 * (kernel.constant_us * 1e-6 + work.sum())))
    given = [MeasuredNetwork(f"n{i}", network(i), "int8", ms[i]) for i in range(8)]
    result, _ = fitted(given)
    floor = result.fit.parameters.kernel.floor_cycles / parameters_for(ORIN).kernel.floor_cycles
    offset = math.exp(result.fit.parameters.device_offsets_log["jetson-orin-nano-8gb"])
    assert floor * offset == pytest.approx(1.5, rel=0.1)
    assert result.held_out_mape < 0.03


def test_board_file_carries_its_parameters(learned, tmp_path: Path) -> None:
    result, own = learned
    save_board(tmp_path / "mine.yaml", document_of(ORIN, "mine", latency=result.fit.model_dump(mode="json")))
    board = load_target(tmp_path / "mine.yaml")
    graph = network(42)
    assert predict(graph, board, "fp16").p50_ms == pytest.approx(predict(graph, own, "fp16").p50_ms, rel=1e-6)
    assert board.digest != ORIN.digest


def test_malformed_parameters_of_a_board_are_named(learned) -> None:
    _, own = learned
    broken = {**own.latency, "networks": {"n": -1.0}, "more": 1}
    with pytest.raises(ConfigError, match=r"(?s)latency parameters of jetson-orin-nano-8gb.*networks.n.*more: unknown"):
        predict(network(1), dataclasses.replace(ORIN, latency=broken), "fp16")


def test_too_few_networks_are_refused() -> None:
    with pytest.raises(DataError, match=r"4 network\(s\) in 5 measurement\(s\) .* too few: measure at least 5"):
        fit_board([*GIVEN[:4], GIVEN[0]], ORIN)


def test_targets_that_cannot_be_predicted_are_refused() -> None:
    with pytest.raises(TargetError, match="never predicted"):
        fit_board(GIVEN, get_target("cpu"))
    with pytest.raises(TargetError, match="no fast int8"):
        fit_board([dataclasses.replace(item, precision="int8") for item in GIVEN], get_target("jetson-nano"))
