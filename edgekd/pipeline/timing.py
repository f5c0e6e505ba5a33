"""How fast a model is: measured on this CPU, predicted for every other target."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgekd.core.artifacts import LatencyReport, OnnxModel, Precision
from edgekd.data import Labels, NetInputs, Split, network_inputs
from edgekd.engine import BACKENDS, BuildOptions
from edgekd.latency import graph_from_onnx, predict, predictable_precisions
from edgekd.pipeline.context import RunContext
from edgekd.precision import predicted_mixture
from edgekd.profile import measure
from edgekd.targets import Target, get_target


def spread_inputs(split: Split, count: int) -> tuple[NetInputs, Labels]:
    """Return inputs spread evenly over a split, since neighbours may be of one class.

    Args:
        split: What to take them from.
        count: How many; all when the split has fewer.

    Returns:
        Inputs as networks take them, and their labels `[n, ...]`.
    """
    rows = np.unique(np.linspace(0, len(split) - 1, num=min(count, len(split))).astype(np.int64))
    return network_inputs(split.inputs.gather(rows)), split.labels[rows]


def cpu_folder(context: RunContext, model: OnnxModel) -> Path:
    """Return where the ONNX Runtime engine of a model lies."""
    return context.folder / "engines" / f"cpu-{Path(model.file.path).stem}"


def measured_on_cpu(context: RunContext, model: OnnxModel) -> LatencyReport:
    """Measure a model on this CPU, one image at a time."""
    backend = BACKENDS["onnxruntime"]
    options = BuildOptions(get_target("cpu"), threads=context.config.threads)
    with backend.open(backend.build(model, cpu_folder(context, model), options)) as runner:
        inputs, _ = spread_inputs(context.dataset.val, 1)
        return measure(runner, inputs, target="cpu", precision=model.precision).report


def timed_precisions(target: Target) -> tuple[Precision, ...]:
    """List the precisions whose latency on a target can be known here.

    Raises:
        TargetError: None can, for lack of figures of the device.
    """
    return ("fp32", "fp16", "int8") if target.kind == "cpu" else predictable_precisions(target)


def latency_on_target(context: RunContext, model: OnnxModel) -> LatencyReport:
    """Measure a model where the target is this machine, predict it where it is not."""
    if context.target.kind == "cpu":
        return measured_on_cpu(context, model)
    if model.precision == "int8":
        return predicted_mixture(model, context.target)
    return predict(graph_from_onnx(Path(model.file.path)), context.target, model.precision)
