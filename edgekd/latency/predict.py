"""Milliseconds of a network on a target, always as a prediction with its interval and what it rests on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.core.artifacts import LatencyReport, Precision
from edgekd.core.errors import DataError, TargetError
from edgekd.latency.interval import COVERAGE, Distance, distance_of, half_widths_log
from edgekd.latency.kernel_model import KernelTimes, kernel_times
from edgekd.latency.layers import Columns, Ints, Layer, LayerGraph, concatenated
from edgekd.latency.lin4 import lin4_ms
from edgekd.latency.parameters import ChosenSet, fp16_hardware, parameters_for, require_precision
from edgekd.targets import Target

BACKEND = "edgekd.latency OPS"
_BOUNDS = ("compute", "traffic", "floor")


@dataclass(frozen=True)
class LayerTime:
    """Predicted time of one kernel.

    Attributes:
        layer: The kernel.
        time_ms: Its share of the predicted median.
        compute_ms: Arithmetic alone.
        traffic_ms: Memory alone.
        floor_ms: Launch floor.
        bound: Which of the three is largest.
    """

    layer: Layer
    time_ms: float
    compute_ms: float
    traffic_ms: float
    floor_ms: float
    bound: str


@dataclass(frozen=True)
class _Estimate:
    chosen: ChosenSet
    times: KernelTimes
    constant_s: float

    @property
    def median_s(self) -> float:
        return self.constant_s + float(self.times.total_s.sum())


def predict(graph: LayerGraph, target: Target, precision: Precision) -> LatencyReport:
    """Predict the latency of a network.

    Args:
        graph: Its kernels at the batch size of interest.
        target: The device; `cpu` is measured instead.
        precision: `fp16` is what the model is fitted at; `fp32` and `int8` are ratios to it with a wider interval.

    Returns:
        A report of kind `"predicted"`: median, 90 % interval, an upper estimate of the 99th percentile, and in
        `conditions` what bounds the network, how far it lies from the calibration set and what was assumed.

    Raises:
        DataError: The network has no kernels.
        TargetError: The target is a CPU, lacks the precision, or is like nothing that was ever measured.
    """
    return predict_many([graph], target, precision)[0]


def predict_many(graphs: Sequence[LayerGraph], target: Target, precision: Precision) -> list[LatencyReport]:
    """Predict several networks at once; same arguments, results and errors as `predict`."""
    parent = target.digest
    return [
        _report(graph, estimate, target, precision=precision, target_digest=parent)
        for graph, estimate in _estimates(graphs, target, precision)
    ]


def explain(graph: LayerGraph, target: Target, precision: Precision) -> list[LayerTime]:
    """Say where the predicted time goes.

    Args:
        graph: A network's kernels.
        target: The device.
        precision: Precision predicted.

    Returns:
        One entry a kernel in launch order; they and `conditions["constant_ms"]` of the report add up to its median.

    Raises:
        DataError: The network has no kernels.
        TargetError: As for `predict`.
    """
    _, estimate = _estimates([graph], target, precision)[0]
    bounds = _bounds(estimate.times)
    columns = np.stack([getattr(estimate.times, field.name) for field in dataclasses.fields(KernelTimes)]) * 1e3
    return [
        LayerTime(
            layer=layer,
            time_ms=float(total),
            compute_ms=float(compute),
            traffic_ms=float(traffic),
            floor_ms=float(floor),
            bound=_BOUNDS[bound],
        )
        for layer, (compute, traffic, floor, total), bound in zip(graph.layers, columns.T, bounds, strict=True)
    ]


def _estimates(
    graphs: Sequence[LayerGraph], target: Target, precision: Precision
) -> list[tuple[LayerGraph, _Estimate]]:
    empty = [graph.name for graph in graphs if not graph.layers]
    if empty or not graphs:
        raise DataError(f"nothing to predict: {', '.join(empty) or 'no network'} has no kernels")
    columns, _ = concatenated([graph.columns for graph in graphs])
    chosen, times, constant = scaled_times(columns, target, precision)
    ends = np.cumsum([len(graph.layers) for graph in graphs])
    return [
        (graph, _Estimate(chosen, _part(times, int(end) - len(graph.layers), int(end)), constant))
        for graph, end in zip(graphs, ends, strict=True)
    ]


def scaled_times(columns: Columns, target: Target, precision: Precision) -> tuple[ChosenSet, KernelTimes, float]:
    """Time kernels on a target.

    Args:
        columns: Kernels `[L]`.
        target: The device.
        precision: Precision predicted.

    Returns:
        The parameters chosen, the times of each kernel `[L]`, and the seconds that each inference takes besides.

    Raises:
        TargetError: As for `predict`.
    """
    if target.kind == "cpu":
        raise TargetError(f"{target.name!r} is never predicted: build for it and measure (edgekd profile)")
    require_precision(target, precision)
    chosen, hardware = parameters_for(target), fp16_hardware(target)
    offset = math.exp(chosen.parameters.device_offsets_log.get(target.device, 0.0))
    factor = 1.0 if precision == "fp16" else chosen.parameters.precisions[precision].factor
    times = _scaled(kernel_times(columns, hardware, chosen.kernel), offset=offset, factor=factor)
    return chosen, times, offset * chosen.kernel.constant_us * 1e-6


def _scaled(times: KernelTimes, *, offset: float, factor: float) -> KernelTimes:
    floor = offset * times.floor_s
    work = offset * factor * (times.total_s - times.floor_s)
    return KernelTimes(offset * factor * times.compute_s, offset * factor * times.traffic_s, floor, work + floor)


def _part(times: KernelTimes, start: int, end: int) -> KernelTimes:
    return KernelTimes(*(getattr(times, field.name)[start:end] for field in dataclasses.fields(KernelTimes)))


def _bounds(times: KernelTimes) -> Ints:
    largest: Ints = np.argmax(np.stack([times.compute_s, times.traffic_s, times.floor_s]), axis=0)
    return largest


def _time_by_bound(estimate: _Estimate) -> dict[str, float]:
    bounds = _bounds(estimate.times)
    sums = {name: float(estimate.times.total_s[bounds == index].sum()) for index, name in enumerate(_BOUNDS)}
    sums["floor"] += estimate.constant_s
    return sums


def _report(
    graph: LayerGraph, estimate: _Estimate, target: Target, *, precision: Precision, target_digest: str
) -> LatencyReport:
    chosen = estimate.chosen
    distance = distance_of(graph, estimate.times.total_s, chosen.parameters.calibration)
    parts = half_widths_log(chosen, distance, precision)
    half_width = math.sqrt(sum(part**2 for part in parts.values()))
    p50_ms = estimate.median_s * 1e3
    high_ms = p50_ms * math.exp(half_width)
    conditions = _conditions(graph, estimate, distance, precision=precision)
    conditions["half_width_log"] = {name: round(part, 4) for name, part in parts.items()}
    conditions |= _cross_check(graph, estimate, target, precision=precision, half_width=half_width)
    return LatencyReport(
        kind="predicted",
        target=target.name,
        precision=precision,
        backend=BACKEND,
        p50_ms=p50_ms,
        p99_ms=high_ms * chosen.parameters.tail_factor,
        low_ms=p50_ms * math.exp(-half_width),
        high_ms=high_ms,
        conditions=conditions,
        parents=(graph.digest, target_digest, chosen.digest),
    )


def _conditions(graph: LayerGraph, estimate: _Estimate, distance: Distance, *, precision: Precision) -> dict[str, Any]:
    chosen, calibration = estimate.chosen, estimate.chosen.parameters.calibration
    by_bound = _time_by_bound(estimate)
    return {
        "statement": "predicted, not measured",
        "interval_coverage": COVERAGE,
        "bound": max(by_bound, key=lambda name: by_bound[name]),
        "share_by_bound": {name: round(time / estimate.median_s, 4) for name, time in by_bound.items()},
        "constant_ms": estimate.constant_s * 1e3,
        "layers": len(graph.layers),
        "gmacs": graph.macs / 1e9,
        "batch": graph.batch,
        "calibration_models": calibration.models,
        "calibration_families": list(calibration.families),
        "distance": {**dataclasses.asdict(distance), "is_inside": distance.is_inside},
        "parameters": chosen.name,
        "parameters_digest": chosen.digest,
        "measured_as": chosen.parameters.measured,
        "p99_estimate": f"upper end x {chosen.parameters.tail_factor:g} ({chosen.parameters.tail_origin})",
        "assumptions": _assumptions(chosen, distance, precision),
    }


def _assumptions(chosen: ChosenSet, distance: Distance, precision: Precision) -> list[str]:
    found = []
    if chosen.transfer is not None:
        found.append(f"no measurement of this generation: parameters of {chosen.name} stand in")
    elif not chosen.is_fitted_device:
        found.append(
            f"this board was not measured: parameters of its generation ({chosen.name}) with its own data sheet"
        )
    if precision != "fp16":
        found.append(f"{precision} is a ratio to fp16: {chosen.parameters.precisions[precision].origin}")
    if distance.below > 0:
        found.append(f"smaller than the networks measured, by a factor of {math.exp(distance.below):.3g}")
    if distance.above > 0:
        found.append(f"larger than the networks measured, by a factor of {math.exp(distance.above):.3g}")
    if distance.uncalibrated_share >= 0.05:
        found.append(f"{distance.uncalibrated_share:.0%} of the time is in kinds of kernel that were never measured")
    return found


def _cross_check(
    graph: LayerGraph, estimate: _Estimate, target: Target, *, precision: Precision, half_width: float
) -> dict[str, Any]:
    entry = estimate.chosen.parameters.lin4.get(target.device)
    if entry is None or precision != "fp16":
        return {"lin4_ms": None, "agrees_with_lin4": None}
    baseline_ms = lin4_ms(graph, entry)
    is_close = baseline_ms > 0 and abs(math.log(baseline_ms / (estimate.median_s * 1e3))) <= half_width
    return {"lin4_ms": baseline_ms, "agrees_with_lin4": is_close}
