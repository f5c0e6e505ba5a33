"""Reads back from the graph what is really quantised: a converter that skips layers must not pass for INT8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgekd.core.artifacts import OnnxModel
from edgekd.export import read_proto

WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_INTEGERS: dict[int, str] = {TensorProto.INT8: "int8", TensorProto.UINT8: "uint8", TensorProto.INT32: "int32"}


@dataclass(frozen=True)
class QuantReport:
    """What is quantised in a Q/DQ graph.

    Attributes:
        weighted: Conv, ConvTranspose, Gemm and MatMul nodes with constant weights.
        quantized: Those whose input and weight both come from DequantizeLinear.
        per_channel: Those whose weight has one scale for each output channel.
        floating: Names of the nodes that are not quantised.
        residual_adds: Add nodes of two activations, those that feed a Softmax excepted.
        quantized_adds: Those with both branches from DequantizeLinear.
        quantized_biases: Nodes whose bias comes from DequantizeLinear (TensorRT refuses them).
        activation_types: Integer types of the nodes' inputs.
        weight_types: Integer types of the nodes' weights.
        is_symmetric: Whether every zero point is 0.
        quantize_nodes: QuantizeLinear nodes in all.
        dequantize_nodes: DequantizeLinear nodes in all.
    """

    weighted: int
    quantized: int
    per_channel: int
    floating: tuple[str, ...]
    residual_adds: int
    quantized_adds: int
    quantized_biases: int
    activation_types: tuple[str, ...]
    weight_types: tuple[str, ...]
    is_symmetric: bool
    quantize_nodes: int
    dequantize_nodes: int


def quantized_ops(model: OnnxModel) -> QuantReport:
    """Count what is quantised in a model; raises `StorageError` when its file is missing or has changed."""
    return inspect_graph(read_proto(model).graph)


def inspect_graph(graph: onnx.GraphProto) -> QuantReport:
    """Count what is quantised in a graph."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    sources = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    weighted = [node for node in graph.node if node.op_type in WEIGHTED_OPS and _has_weights(node, graph, constants)]
    quantized = [node for node in weighted if node.input[0] in sources and node.input[1] in sources]
    masks = adds_before_softmax(graph)
    adds = [node for node in graph.node if node.op_type == "Add" and is_residual(node, constants)]
    adds = [node for node in adds if node.name not in masks]
    names = [node.op_type for node in graph.node]
    return QuantReport(
        weighted=len(weighted),
        quantized=len(quantized),
        per_channel=sum(_is_per_channel(sources[node.input[1]], constants) for node in quantized),
        floating=tuple(node.name for node in weighted if node not in quantized),
        residual_adds=len(adds),
        quantized_adds=sum(all(name in sources for name in node.input) for node in adds),
        quantized_biases=sum(len(node.input) > 2 and node.input[2] in sources for node in weighted),
        activation_types=_types([sources[node.input[0]] for node in quantized], constants),
        weight_types=_types([sources[node.input[1]] for node in quantized], constants),
        is_symmetric=all(_is_zero(node, constants) for node in sources.values()),
        quantize_nodes=names.count("QuantizeLinear"),
        dequantize_nodes=names.count("DequantizeLinear"),
    )


def is_residual(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    """Say whether an Add joins two activations (and does not add a constant)."""
    return not any(name in constants for name in node.input)


def adds_before_softmax(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the Add nodes that feed a Softmax.

    They put a large negative number where attention must not look; a range that holds it leaves the scores one step.
    """
    read = {name for node in graph.node if node.op_type == "Softmax" for name in node.input}
    return {node.name for node in graph.node if node.op_type == "Add" and node.output[0] in read}


def _has_weights(node: onnx.NodeProto, graph: onnx.GraphProto, constants: Mapping[str, TensorProto]) -> bool:
    producers = {name: other for other in graph.node for name in other.output}
    name = node.input[1]
    while name not in constants:
        producer = producers.get(name)
        if producer is None or producer.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            return False
        name = producer.input[0]
    return True


def _is_per_channel(source: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    return len(constants[source.input[1]].dims) == 1


def _types(sources: list[onnx.NodeProto], constants: Mapping[str, TensorProto]) -> tuple[str, ...]:
    kinds = {constants[node.input[2]].data_type for node in sources if len(node.input) > 2}
    return tuple(sorted(_INTEGERS.get(kind, f"type {kind}") for kind in kinds))


def _is_zero(source: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    return len(source.input) < 3 or not np.any(numpy_helper.to_array(constants[source.input[2]]))
