"""FP16 and BF16 as types in the graph: what strongly typed TensorRT builds, where precision flags no longer exist.

Inputs and logits keep their types. Inside, every operator runs in fp16 but those in `SENSITIVE_OPS` (exponentials,
powers, norms and long sums lose or overflow in fp16), means over more than 64 elements, operators that ONNX does not
define for fp16, and nodes with a constant that fp16 cannot hold. Each of them is written down with its reason in the
file's metadata and returned by `kept_fp32`. BF16 has the range of fp32 and three bits less of precision than fp16; ONNX
has its convolutions from opset 22 on, and only devices with BF16 units are given it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from edgekd.core.artifacts import OnnxModel
from edgekd.core.errors import ConfigError, DataError, ExportError
from edgekd.core.seeds import derive_seed
from edgekd.data import NetInputs
from edgekd.export import (
    Form,
    fp16_rounded,
    input_problem,
    random_inputs,
    read_content,
    read_proto,
    run_onnx,
    with_shapes,
    write_model,
)
from edgekd.precision.device_units import require_units
from edgekd.precision.fp16_graph import retyped
from edgekd.precision.fp16_rules import Half, reasons_for_fp32
from edgekd.precision.weight_check import require_finite_weights
from edgekd.targets import Target

_NOTE = "edgekd.fp32_nodes"
_CHECK_INPUTS = 8
_WORST_RELATIVE = {"fp16": 0.05, "bf16": 0.1}
BF16_OPSET = 22


def to_fp16(model: OnnxModel, path: Path, *, inputs: NetInputs | None = None) -> OnnxModel:
    """Convert an fp32 model to typed fp16; its input and its float32 logits keep their types.

    Args:
        model: An fp32 model.
        path: The file to write.
        inputs: Real inputs to check the numbers on, besides random ones: pictures float32 `[n, C, H, W]` in 0..1, or
            tokens int64 `[n, L]`.

    Returns:
        The fp16 model; the same input gives the same bytes.

    Raises:
        ConfigError: The model is not fp32.
        DataError: The inputs do not fit the model.
        ExportError: The graph cannot be converted, or its fp16 logits on random inputs (or on `inputs`) are
            not finite or more than 5 % (of their root mean square; of 1 for probabilities) away from the fp32 ones.
        PreconditionError: `onnxruntime` is not installed.
        StorageError: A file cannot be read or written.
    """
    if model.precision != "fp32":
        raise ConfigError(f"fp16 is made from an fp32 model, not from {model.precision}")
    source = _checked_source(model)
    reasons = reasons_for_fp32(source.graph, model.opset)
    converted = retyped(source, frozenset(reasons))
    _check_numbers(model, fp16_rounded(converted).SerializeToString(), _check_inputs(model, inputs))
    notes = {_NOTE: json.dumps(reasons, sort_keys=True)}
    return write_model(converted, path, Form("fp16", "any", (model.digest,), notes))


def to_bf16(model: OnnxModel, path: Path, *, target: Target, inputs: NetInputs | None = None) -> OnnxModel:
    """Convert an fp32 model to typed bf16; its input and its float32 logits keep their types.

    Args:
        model: An fp32 model of opset 22 or newer.
        path: The file to write.
        target: The device it is for.
        inputs: Real inputs to check the numbers on, besides random ones, as for `to_fp16`.

    Returns:
        The bf16 model; the same input gives the same bytes.

    Raises:
        ConfigError: The model is not fp32, or its opset has no bf16 convolutions.
        DataError: The inputs do not fit the model.
        ExportError: The graph cannot be converted, or its bf16 logits are not finite or more than 10 % (of their root
            mean square) away from the fp32 ones.
        PreconditionError: `onnxruntime` is not installed.
        StorageError: A file cannot be read or written.
        TargetError: The device has no bf16 units, or a TensorRT before 10.
    """
    require_units(target, "bf16")
    if model.precision != "fp32" or model.opset < BF16_OPSET:
        raise ConfigError(
            f"bf16 is made from fp32 at opset {BF16_OPSET} or newer, where ONNX has bf16 convolutions, not from "
            f"{model.precision} at opset {model.opset}: export with --opset {BF16_OPSET}"
        )
    source = _checked_source(model)
    reasons = reasons_for_fp32(source.graph, model.opset, "bf16")
    converted = retyped(source, frozenset(reasons), "bf16")
    content = fp16_rounded(converted).SerializeToString()
    _check_numbers(model, content, _check_inputs(model, inputs), "bf16")
    notes = {_NOTE: json.dumps(reasons, sort_keys=True)}
    return write_model(converted, path, Form("bf16", "tensorrt", (model.digest,), notes))


def _checked_source(model: OnnxModel) -> onnx.ModelProto:
    """Return the checked graph with the shape of every value."""
    proto = read_proto(model)
    require_finite_weights(proto.graph)
    return with_shapes(proto)


def kept_fp32(model: OnnxModel) -> Mapping[str, str]:
    """Return the nodes of an fp16 model that stayed in fp32, each with the reason.

    Args:
        model: A model written by `to_fp16`.

    Returns:
        Reasons by node name.

    Raises:
        ConfigError: The model was not written by `to_fp16`.
        StorageError: The file is missing or has changed.
    """
    for entry in read_proto(model).metadata_props:
        if entry.key == _NOTE:
            reasons: dict[str, str] = json.loads(entry.value)
            return reasons
    raise ConfigError(f"{model.file.path} is {model.precision} and carries no list of fp32 nodes; make it with to_fp16")


def _check_inputs(model: OnnxModel, inputs: NetInputs | None) -> NetInputs:
    drawn = random_inputs(model, _CHECK_INPUTS, seed=derive_seed(0, "fp16", "check"))
    if inputs is None:
        return drawn
    if problem := input_problem(inputs, model):
        raise DataError(f"fp16 cannot be checked: {problem}")
    return np.concatenate([drawn, inputs])


def _check_numbers(model: OnnxModel, content: bytes, inputs: NetInputs, half: Half = "fp16") -> None:
    batch = model.batch or _CHECK_INPUTS
    expected = run_onnx(read_content(model), inputs, batch=batch)
    found = run_onnx(content, inputs, batch=batch)
    if not np.isfinite(found).all():
        bad = int((~np.isfinite(found)).sum())
        raise ExportError(
            f"{half} overflows: {bad} of {found.size} logits are NaN or infinite; keep this model in fp32"
        )
    worst = float(np.abs(found - expected).max())
    scale = float(np.sqrt(np.mean(expected.astype(np.float64) ** 2)))
    limit, words = _WORST_RELATIVE[half] * scale, f"fp32 logits have a root mean square of {scale:.3g}"
    if _gives_probabilities(model):  # most of them are near 0, which makes their mean square say little
        limit, words = _WORST_RELATIVE[half], "fp32 gives probabilities"
    if worst > limit:
        raise ExportError(
            f"{half} outputs are off by {worst:.3g} where {words} (limit {limit:.3g}); keep this model in fp32"
        )


def _gives_probabilities(model: OnnxModel) -> bool:
    """Return whether a network ends in a softmax or a sigmoid; edgekd's own end in logits."""
    maker = next((node for node in read_proto(model).graph.node if model.output_name in node.output), None)
    return maker is not None and maker.op_type in ("Softmax", "Sigmoid")
