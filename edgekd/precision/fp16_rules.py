"""Decides which nodes must not run in fp16, or in bf16, and says why in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgekd.precision.weight_check import require_standard

Half = Literal["fp16", "bf16"]
_TYPES: Mapping[Half, str] = {"fp16": "tensor(float16)", "bf16": "tensor(bfloat16)"}
_FAULTS: Mapping[Half, str] = {"fp16": "loses accuracy or overflows in fp16", "bf16": "loses accuracy in bf16"}
SENSITIVE_OPS = frozenset(
    (
        *("Softmax", "LogSoftmax", "Softplus", "Mish", "Exp", "Log", "Pow", "Sqrt", "Reciprocal", "CumSum"),
        *("GroupNormalization", "InstanceNormalization", "LayerNormalization"),
        *("LRN", "LpNormalization", "MeanVarianceNormalization", "RMSNormalization"),
        *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
    )
)
MEANS = frozenset(("AveragePool", "GlobalAveragePool", "GlobalLpPool", "LpPool", "ReduceMean"))
LARGEST_MEAN = 64
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FP16_MAX = float(np.finfo(np.float16).max)


def reasons_for_fp32(graph: onnx.GraphProto, opset: int, half: Half = "fp16") -> dict[str, str]:
    """Return the nodes that stay in fp32, each with the reason.

    Args:
        graph: A graph with the shape of every value.
        opset: Its default-domain opset.
        half: The 16-bit type; bf16 has the range of fp32, so its constants always fit.

    Returns:
        Reasons by node name; every other node may run in it.

    Raises:
        ExportError: A node has a subgraph or comes from another operator domain.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shapes = _shapes(graph)
    reasons = {}
    for node in graph.node:
        require_standard(node, half)
        reason = _constant_reason(node, constants) if half == "fp16" else ""
        reason = reason or _operator_reason(node, opset, half) or _extent_reason(node, shapes, half)
        if reason:
            reasons[node.name] = reason
    return reasons


def takes_half(node: onnx.NodeProto, index: int, opset: int, half: Half = "fp16") -> bool:
    """Say whether ONNX lets input `index` of a node be of a 16-bit type."""
    formal = onnx.defs.get_schema(node.op_type, opset, node.domain).inputs
    return _TYPES[half] in formal[min(index, len(formal) - 1)].types


def _constant_reason(node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> str:
    for name in node.input:
        values = constants.get(name)
        if values is None or values.dtype != np.float32:
            continue
        largest = float(np.abs(values).max(initial=0.0))
        if largest > _FP16_MAX:
            return f"constant {name} reaches {largest:.4g}, fp16 ends at {_FP16_MAX:g}"
        vanishing = (values != 0) & (values.astype(np.float16) == 0)
        if node.op_type not in _WEIGHTED and vanishing.any():
            smallest = float(np.abs(values[vanishing]).min())
            return f"constant {name} holds {smallest:.4g}, which is 0 in fp16"
    return ""


def _operator_reason(node: onnx.NodeProto, opset: int, half: Half) -> str:
    if node.op_type in SENSITIVE_OPS:
        return f"{node.op_type} {_FAULTS[half]}"
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    if not schema.inputs or node.op_type == "ConstantOfShape":
        return f"{node.op_type} makes float32 by definition"
    if "tensor(float)" in schema.inputs[0].types and not takes_half(node, 0, opset, half):
        return f"{node.op_type} takes no {half} at opset {opset}"
    return ""


def _extent_reason(node: onnx.NodeProto, shapes: Mapping[str, tuple[int | str, ...]], half: Half) -> str:
    if node.op_type not in MEANS:
        return ""
    extent = _kernel_extent(node) if node.op_type in ("AveragePool", "LpPool") else _reduced_extent(node, shapes)
    if extent is None:
        return f"{node.op_type} runs over an unknown number of elements"
    if extent > LARGEST_MEAN:
        return f"{node.op_type} over {extent} elements, {half} is kept up to {LARGEST_MEAN}"
    return ""


def _kernel_extent(node: onnx.NodeProto) -> int:
    return math.prod(next(item.ints for item in node.attribute if item.name == "kernel_shape"))


def _reduced_extent(node: onnx.NodeProto, shapes: Mapping[str, tuple[int | str, ...]]) -> int | None:
    before, after = shapes.get(node.input[0]), shapes.get(node.output[0])
    if before is None or after is None:
        return None
    if Counter(size for size in before if isinstance(size, str)) != Counter(s for s in after if isinstance(s, str)):
        return None
    fixed_before = math.prod(size for size in before if isinstance(size, int))
    return fixed_before // max(1, math.prod(size for size in after if isinstance(size, int)))


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int | str, ...]]:
    values = (*graph.input, *graph.value_info, *graph.output)
    return {
        value.name: tuple(dim.dim_value or dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim)
        for value in values
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
