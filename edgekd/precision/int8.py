"""INT8 as explicit Q/DQ through ONNX Runtime's quantizer, in the two recipes that two kinds of runtime need.

`cpu`: unsigned asymmetric activations with signed per-channel weights, biases in int32: the form that ONNX Runtime's
CPU kernels are fast on. `tensorrt`: symmetric signed everywhere, float biases, Q/DQ only in front of Conv, Gemm,
MatMul and of both branches of residual Adds, so that Conv + Add + Relu still fuse. Its weights stay float behind a
Q/DQ pair, because TensorRT 8 parsers refuse int8 initialisers. In both the addition of an attention mask stays float.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import numpy_helper

from edgekd.core.artifacts import OnnxModel
from edgekd.core.errors import ConfigError, ExportError, missing_package
from edgekd.data import NetInputs
from edgekd.export import Form, read_proto, strip_metadata, write_model
from edgekd.precision.calibration import check_calibration
from edgekd.precision.quant_report import (
    WEIGHTED_OPS,
    QuantReport,
    adds_before_softmax,
    inspect_graph,
    is_residual,
)
from edgekd.precision.ranges import Calibrator, activation_ranges, calibrator_words, require_calibrator
from edgekd.precision.weight_check import require_finite_weights, require_standard

Flavour = Literal["cpu", "tensorrt"]
FLOAT_NOTE = "edgekd.float_layers"
"""Metadata key: the layers that a choice layer by layer kept in float."""
_CALIBRATION_BATCH = 32
_MOVERS = ("Concat", "Flatten", "Pad", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
_ACTIVATIONS = ("Clip", "LeakyRelu", "Relu", "Sigmoid")
_POOLS = ("AveragePool", "GlobalAveragePool", "MaxPool")
_OPERATORS: Mapping[Flavour, tuple[str, ...]] = {
    "cpu": (*WEIGHTED_OPS, "Add", "Mul", *_ACTIVATIONS, *_POOLS, *_MOVERS),
    "tensorrt": (*WEIGHTED_OPS, "Add"),
}
_OPTIONS: Mapping[Flavour, Mapping[str, Any]] = {
    "cpu": {"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
    "tensorrt": {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "AddQDQPairToWeight": True,
        "OpTypesToExcludeOutputQuantization": [*WEIGHTED_OPS, "Add"],
    },
}


@dataclass(frozen=True)
class Calibrated:
    """An fp32 model made ready for the quantiser, with the range of each activation; quantising it is then cheap.

    Attributes:
        source: The fp32 model.
        proto: Its graph as the quantiser takes it; node names are those of the quantised model.
        ranges: ONNX Runtime's range by tensor.
        flavour: Runtime that int8 is for.
        words: What the ranges rest on.
    """

    source: OnnxModel
    proto: onnx.ModelProto
    ranges: Any
    flavour: Flavour
    words: str

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the nodes with constant weights, in the order they run."""
        graph = self.proto.graph
        constants = {tensor.name for tensor in graph.initializer}
        return tuple(node.name for node in graph.node if node.op_type in WEIGHTED_OPS and node.input[1] in constants)


def to_int8(
    model: OnnxModel,
    path: Path,
    *,
    calibration: NetInputs,
    flavour: Flavour,
    calibrator: Calibrator = "min-max",
    kept_float: Collection[str] = (),
) -> OnnxModel:
    """Quantise an fp32 model after training, with ranges from calibration inputs.

    Args:
        model: An fp32 model of opset 13 or newer.
        path: The file to write.
        calibration: At least 32 different training inputs: pictures float32 `[n, C, H, W]` in 0..1, or tokens int64
            `[n, L]`.
        flavour: `"cpu"` for ONNX Runtime on a CPU, `"tensorrt"` for TensorRT and TensorRT-RTX.
        calibrator: How ranges follow from the values seen.
        kept_float: Names of nodes with weights that stay in float.

    Returns:
        The int8 model; the same inputs give the same bytes.

    Raises:
        ConfigError: The model is not fp32, the flavour or calibrator is unknown, or a node to keep is none of its.
        DataError: The calibration set is unusable.
        ExportError: A weight is NaN or infinite, a node is not standard ONNX, the quantizer failed, or left a Conv,
            Gemm, MatMul or residual Add in floating point that was not to be kept.
        PreconditionError: `onnxruntime` is not installed.
        StorageError: A file cannot be read or written.
    """
    ready = calibrated(model, calibration=calibration, flavour=flavour, calibrator=calibrator)
    return write_int8(ready, path, kept_float=kept_float)


def calibrated(
    model: OnnxModel, *, calibration: NetInputs, flavour: Flavour, calibrator: Calibrator = "min-max"
) -> Calibrated:
    """Do the first half of `to_int8`, with its arguments and errors: everything that needs the calibration inputs."""
    if flavour not in _OPTIONS:
        raise ConfigError(f"unknown int8 flavour {flavour!r}; known: {', '.join(_OPTIONS)}")
    require_calibrator(calibrator)
    if model.precision != "fp32" or model.opset < 13:
        raise ConfigError(f"int8 is made from fp32 at opset 13 or newer, not {model.precision} at opset {model.opset}")
    check_calibration(calibration, model)
    proto = read_proto(model)
    require_finite_weights(proto.graph)
    for node in proto.graph.node if flavour == "tensorrt" else ():
        require_standard(node, "int8")
    try:
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise missing_package("onnxruntime", "cpu", "int8 quantisation") from error
    with tempfile.TemporaryDirectory(prefix="edgekd-int8-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            quant_pre_process(proto, str(prepared))
            ready = quantization.quant_utils.load_model_with_shape_infer(prepared)
            ranges = activation_ranges(
                prepared,
                calibration_batches(calibration, model.batch),
                calibrator=calibrator,
                operators=_OPERATORS[flavour],
                is_symmetric=flavour == "tensorrt",
            )
        except Exception as error:  # the quantizer raises whatever its many parts raise
            raise ExportError(f"ONNX Runtime cannot calibrate the model for {flavour}: {error}") from error
    return Calibrated(model, ready, ranges, flavour, f"{calibrator_words(calibrator)} over {len(calibration)} inputs")


def write_int8(ready: Calibrated, path: Path, *, kept_float: Collection[str] = ()) -> OnnxModel:
    """Do the second half of `to_int8`, with its arguments and errors: write Q/DQ for the ranges that were found."""
    kept = sorted(set(kept_float))
    if unknown := [name for name in kept if name not in ready.layers]:
        raise ConfigError(f"no node with weights is named {', '.join(unknown)}; there are {', '.join(ready.layers)}")
    if kept and len(kept) == len(ready.layers):
        raise ConfigError("every layer would be kept in float, which is the fp32 model itself: name fewer")
    proto = _with_pairs(ready, kept)
    strip_metadata(proto)
    require_quantised(proto, ready.flavour, kept)
    notes = {"edgekd.calibration": ready.words} | ({FLOAT_NOTE: json.dumps(kept)} if kept else {})
    return write_model(proto, path, Form("int8", ready.flavour, (ready.source.digest,), notes))


def calibration_batches(inputs: NetInputs, fixed_batch: int) -> list[NetInputs]:
    """Cut calibration inputs into batches that a model takes; the last is filled up where its batch size is fixed."""
    size = fixed_batch or _CALIBRATION_BATCH
    filling = -len(inputs) % size if fixed_batch else 0
    filled = np.concatenate([inputs, np.repeat(inputs[-1:], filling, axis=0)])
    return [filled[start : start + size] for start in range(0, len(filled), size)]


def _with_pairs(ready: Calibrated, kept: list[str]) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    source = onnx.ModelProto()
    source.CopyFrom(ready.proto)
    try:
        quantizer = QDQQuantizer(
            source,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8 if ready.flavour == "cpu" else QuantType.QInt8,
            tensors_range=ready.ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=[*_kept_float(source.graph, ready.flavour), *kept],
            op_types_to_quantize=list(_OPERATORS[ready.flavour]),
            extra_options=dict(_OPTIONS[ready.flavour]),
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        result: onnx.ModelProto = quantizer.model.model
    except Exception as error:  # as above
        raise ExportError(f"ONNX Runtime cannot quantise the model for {ready.flavour}: {error}") from error
    return result


def _kept_float(graph: onnx.GraphProto, flavour: Flavour) -> list[str]:
    kept = adds_before_softmax(graph)
    if flavour == "tensorrt":
        constants = {tensor.name: tensor for tensor in graph.initializer}
        kept |= {node.name for node in graph.node if node.op_type == "Add" and not is_residual(node, constants)}
    return sorted(kept)


def require_quantised(proto: onnx.ModelProto, flavour: Flavour, kept: Collection[str] = ()) -> None:
    """Check that a graph is quantised as its runtime needs; raises `ExportError` with everything that is not.

    Args:
        proto: A Q/DQ graph.
        flavour: Runtime that it is for.
        kept: Names of nodes with weights that are to be in float.
    """
    report = inspect_graph(proto.graph)
    problems = _common_problems(proto.graph, report, kept)
    if flavour == "tensorrt":
        problems += _tensorrt_problems(report)
    if problems:
        raise ExportError(f"the quantised graph is not what int8 for {flavour} needs: {'; '.join(problems)}")


def _common_problems(graph: onnx.GraphProto, report: QuantReport, kept: Collection[str]) -> list[str]:
    problems = []
    if not report.weighted:
        problems.append("it has no Conv, Gemm or MatMul with constant weights")
    if floating := [name for name in report.floating if name not in kept]:
        problems.append(f"{len(floating)} of {report.weighted} layers stay float: {', '.join(floating[:5])}")
    if quantised := sorted(set(kept) - set(report.floating)):
        problems.append(f"layers to be kept in float are quantised: {', '.join(quantised[:5])}")
    names = {node.input[1] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in names}
    bad = sorted(name for name, scale in scales.items() if not (np.isfinite(scale) & (scale > 0)).all())
    if bad:
        problems.append(f"scales that are not positive and finite: {', '.join(bad[:5])}")
    return problems


def _tensorrt_problems(report: QuantReport) -> list[str]:
    problems = []
    if report.quantized_biases:
        problems.append(f"{report.quantized_biases} biases are int32, which TensorRT's parser refuses")
    if not report.is_symmetric or report.activation_types + report.weight_types != ("int8", "int8"):
        kinds = ", ".join(report.activation_types + report.weight_types)
        problems.append(f"quantisation must be symmetric int8, found {kinds}, zero points at 0: {report.is_symmetric}")
    if report.quantized_adds != report.residual_adds:
        problems.append(f"{report.quantized_adds} of {report.residual_adds} residual Adds have both branches quantised")
    if report.per_channel != report.quantized:
        problems.append(f"{report.per_channel} of {report.quantized} weights have a scale for each channel")
    return problems
