"""Refuses weights that no precision can hold and operators that no converter knows, with the node and what to do."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgekd.core.errors import ExportError

_SHOWN = 5
_TAKES_INFINITY = ("Clip", "Max", "Min", "Pad", "Where")


def require_finite_weights(graph: onnx.GraphProto) -> None:
    """Check the constants of a graph.

    Args:
        graph: A float graph.

    Raises:
        ExportError: Some are NaN or infinite; names each tensor, and the node that reads it.
    """
    readers = {name: node for node in reversed(graph.node) for name in node.input}
    problems = []
    for tensor in graph.initializer:
        if tensor.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
            continue
        values, node = numpy_helper.to_array(tensor), readers.get(tensor.name)
        if node is None:
            continue
        is_good = ~np.isnan(values) if node.op_type in _TAKES_INFINITY else np.isfinite(values)
        if bad := int((~is_good).sum()):
            problems.append(
                f"{bad} of {values.size} values of {tensor.name!r}, read by node {node.name!r} ({node.op_type})"
            )
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ExportError(
            f"weights are NaN or infinite: {'; '.join(problems[:_SHOWN])}{more}; train again or repair the file, no "
            "lower precision can hold them"
        )


def require_standard(node: onnx.NodeProto, precision: str) -> None:
    """Check that a node is one that a graph can be rewritten around.

    Args:
        node: Any node.
        precision: What the graph is converted to, for the message.

    Raises:
        ExportError: It is of another operator domain, or has a subgraph; says which and what to do.
    """
    if node.domain not in ("", "ai.onnx"):
        raise ExportError(
            f"node {node.name!r} is {node.domain}.{node.op_type}; {precision} rules cover standard ONNX only: replace "
            "the layer by standard operators, or keep the model in fp32"
        )
    if any(item.HasField("g") or item.graphs for item in node.attribute):
        raise ExportError(
            f"node {node.name!r} ({node.op_type}) has a subgraph; {precision} conversion does not enter it: unroll it "
            "before export, or keep the model in fp32"
        )
