"""Why a layer departs, as far as its two nodes tell: other weights, other attributes, values beyond a type."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edgekd.export.layerwise.comparison import LayerError
from edgekd.export.layerwise.graph import TensorGraph

_HALF_LARGEST = 65504.0
_ROUNDING = 2e-3  # of an fp16 weight against its float32 original


def reasons(layer: LayerError, candidate: TensorGraph, reference: TensorGraph | None = None) -> tuple[str, ...]:
    """Say what differs about a layer.

    Args:
        layer: A culprit.
        candidate: The second side's graph.
        reference: The first side's; None where it is no ONNX graph.

    Returns:
        One sentence each; empty where the nodes tell nothing.
    """
    found = []
    if layer.error.count == 0:
        found.append("its output has another shape on the two sides")
    if layer.error.not_finite:
        beyond = layer.error.largest > _HALF_LARGEST
        why = f", and fp16 ends at {_HALF_LARGEST:.0f}: keep this layer in fp32" if beyond else ""
        found.append(
            f"{layer.error.not_finite} of its {layer.error.count} values are NaN or infinite; the reference reaches "
            f"{layer.error.largest:.4g}{why}"
        )
    if reference is not None:
        first, second = reference.producer[layer.pair.reference], candidate.producer[layer.pair.candidate]
        found += _node_differences((reference, candidate), first, second)
    return tuple(found)


def _node_differences(
    graphs: tuple[TensorGraph, TensorGraph], first: onnx.NodeProto, second: onnx.NodeProto
) -> list[str]:
    if first.op_type != second.op_type:
        return [f"it is {first.op_type} on the first side and {second.op_type} on the second"]
    attributes = [
        {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute} for node in (first, second)
    ]
    found = []
    for name in sorted(attributes[0].keys() | attributes[1].keys()):
        values = attributes[0].get(name, "absent"), attributes[1].get(name, "absent")
        if str(values[0]) != str(values[1]):
            found.append(f"its attribute {name} is {values[0]} on the first side and {values[1]} on the second")
    if len(first.input) != len(second.input):
        found.append(f"it reads {len(first.input)} tensors on the first side and {len(second.input)} on the second")
    for names in zip(first.input, second.input, strict=False):
        found += _constant_difference(graphs, names)
    return found


def _constant_difference(graphs: tuple[TensorGraph, TensorGraph], names: tuple[str, str]) -> list[str]:
    tensors = [graph.constants.get(name) for graph, name in zip(graphs, names, strict=True)]
    if tensors[0] is None or tensors[1] is None:
        return []
    first, second = (numpy_helper.to_array(tensor) for tensor in tensors if tensor is not None)
    if first.shape != second.shape:
        return [f"its constant {names[1]!r} has shape {list(first.shape)} on the first side and {list(second.shape)}"]
    difference = np.abs(first.astype(np.float64) - second.astype(np.float64))
    scale = float(np.sqrt(np.mean(first.astype(np.float64) ** 2))) or 1.0
    largest = float(difference.max(initial=0.0))
    if largest <= _ROUNDING * scale:
        return []
    changed = int((difference > _ROUNDING * scale).sum())
    return [f"its constant {names[1]!r} differs in {changed} of {first.size} values, by at most {largest:.4g}"]
