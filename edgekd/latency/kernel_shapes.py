"""The numbers of one kernel: MACs, elements moved, and the matrix product it amounts to."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.latency.layers import Layer, LayerKind
from edgekd.latency.onnx_ops import Op, OpGraph

_KIND_OF_ROLE: Mapping[str, LayerKind] = {
    "input": "input",
    "pointwise": "pointwise",
    "scale": "pointwise",
    "copy": "copy_or_gather",
    "concat": "concat",
    "pool": "pool",
    "reduce": "reduce",
    "softmax": "softmax",
    "layernorm": "layernorm",
    "resize": "resize",
}
_READS_WHAT_IT_WRITES = ("Gather", "GatherElements", "GatherND", "Slice")


def layer_of(
    role: str, anchor: Op | None, graph: OpGraph, *, reads: Sequence[str], output: str, fused: tuple[int, int]
) -> Layer:
    """Describe a kernel.

    Args:
        role: Its rule role.
        anchor: The operation it started from; `None` for the network's input.
        graph: Where tensors have their sizes.
        reads: Activations it reads.
        output: The tensor it writes.
        fused: Element-wise operations and residual operands taken in.

    Returns:
        The layer with all its counts.
    """
    in_elems, out_elems = sum(graph.elems(name) for name in reads), graph.elems(output)
    if anchor is None:
        layer = Layer("input", 0, in_elems, out_elems, name=output)
    elif role == "conv":
        layer = _convolution(anchor, graph)
    elif role == "product":
        layer = _product(anchor, graph)
    else:
        layer = Layer(_KIND_OF_ROLE[role], 0, in_elems, out_elems)
        if anchor.type in _READS_WHAT_IT_WRITES:
            in_elems = graph.elems(anchor.outputs[0])
    name = output if anchor is None else anchor.name
    return dataclasses.replace(
        layer, in_elems=in_elems, out_elems=out_elems, fused_pointwise=fused[0], fused_residual=fused[1], name=name
    )


def _convolution(op: Op, graph: OpGraph) -> Layer:
    weight, groups = graph.shapes[op.inputs[1]], int(op.attributes.get("group", 1))
    data, result = graph.shapes[op.inputs[0]], graph.shapes[op.outputs[0]]
    area = math.prod(weight[2:])
    if op.type == "ConvTranspose":
        rows, columns, inner = data[0] * math.prod(data[2:]), weight[1] * area, data[1] // groups
        numbers: dict[str, Any] = {"gemm_m": rows, "gemm_n": columns, "gemm_k": inner, "kernel_area": 1}
    else:
        rows, columns, inner = result[0] * math.prod(result[2:]), weight[0] // groups, weight[1] * area
        numbers = {"gemm_m": rows, "gemm_n": columns, "gemm_k": inner, "kernel_area": area}
    return Layer(
        kind=_convolution_kind(groups, data[1], area),
        macs=rows * columns * inner * groups,
        in_elems=0,
        out_elems=0,
        weight_elems=math.prod(weight),
        groups=groups,
        **numbers,
    )


def _convolution_kind(groups: int, in_channels: int, area: int) -> LayerKind:
    if groups > 1:
        return "conv_depthwise" if groups == in_channels else "conv_grouped"
    return "conv_1x1" if area == 1 else "conv_kxk"


def _product(op: Op, graph: OpGraph) -> Layer:
    left, right = graph.shapes[op.inputs[0]], graph.shapes[op.inputs[1]]
    out_elems = graph.elems(op.outputs[0])
    inner = left[0] if op.type == "Gemm" and op.attributes.get("transA", 0) else left[-1]
    weights = [name for name in op.inputs[:2] if name in graph.constants]
    if weights and math.prod(graph.shapes[weights[0]][:-2]) == 1:
        elems = graph.elems(weights[0])
        columns = elems // inner
        return Layer("gemm_weights", out_elems * inner, 0, 0, elems, out_elems // columns, columns, inner, 1, 1)
    result = graph.shapes[op.outputs[0]]
    columns = result[-1] if len(right) > 1 else 1
    rows = result[-2] if len(result) > 1 else 1
    groups = out_elems // (rows * columns)
    return Layer("matmul_activations", out_elems * inner, 0, 0, 0, rows, columns, inner, groups, 1)
