"""Rewrites a float32 graph: chosen nodes stay float32, all others compute in fp16 or bf16, with casts between them."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.core.errors import ExportError
from edgekd.export import half_tensor
from edgekd.export.opset import opset_of
from edgekd.precision.fp16_rules import Half, takes_half

_SUFFIXES: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
_KINDS: dict[Half, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def retyped(proto: onnx.ModelProto, kept: frozenset[str], half: Half = "fp16") -> onnx.ModelProto:
    """Return a copy in a 16-bit type with float32 graph inputs and outputs.

    Args:
        proto: A float32 model with the type of every value.
        kept: Names of nodes that stay in float32.
        half: The type of all others.

    Returns:
        The typed model, nodes in topological order, without shapes of values.

    Raises:
        ExportError: A value has no type.
    """
    rewriter = _Rewriter(proto, kept, half)
    for node in proto.graph.node:
        rewriter.add(node)
    return rewriter.finish()


class _Rewriter:
    def __init__(self, proto: onnx.ModelProto, kept: frozenset[str], half: Half) -> None:
        graph = proto.graph
        self._proto, self._kept, self._opset = proto, kept, opset_of(proto)
        self._half, self._kind = half, _KINDS[half]
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._declared: dict[str, int] = {
            value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)
        } | {tensor.name: tensor.data_type for tensor in graph.initializer}
        self._outputs = {value.name for value in graph.output}
        self._present = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self._nodes: list[onnx.NodeProto] = []
        self._stored: dict[str, onnx.TensorProto] = {}
        self._casts: dict[tuple[str, int], str] = {}

    def add(self, node: onnx.NodeProto) -> None:
        """Take the next node over, with its inputs in the type it runs in."""
        wanted = TensorProto.FLOAT if node.name in self._kept else self._kind
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name:
                copy.input[index] = self._available(name, self._input_type(node, index, wanted))
        if node.op_type == "Cast" and wanted == self._kind:
            self._retarget(copy)
        renamed = [self._produced(name, wanted) if name else "" for name in node.output]
        del copy.output[:]
        copy.output.extend(renamed)
        self._nodes.append(copy)
        for name, made in zip(node.output, renamed, strict=True):
            if made != name:
                self._cast(made, name, TensorProto.FLOAT)

    def finish(self) -> onnx.ModelProto:
        """Return the model of all nodes taken over."""
        result = onnx.ModelProto()
        result.CopyFrom(self._proto)
        for part in (result.graph.node, result.graph.initializer, result.graph.value_info):
            del part[:]
        result.graph.node.extend(self._nodes)
        result.graph.initializer.extend(self._stored.values())
        return result

    def _input_type(self, node: onnx.NodeProto, index: int, wanted: int) -> int:
        return wanted if takes_half(node, index, self._opset, self._half) else TensorProto.FLOAT

    def _type_of(self, name: str) -> int:
        if name not in self._declared:
            raise ExportError(f"the type of value {name!r} is unknown; export the model again with edgekd")
        return self._declared[name]

    def _available(self, name: str, wanted: int) -> str:
        if name in self._constants:
            return self._constant(name, wanted)
        if self._type_of(name) != TensorProto.FLOAT or self._present[name] == wanted:
            return name
        if (name, wanted) not in self._casts:
            self._casts[name, wanted] = f"{name}_{_SUFFIXES[wanted]}"
            self._cast(name, self._casts[name, wanted], wanted)
        return self._casts[name, wanted]

    def _constant(self, name: str, wanted: int) -> str:
        tensor = self._constants[name]
        if tensor.data_type != TensorProto.FLOAT or wanted == TensorProto.FLOAT:
            self._stored[name] = tensor
            return name
        stored = f"{name}_{self._half}"
        self._stored[stored] = half_tensor(numpy_helper.to_array(tensor), stored, self._kind)
        return stored

    def _produced(self, name: str, wanted: int) -> str:
        if self._type_of(name) != TensorProto.FLOAT:
            self._present[name] = self._type_of(name)
            return name
        if name in self._outputs and wanted == self._kind:
            self._present[name] = TensorProto.FLOAT
            return f"{name}_{self._half}"
        self._present[name] = wanted
        return name

    def _cast(self, source: str, target: str, to: int) -> None:
        self._nodes.append(helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=to))

    def _retarget(self, node: onnx.NodeProto) -> None:
        for item in node.attribute:
            if item.name == "to" and item.i == TensorProto.FLOAT:
                item.i = self._kind
