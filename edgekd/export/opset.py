"""Brings a graph to the opset that was asked for, or refuses: a target's parser reads no newer one.

The dynamo exporter has implementations from opset 18 on, and TensorRT 8.5 reads up to 17. ONNX's own version
converter does the rest, with one gap filled here: it has no adapters from opset 14 to 13, where several operators only lost types.
"""

from __future__ import annotations

import onnx
from onnx import version_converter

from edgekd.core.errors import ExportError

EXPORTER_MINIMUM = 18
_LOWEST_CONVERTIBLE = 14
_LOWEST = 13
_ONLY_WIDENED_IN_14 = ("Add", "CumSum", "Div", "Identity", "Mul", "Relu", "Reshape", "Sub")


def opset_of(proto: onnx.ModelProto) -> int:
    """Return the default-domain opset of a model; raises `ExportError` when it declares none or several."""
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1:
        raise ExportError(f"the model imports the default operator domain {len(versions)} times; one is needed")
    return int(versions[0])


def at_opset(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return the model at exactly `opset`.

    Args:
        proto: A model whose functions are inlined.
        opset: Default-domain opset wanted.

    Returns:
        An equivalent model whose default-domain opset is `opset`.

    Raises:
        ExportError: The graph cannot be expressed at that opset.
    """
    found = opset_of(proto)
    if found == opset:
        return proto
    try:
        converted = version_converter.convert_version(proto, max(opset, _LOWEST_CONVERTIBLE))
    except RuntimeError as error:
        cause = str(error).strip().splitlines()[-1]
        raise ExportError(
            f"the graph was exported at opset {found} and has no form at opset {opset}: {cause}"
        ) from error
    if opset < _LOWEST_CONVERTIBLE:
        _narrow_to_13(converted)
    reached = opset_of(converted)
    if reached != opset:
        raise ExportError(f"opset {opset} was asked for, but the conversion ended at opset {reached}")
    return converted


def _narrow_to_13(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        since = onnx.defs.get_schema(node.op_type, _LOWEST_CONVERTIBLE, node.domain).since_version
        if since == _LOWEST_CONVERTIBLE and not _is_the_same_at_13(node):
            raise ExportError(f"node {node.name!r} ({node.op_type}) has no form at opset {_LOWEST}")
    for entry in proto.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = _LOWEST


def _is_the_same_at_13(node: onnx.NodeProto) -> bool:
    has_new_meaning = any(item.name == "allowzero" and item.i != 0 for item in node.attribute)
    return node.op_type in _ONLY_WIDENED_IN_14 and not has_new_meaning
