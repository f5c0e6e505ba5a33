"""Predictions: what they say, how they order, and what they refuse."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from edgekd.core.artifacts import LatencyReport
from edgekd.core.errors import ConfigError, DataError, TargetError
from edgekd.latency import (
    Layer,
    LayerGraph,
    explain,
    graphs_from_csv,
    load_parameters,
    predict,
    predict_many,
    with_batch,
)
from edgekd.targets import get_target

ORIN = get_target("jetson-orin")


def plain_net(width: int, depth: int = 20, size: int = 32) -> LayerGraph:
    """A chain of 3 x 3 convolutions `width` wide on `size` x `size` maps."""
    pixels, k = size * size, 9 * width
    conv = Layer(
        "conv_kxk", pixels * width * k, pixels * width, pixels * width, width * k, pixels, width, k, 1, 9, 1, 0
    )
    head = Layer("gemm_weights", 10 * width, width, 10, 10 * width, 1, 10, width, 1, 1)
    entry = Layer("input", 0, 3 * pixels, 3 * pixels)
    return LayerGraph(f"w{width}", 1, (entry, *[conv] * depth, Layer("reduce", 0, pixels * width, width), head), size)


def test_prediction_says_that_it_is_one() -> None:
    report = predict(plain_net(64), ORIN, "fp16")
    assert isinstance(report, LatencyReport)
    assert (report.kind, report.target, report.precision) == ("predicted", "jetson-orin", "fp16")
    assert report.conditions["statement"] == "predicted, not measured"
    assert report.conditions["interval_coverage"] == 0.9
    assert report.conditions["layers"] == 23
    assert report.conditions["calibration_models"] == load_parameters().sets["orin"].calibration.models
    assert report.conditions["parameters_digest"] == load_parameters().digest
    assert report.parents == (plain_net(64).digest, ORIN.digest, load_parameters().digest)


@pytest.mark.parametrize(
    "target", ["jetson-orin", "jetson-orin-nx-16gb", "jetson-thor", "rtx-4090", "t4", "jetson-nano", "h200"]
)
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_interval_is_ordered(target: str, precision: str) -> None:
    report = predict(plain_net(64), get_target(target), precision)  # type: ignore[arg-type]
    assert 0 < report.low_ms < report.p50_ms < report.high_ms <= report.p99_ms
    half_width = math.sqrt(sum(part**2 for part in report.conditions["half_width_log"].values()))
    assert report.high_ms / report.p50_ms == pytest.approx(math.exp(half_width), rel=1e-3)
    assert report.low_ms * report.high_ms == pytest.approx(report.p50_ms**2)


def test_p99_is_the_upper_end_times_the_tail_factor() -> None:
    report = predict(plain_net(64), ORIN, "fp16")
    assert report.p99_ms == pytest.approx(report.high_ms * load_parameters().sets["orin"].tail_factor)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_latency_grows_with_width_depth_and_size(precision: str) -> None:
    by_width = predict_many([plain_net(width) for width in range(16, 513, 16)], ORIN, precision)  # type: ignore[arg-type]
    assert np.all(np.diff([report.p50_ms for report in by_width]) > 0)
    by_depth = predict_many([plain_net(64, depth) for depth in range(1, 40)], ORIN, precision)  # type: ignore[arg-type]
    assert np.all(np.diff([report.p50_ms for report in by_depth]) > 0)
    by_size = predict_many([plain_net(64, size=size) for size in (8, 16, 32, 64, 128)], ORIN, precision)  # type: ignore[arg-type]
    assert np.all(np.diff([report.p50_ms for report in by_size]) > 0)


def test_batch_costs_more_than_one_and_less_than_so_many() -> None:
    one, eight = plain_net(64), with_batch(plain_net(64), 8)
    assert (
        predict(one, ORIN, "fp16").p50_ms < predict(eight, ORIN, "fp16").p50_ms < 8 * predict(one, ORIN, "fp16").p50_ms
    )


def test_bound_goes_from_floor_to_compute() -> None:
    assert predict(plain_net(8), ORIN, "fp16").conditions["bound"] == "floor"
    assert predict(plain_net(512, size=128), ORIN, "fp16").conditions["bound"] == "compute"
    stream = LayerGraph("copies", 1, (Layer("copy_or_gather", 0, 10**8, 10**8),))
    assert predict(stream, ORIN, "fp16").conditions["bound"] == "traffic"
    shares = predict(plain_net(64), ORIN, "fp16").conditions["share_by_bound"]
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_layer_times_add_up_to_the_median(precision: str) -> None:
    graph = plain_net(64)
    report, layers = predict(graph, ORIN, precision), explain(graph, ORIN, precision)  # type: ignore[arg-type]
    fitted = load_parameters().sets["orin"]
    overlap = fitted.kernel.overlap
    factor = 1.0 if precision == "fp16" else fitted.precisions[precision].factor  # type: ignore[index]
    assert [entry.layer for entry in layers] == list(graph.layers)
    assert sum(entry.time_ms for entry in layers) + report.conditions["constant_ms"] == pytest.approx(report.p50_ms)
    for entry in layers:
        parts = {"compute": entry.compute_ms, "traffic": entry.traffic_ms, "floor": entry.floor_ms}
        assert entry.bound == max(parts, key=lambda name: parts[name])
        work_ms, floor_ms = (entry.compute_ms + entry.traffic_ms) / factor, entry.floor_ms
        over_ms = (work_ms**overlap + floor_ms**overlap) ** (1 / overlap) - floor_ms
        assert entry.time_ms == pytest.approx(floor_ms + factor * over_ms)


def test_many_predictions_equal_single_ones() -> None:
    graphs = [plain_net(width) for width in (8, 24, 64)]
    assert predict_many(graphs, ORIN, "fp16") == [predict(graph, ORIN, "fp16") for graph in graphs]


def test_other_precisions_are_ratios_flagged_and_wider() -> None:
    graph = plain_net(256, size=64)
    half, single, byte = (predict(graph, ORIN, precision) for precision in ("fp16", "fp32", "int8"))
    assert byte.p50_ms < half.p50_ms < single.p50_ms
    entry = load_parameters().sets["orin"].precisions["int8"]
    floor_ms = half.conditions["constant_ms"] + sum(layer.floor_ms for layer in explain(graph, ORIN, "fp16"))
    assert byte.p50_ms == pytest.approx(floor_ms + entry.factor * (half.p50_ms - floor_ms))
    assert byte.high_ms / byte.p50_ms > half.high_ms / half.p50_ms
    assert any("int8 is a ratio to fp16" in text for text in byte.conditions["assumptions"])


def test_board_of_the_fit_uses_its_own_offset() -> None:
    offset = load_parameters().sets["orin"].device_offsets_log["jetson-agx-orin-64gb"]
    stranger = dataclasses.replace(ORIN, name="twin", device="twin")
    known, unknown = predict(plain_net(64), ORIN, "fp16"), predict(plain_net(64), stranger, "fp16")
    assert known.p50_ms == pytest.approx(unknown.p50_ms * math.exp(offset))
    assert unknown.high_ms / unknown.p50_ms > known.high_ms / known.p50_ms
    assert any("this board was not measured" in text for text in unknown.conditions["assumptions"])


def test_generation_without_data_is_much_wider_and_says_so() -> None:
    report = predict(plain_net(64), get_target("rtx-4090"), "fp16")
    assert report.conditions["half_width_log"]["generation"] >= 0.6
    assert any("parameters of ampere-desktop stand in" in text for text in report.conditions["assumptions"])


def test_tiny_net_is_flagged_as_outside(shared_data: Path) -> None:
    tiny = predict(plain_net(8, depth=6, size=8), ORIN, "fp16")
    assert not tiny.conditions["distance"]["is_inside"]
    assert tiny.conditions["distance"]["macs"] < -3
    assert any("smaller than the networks measured" in text for text in tiny.conditions["assumptions"])
    yolo = graphs_from_csv(shared_data / "latency" / "fused_layers.csv.gz")[("yolov8s", 640)]
    inside = predict(yolo, ORIN, "fp16")
    assert inside.conditions["distance"]["is_inside"]
    assert "extrapolation" not in inside.conditions["half_width_log"]
    assert inside.conditions["agrees_with_lin4"] is True


@pytest.mark.parametrize(
    ("model", "size", "measured_ms"), [("YOLO11n", 640, 2.55), ("YOLO11m", 640, 6.25), ("YOLO11x", 640, 13.55)]
)
def test_published_latency_of_another_source_lies_in_the_interval(
    shared_data: Path, model: str, size: int, measured_ms: float
) -> None:
    graph = graphs_from_csv(shared_data / "latency" / "fused_layers.csv.gz")[(model, size)]
    report = predict(graph, ORIN, "fp16")
    assert report.low_ms < measured_ms < report.high_ms


def test_cpu_is_measured_not_predicted() -> None:
    with pytest.raises(TargetError, match="never predicted: build for it and measure"):
        predict(plain_net(8), get_target("cpu"), "fp32")


def test_precision_the_device_lacks_is_refused() -> None:
    with pytest.raises(TargetError, match="'jetson-nano' has no fast int8: it runs fp16, fp32"):
        predict(plain_net(8), get_target("jetson-nano"), "int8")


def test_device_without_figures_is_refused() -> None:
    with pytest.raises(TargetError, match="'drive-thor'"):
        predict(plain_net(8), get_target("drive-thor"), "fp16")


def test_unknown_generation_lists_known_ones() -> None:
    board = dataclasses.replace(ORIN, device="mine", generation="quantum")
    with pytest.raises(TargetError, match=r"generation 'quantum'.*orin.*Measure on the device"):
        predict(plain_net(8), board, "fp16")


def test_network_without_kernels_is_refused() -> None:
    with pytest.raises(DataError, match="empty has no kernels"):
        predict(LayerGraph("empty", 1, ()), ORIN, "fp16")


def test_errors_carry_the_exit_codes_of_the_command_line() -> None:
    assert (TargetError.exit_code, DataError.exit_code, ConfigError.exit_code) == (4, 1, 2)
