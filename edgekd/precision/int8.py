"""INT8 as explicit Q/DQ through ONNX Runtime's quantizer, in the two recipes that two kinds of runtime need.

`cpu`: unsigned asymmetric activations with signed per-channel weights, biases in int32: the form that ONNX Runtime's
CPU kernels are fast on. `tensorrt`: symmetric signed everywhere, float biases, Q/DQ only in front of Conv, Gemm,
MatMul and of both branches of residual Adds, so that Conv + Add + Relu still fuse. Its weights stay float behind a
Q/DQ pair, because TensorRT 8 parsers refuse int8 initialisers. In both the addition of an attention mask stays float.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
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

Flavour = Literal["cpu", "tensorrt"]
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


def to_int8(model: OnnxModel, path: Path, *, calibration: NetInputs, flavour: Flavour) -> OnnxModel:
    """Quantise an fp32 model after training, with min-max ranges from calibration inputs.

    Args:
        model: An fp32 model of opset 13 or newer.
        path: The file to write.
        calibration: At least 32 different training inputs: pictures float32 `[n, C, H, W]` in 0..1, or tokens int64
            `[n, L]`.
        flavour: `"cpu"` for ONNX Runtime on a CPU, `"tensorrt"` for TensorRT and TensorRT-RTX.

    Returns:
        The int8 model; the same inputs give the same bytes.

    Raises:
        ConfigError: The model is not fp32, or the flavour is unknown.
        DataError: The calibration set is unusable.
        ExportError: The quantizer failed, or left a Conv, Gemm, MatMul or residual Add in floating point.
        PreconditionError: `onnxruntime` is not installed.
        StorageError: A file cannot be read or written.
    """
    if flavour not in _OPTIONS:
        raise ConfigError(f"unknown int8 flavour {flavour!r}; known: {', '.join(_OPTIONS)}")
    if model.precision != "fp32" or model.opset < 13:
        raise ConfigError(f"int8 is made from fp32 at opset 13 or newer, not {model.precision} at opset {model.opset}")
    check_calibration(calibration, model)
    quantized = _quantized(read_proto(model), _batches(calibration, model.batch), flavour)
    strip_metadata(quantized)
    _check(quantized, flavour)
    notes = {"edgekd.calibration": f"min-max over {len(calibration)} inputs"}
    return write_model(quantized, path, Form("int8", flavour, (model.digest,), notes))


class _Reader:
    def __init__(self, name: str, batches: list[NetInputs]) -> None:
        self._feeds: Iterator[dict[str, NetInputs]] = iter([{name: batch} for batch in batches])

    def get_next(self) -> dict[str, NetInputs] | None:
        return next(self._feeds, None)


def _batches(inputs: NetInputs, fixed_batch: int) -> list[NetInputs]:
    size = fixed_batch or _CALIBRATION_BATCH
    filling = -len(inputs) % size if fixed_batch else 0
    filled = np.concatenate([inputs, np.repeat(inputs[-1:], filling, axis=0)])
    return [filled[start : start + size] for start in range(0, len(filled), size)]


def _quantized(proto: onnx.ModelProto, batches: list[NetInputs], flavour: Flavour) -> onnx.ModelProto:
    try:
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise missing_package("onnxruntime", "cpu", "int8 quantisation") from error
    is_cpu = flavour == "cpu"
    with tempfile.TemporaryDirectory(prefix="edgekd-int8-") as folder:
        prepared, result = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        try:
            quant_pre_process(proto, str(prepared))
            quantization.quantize_static(
                str(prepared),
                str(result),
                _Reader(proto.graph.input[0].name, batches),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(_OPERATORS[flavour]),
                nodes_to_exclude=_kept_float(onnx.load(prepared).graph, flavour),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8 if is_cpu else quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
                extra_options=dict(_OPTIONS[flavour]),
            )
        except Exception as error:  # the quantizer raises whatever its many parts raise
            raise ExportError(f"ONNX Runtime cannot quantise the model for {flavour}: {error}") from error
        return onnx.load(result)


def _kept_float(graph: onnx.GraphProto, flavour: Flavour) -> list[str]:
    kept = adds_before_softmax(graph)
    if flavour == "tensorrt":
        constants = {tensor.name: tensor for tensor in graph.initializer}
        kept |= {node.name for node in graph.node if node.op_type == "Add" and not is_residual(node, constants)}
    return sorted(kept)


def _check(proto: onnx.ModelProto, flavour: Flavour) -> None:
    report = inspect_graph(proto.graph)
    problems = _common_problems(proto.graph, report)
    if flavour == "tensorrt":
        problems += _tensorrt_problems(report)
    if problems:
        raise ExportError(f"the quantised graph is not what int8 for {flavour} needs: {'; '.join(problems)}")


def _common_problems(graph: onnx.GraphProto, report: QuantReport) -> list[str]:
    problems = []
    if not report.weighted:
        problems.append("it has no Conv, Gemm or MatMul with constant weights")
    if report.floating:
        problems.append(
            f"{len(report.floating)} of {report.weighted} layers stay float: {', '.join(report.floating[:5])}"
        )
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
    if report.per_channel != report.weighted:
        problems.append(f"{report.per_channel} of {report.weighted} weights have a scale for each channel")
    return problems
