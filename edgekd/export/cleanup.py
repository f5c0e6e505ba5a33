"""Turns the exporter's raw graph into one worth shipping: folded, named after modules, free of machine traces.

The exporter writes stack traces (with local paths) into the graph's metadata; they would differ between machines
and must not travel to devices. It also spells out attributes that change nothing but do not exist at older opsets.
"""

from __future__ import annotations

import ast
from collections import Counter

import onnx
import onnx.numpy_helper
import onnxslim

_SCOPES_KEY = "pkg.torch.onnx.name_scopes"


def cleaned(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph folded by onnxslim, its nodes named `module.path/Op`, its metadata emptied.

    Args:
        proto: What the exporter returned; changed in place.

    Returns:
        The clean model.
    """
    _name_after_modules(proto.graph)
    slimmed: onnx.ModelProto = onnxslim.slim(proto)
    strip_metadata(slimmed)
    _drop_idle_attributes(slimmed.graph)
    return slimmed


def strip_metadata(proto: onnx.ModelProto) -> None:
    """Remove doc strings, metadata, inferred shapes and unused operator domains in place."""
    graph = proto.graph
    del proto.metadata_props[:]
    del graph.metadata_props[:]
    del graph.value_info[:]
    proto.doc_string = graph.doc_string = ""
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    used = {node.domain for node in graph.node} | {""}
    for entry in [entry for entry in proto.opset_import if entry.domain not in used]:
        proto.opset_import.remove(entry)


def _drop_idle_attributes(graph: onnx.GraphProto) -> None:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for item in list(node.attribute):
            is_idle_axes = item.name == "noop_with_empty_axes" and item.i == 0
            is_idle_zero = item.name == "allowzero" and _has_no_zero(constants.get(node.input[1]))
            if is_idle_axes or is_idle_zero:
                node.attribute.remove(item)


def _has_no_zero(shape: onnx.TensorProto | None) -> bool:
    return shape is not None and bool(onnx.numpy_helper.to_array(shape).all())


def _name_after_modules(graph: onnx.GraphProto) -> None:
    weights = {tensor.name for tensor in graph.initializer}
    seen: Counter[str] = Counter()
    for node in graph.node:
        stem = f"{_module_path(node, weights)}/{node.op_type}".lstrip("/")
        seen[stem] += 1
        node.name = stem if seen[stem] == 1 else f"{stem}_{seen[stem]}"


def _module_path(node: onnx.NodeProto, weights: set[str]) -> str:
    owned = [name for name in node.input if name in weights and name.endswith(".weight")]
    # the exporter keeps equal tensors once, so that the scale of a norm may bear the name of another norm's
    if owned and not node.op_type.endswith("Normalization"):
        return str(owned[0]).removesuffix(".weight")
    for item in node.metadata_props:
        if item.key == _SCOPES_KEY:
            scopes = ast.literal_eval(item.value)
            return str(scopes[-2]) if len(scopes) > 1 else ""
    return str(owned[0]).removesuffix(".weight") if owned else ""
