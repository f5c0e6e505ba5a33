"""FP8 (E4M3) as explicit Q/DQ, for devices that multiply in it: Ada, Hopper, Thor, Blackwell.

Convolutions and matrix products read inputs and weights rounded to one scale a tensor, the largest magnitude over 448;
everything else stays float, residual additions too. ONNX has these types from opset 19 on.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.core.artifacts import OnnxModel
from edgekd.core.errors import ConfigError, ExportError, missing_package
from edgekd.data import NetInputs
from edgekd.export import Form, read_content, read_proto, run_onnx, write_model
from edgekd.precision.calibration import check_calibration
from edgekd.precision.device_units import require_units
from edgekd.precision.int8 import calibration_batches
from edgekd.precision.quant_report import WEIGHTED_OPS
from edgekd.precision.ranges import Calibrator, activation_ranges, calibrator_words, require_calibrator
from edgekd.precision.weight_check import require_finite_weights, require_standard
from edgekd.targets import Target

FP8_OPSET = 19
LARGEST = 448.0
_ZERO = "fp8_zero_point"
_WORST_NOISE = 0.35
_CHECK_INPUTS = 64


def to_fp8(
    model: OnnxModel, path: Path, *, calibration: NetInputs, target: Target, calibrator: Calibrator = "min-max"
) -> OnnxModel:
    """Quantise an fp32 model to FP8 after training.

    Args:
        model: An fp32 model of opset 19 or newer.
        path: The file to write.
        calibration: Training inputs, as for `to_int8`.
        target: The device it is for.
        calibrator: How ranges follow from the values seen.

    Returns:
        The fp8 model; the same inputs give the same bytes.

    Raises:
        ConfigError: The model is not fp32 or of an older opset, or the calibrator is unknown.
        DataError: The calibration set is unusable.
        ExportError: A weight is NaN or infinite, there is nothing to quantise, or the logits on calibration inputs are
            more noise than a third of their size.
        PreconditionError: `onnxruntime` is not installed.
        StorageError: A file cannot be read or written.
        TargetError: The device has no FP8 units, or a TensorRT before 10.
    """
    require_units(target, "fp8")
    require_calibrator(calibrator)
    if model.precision != "fp32" or model.opset < FP8_OPSET:
        raise ConfigError(
            f"fp8 is made from fp32 at opset {FP8_OPSET} or newer, not from {model.precision} at opset {model.opset}: "
            f"export with --opset {FP8_OPSET}"
        )
    check_calibration(calibration, model)
    proto = read_proto(model)
    require_finite_weights(proto.graph)
    for node in proto.graph.node:
        require_standard(node, "fp8")
    scales = _activation_scales(model, calibration, calibrator)
    result = _with_pairs(proto, scales)
    _check_numbers(model, result, calibration[:_CHECK_INPUTS])
    notes = {"edgekd.calibration": f"{calibrator_words(calibrator)} over {len(calibration)} inputs"}
    return write_model(result, path, Form("fp8", "tensorrt", (model.digest,), notes))


def _activation_scales(model: OnnxModel, calibration: NetInputs, calibrator: Calibrator) -> dict[str, float]:
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise missing_package("onnxruntime", "cpu", "fp8 quantisation") from error
    with tempfile.TemporaryDirectory(prefix="edgekd-fp8-") as folder:
        path = Path(folder) / "float.onnx"
        path.write_bytes(read_content(model))
        try:
            ranges = activation_ranges(
                path,
                calibration_batches(calibration, model.batch),
                calibrator=calibrator,
                operators=WEIGHTED_OPS,
                is_symmetric=True,
            )
        except Exception as error:  # the calibrators raise whatever their many parts raise
            raise ExportError(f"ONNX Runtime cannot calibrate the model for fp8: {error}") from error
    return {name: float(np.abs(values.range_value).max()) / LARGEST or 1.0 for name, values in ranges.items()}


def _with_pairs(proto: onnx.ModelProto, scales: dict[str, float]) -> onnx.ModelProto:
    """Put a pair in front of both inputs of every layer with weights; one activation has one pair."""
    graph = proto.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    layers = [node for node in graph.node if node.op_type in WEIGHTED_OPS and node.input[1] in constants]
    if not layers:
        raise ExportError("the graph has no Conv, Gemm or MatMul with constant weights: there is nothing to quantise")
    graph.initializer.append(TensorProto(name=_ZERO, data_type=TensorProto.FLOAT8E4M3FN, raw_data=b"\0"))
    outputs: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in list(graph.node):
        for index in (0, 1) if node in layers else ():
            name = node.input[index]
            if name not in outputs:
                held = numpy_helper.to_array(constants[name]) if name in constants else None
                scale = scales[name] if held is None else float(np.abs(held).max(initial=0.0)) / LARGEST or 1.0
                graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), f"{name}_scale"))
                nodes += _pair(name)
                outputs[name] = nodes[-1].output[0]
            node.input[index] = outputs[name]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return proto


def _pair(name: str) -> list[onnx.NodeProto]:
    numbers = [f"{name}_scale", _ZERO]
    return [
        helper.make_node("QuantizeLinear", [name, *numbers], [f"{name}_fp8"], f"{name}/QuantizeLinear"),
        helper.make_node("DequantizeLinear", [f"{name}_fp8", *numbers], [f"{name}_back"], f"{name}/DequantizeLinear"),
    ]


def _check_numbers(model: OnnxModel, proto: onnx.ModelProto, inputs: NetInputs) -> None:
    batch = model.batch or len(inputs)
    expected = run_onnx(read_content(model), inputs, batch=batch).astype(np.float64)
    found = run_onnx(proto.SerializeToString(), inputs, batch=batch, as_written=True)
    noise = _size(found - expected) / (_size(expected) or 1.0)
    if not noise <= _WORST_NOISE:
        raise ExportError(
            f"fp8 logits are {noise:.0%} noise on calibration inputs (limit {_WORST_NOISE:.0%}); keep this model in "
            "fp16"
        )


def _size(values: npt.NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))
