"""What int8 saves in each layer: predicted from a target's kernels, or measured on this machine by the caller."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from edgekd.core.artifacts import LatencyReport, OnnxModel, Precision
from edgekd.latency import LayerGraph, explain, graph_from_onnx, predict
from edgekd.precision.int8 import Calibrated
from edgekd.precision.layer_choice import Gains
from edgekd.precision.quant_report import quantized_ops
from edgekd.targets import Target


def predicted_gains(ready: Calibrated, target: Target) -> Gains:
    """Predict for a target what each layer saves, from the times of its kernel in fp32 and in int8.

    Args:
        ready: A calibrated model.
        target: A device that is predicted, not this machine.

    Raises:
        DataError: The network cannot be read as kernels.
        TargetError: The target cannot be predicted in int8 and fp32.
    """
    graph = graph_from_onnx(Path(ready.source.file.path))
    saved = _saved_ms(graph, target)
    by_layer = {name: saved.get(name, 0.0) for name in ready.layers}
    return Gains(by_layer, predict(graph, target, "int8").p50_ms, "predicted")


_ENDS: tuple[Precision, Precision] = ("fp32", "int8")
TimeAll = Callable[[Mapping[str, tuple[str, ...]]], Mapping[str, float]]


def measured_gains(ready: Calibrated, time_all: TimeAll) -> Gains:
    """Find what each layer saves from medians of the model with it alone in float, and with none.

    Args:
        ready: A calibrated model.
        time_all: From layers in float by name of the mixture to medians in milliseconds, timed side by side.
    """
    mixtures: dict[str, tuple[str, ...]] = {"": ()} | {name: (name,) for name in ready.layers if len(ready.layers) > 1}
    medians = time_all(mixtures)
    by_layer = {name: medians.get(name, medians[""]) - medians[""] for name in ready.layers}
    return Gains(by_layer, medians[""], "measured")


def predicted_mixture(model: OnnxModel, target: Target) -> LatencyReport:
    """Predict an int8 model: between int8 and fp32, by the share of the time saved that its float layers give up.

    Args:
        model: An int8 model, some of whose layers may be in float.
        target: The device.

    Returns:
        A report of kind `"predicted"` and precision `"int8"`; its assumptions name that share where there is one.

    Raises:
        DataError: The network cannot be read as kernels.
        TargetError: The target cannot be predicted in int8 and fp32.
    """
    graph, floating = graph_from_onnx(Path(model.file.path)), set(quantized_ops(model).floating)
    int8 = predict(graph, target, "int8")
    if not floating:
        return int8
    fp32, saved = predict(graph, target, "fp32"), _saved_ms(graph, target)
    whole = sum(saved.values())
    share = sum(time for name, time in saved.items() if name in floating) / whole if whole else 0.0

    def mixed(low: float, high: float) -> float:
        return low + share * (high - low)

    words = f"{share:.0%} of what int8 saves is given up by {len(floating)} layer(s) in fp32"
    assumptions = [*int8.conditions["assumptions"], words]
    return dataclasses.replace(
        int8,
        p50_ms=mixed(int8.p50_ms, fp32.p50_ms),
        p99_ms=mixed(int8.p99_ms, fp32.p99_ms),
        low_ms=mixed(int8.low_ms, fp32.low_ms),
        high_ms=mixed(int8.high_ms, fp32.high_ms),
        conditions={**int8.conditions, "assumptions": assumptions},
    )


def _saved_ms(graph: LayerGraph, target: Target) -> dict[str, float]:
    times = [explain(graph, target, precision) for precision in _ENDS]
    return {wide.layer.name: wide.time_ms - narrow.time_ms for wide, narrow in zip(*times, strict=True)}
