"""Brings a graph to the opset that was asked for, or refuses: a target's parser reads no newer one.

The dynamo exporter has implementations from opset 18 on; TensorRT 8.5 reads up to 17 and older ones 13. ONNX's own
version converter has no adapters for operators as common as Pad and BatchNormalization, so the few rewrites from 18
down to 13 are written here, one rule for each operator whose definition changed in between. An operator without a
rule, or one that uses what the older definition lacks, is an error with the node's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
from onnx import helper, numpy_helper

from edgekd.core.errors import ExportError

EXPORTER_MINIMUM = 18
LOWEST = 13

Constants = Mapping[str, onnx.TensorProto]
Rule = Callable[[onnx.NodeProto, Constants], bool]


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
        ExportError: The graph cannot be expressed at that opset; the first node in the way is named.
    """
    found = opset_of(proto)
    if found == opset:
        return proto
    if not LOWEST <= opset < found <= EXPORTER_MINIMUM:
        raise ExportError(f"opset {opset} was asked for, but the exporter made opset {found}; ask for {found}")
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    constants = {tensor.name: tensor for tensor in result.graph.initializer}
    for node in result.graph.node:
        _lower(node, constants, found, opset)
    _drop_unread(result.graph)
    for entry in result.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = opset
    return result


def _lower(node: onnx.NodeProto, constants: Constants, found: int, opset: int) -> None:
    where = f"node {node.name!r} ({node.op_type})"
    since = onnx.defs.get_schema(node.op_type, found, node.domain).since_version
    try:
        older = onnx.defs.get_schema(node.op_type, opset, node.domain).since_version
    except onnx.defs.SchemaError as error:
        raise ExportError(f"{where} needs opset {since}, {opset} was asked for: replace the layer") from error
    if older == since:
        return
    rule = _RULES.get(node.op_type)
    if rule is None or not rule(node, constants):
        raise ExportError(f"{where} is defined as of opset {since} and has no form at opset {opset}: replace the layer")


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _same(node: onnx.NodeProto, constants: Constants) -> bool:
    return True


def _without(**idle: int | bytes) -> Rule:
    """Return a rule that removes attributes, all of which must hold the value that changes nothing."""

    def rule(node: onnx.NodeProto, constants: Constants) -> bool:
        for item in [item for item in node.attribute if item.name in idle]:
            if helper.get_attribute_value(item) != idle[item.name]:
                return False
            node.attribute.remove(item)
        return True

    return rule


def _reduction(node: onnx.NodeProto, constants: Constants) -> bool:
    if not _without(noop_with_empty_axes=0)(node, constants):
        return False
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] not in constants:
            return False
        node.attribute.append(helper.make_attribute("axes", numpy_helper.to_array(constants[node.input[1]]).tolist()))
    del node.input[1:]
    return True


def _pad(node: onnx.NodeProto, constants: Constants) -> bool:
    return len(node.input) < 4 or not node.input[3]


def _split(node: onnx.NodeProto, constants: Constants) -> bool:
    return len(node.input) > 1 and not any(item.name == "num_outputs" for item in node.attribute)


def _shape(node: onnx.NodeProto, constants: Constants) -> bool:
    return _without(start=0)(node, constants) and not any(item.name == "end" for item in node.attribute)


def _resize(node: onnx.NodeProto, constants: Constants) -> bool:
    is_plain = _without(antialias=0, keep_aspect_ratio_policy=b"stretch")(node, constants)
    return is_plain and not any(item.name == "axes" for item in node.attribute)


def _batch_norm(node: onnx.NodeProto, constants: Constants) -> bool:
    return len(node.output) == 1 and _without(training_mode=0)(node, constants)


_ONLY_WIDENED = (
    "Add",
    "CumSum",
    "Div",
    "GreaterOrEqual",
    "Identity",
    "LeakyRelu",
    "LessOrEqual",
    "Mul",
    "PRelu",
    "Pow",
)
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_RULES: Mapping[str, Rule] = {
    **dict.fromkeys((*_ONLY_WIDENED, "Relu", "Sub", "Where"), _same),
    **dict.fromkeys((f"Reduce{name}" for name in _REDUCTIONS), _reduction),
    "BatchNormalization": _batch_norm,
    "Pad": _pad,
    "Reshape": _without(allowzero=0),
    "Resize": _resize,
    "Shape": _shape,
    "Split": _split,
}
