"""ONNX files that others wrote, put into the form that edgekd's own have."""

from __future__ import annotations

from itertools import count

import onnx

LOWEST_IR = 8
"""IR version that edgekd writes at least; weights need not be inputs from 4 on."""


def regular(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which weights are no inputs, nodes have names, and open sizes are open ones.

    An open batch has one symbol, the input's, at the output too. What the graph computes stays as it is.

    Args:
        proto: A model.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.ir_version = max(copy.ir_version, LOWEST_IR)
    graph = copy.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
    for value in (*graph.input, *graph.output):
        _open_sizes(value)
    if len(graph.input) == len(graph.output) == 1:
        _share_batch(*graph.input, *graph.output)
    _name_nodes(graph)
    return copy


def _open_sizes(value: onnx.ValueInfoProto) -> None:
    """Give sizes that are -1, as some exporters write them, or nothing, a symbol."""
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        if dim.dim_value < 0 or not dim.WhichOneof("value"):
            dim.dim_param = "batch" if axis == 0 else f"{value.name}_{axis}"


def _share_batch(taken: onnx.ValueInfoProto, given: onnx.ValueInfoProto) -> None:
    first, out = (value.type.tensor_type.shape.dim for value in (taken, given))
    if first and out and first[0].dim_param and out[0].dim_param:
        out[0].dim_param = first[0].dim_param


def _name_nodes(graph: onnx.GraphProto) -> None:
    taken = {node.name for node in graph.node}
    for index, node in enumerate(graph.node):
        if not node.name:
            candidates = (f"{node.op_type}_{index}{'_' * more}" for more in count())
            node.name = next(name for name in candidates if name not in taken)
