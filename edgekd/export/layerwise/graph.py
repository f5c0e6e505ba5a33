"""An ONNX graph as tensors that depend on each other, and the part of it that makes some of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto, shape_inference

from edgekd.core.errors import ExportError

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16, TensorProto.UNDEFINED)
_BYTES: dict[int, int] = {TensorProto.FLOAT16: 2, TensorProto.BFLOAT16: 2, TensorProto.DOUBLE: 8, TensorProto.INT64: 8}


class TensorGraph:
    """What makes each tensor of a model.

    Args:
        proto: A model whose nodes are in topological order, as ONNX demands.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self._initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.constants = self._initializers | _of_constant_nodes(proto.graph)
        self.inputs = tuple(value.name for value in proto.graph.input if value.name not in self._initializers)
        self.outputs = tuple(value.name for value in proto.graph.output)
        self.producer = {name: node for node in proto.graph.node for name in node.output if name}
        self._index = {id(node): index for index, node in enumerate(proto.graph.node)}
        live = set(self.inputs)
        self.tensors: tuple[str, ...] = ()
        for node in proto.graph.node:
            if any(name in live for name in inputs_of(node)):
                made = [name for name in node.output if name]
                live.update(made)
                self.tensors += tuple(made)

    def sources(self, tensor: str) -> tuple[str, ...]:
        """Return the tensors that a tensor is computed from; empty for inputs and constants."""
        node = self.producer.get(tensor)
        return () if node is None else tuple(dict.fromkeys(inputs_of(node)))

    def readers(self, tensor: str) -> tuple[onnx.NodeProto, ...]:
        """Return the nodes that read a tensor."""
        return tuple(node for node in self.proto.graph.node if tensor in node.input)

    def ancestors(self, tensor: str) -> set[str]:
        """Return every tensor that a tensor depends on, inputs and constants too."""
        return self._needed(self.sources(tensor))

    def _needed(self, tensors: Iterable[str]) -> set[str]:
        pending, seen = list(tensors), set[str]()
        while pending:
            name = pending.pop()
            if name not in seen:
                seen.add(name)
                pending += self.sources(name)
        return seen

    def nearest(self, tensor: str, among: set[str]) -> tuple[str, ...]:
        """Return the closest tensors before a tensor that are in a set, looking through those that are not."""
        pending, seen, found = list(self.sources(tensor)), set(), []
        while pending:
            name = pending.pop(0)
            if name in seen:
                continue
            seen.add(name)
            if name in among:
                found.append(name)
            else:
                pending += self.sources(name)
        return tuple(found)

    def cut(self, tensors: Sequence[str]) -> onnx.ModelProto:
        """Return the model that computes only these tensors, as its outputs in this order.

        Raises:
            ExportError: The graph has no such tensor.
        """
        missing = [name for name in tensors if name not in self.producer]
        if missing:
            raise ExportError(f"no node of the graph makes {', '.join(missing)}")
        needed = self._needed(tensors)
        part = onnx.ModelProto()
        part.CopyFrom(self.proto)
        for field in (part.graph.node, part.graph.output, part.graph.initializer, part.graph.value_info):
            del field[:]
        part.graph.node.extend(node for node in self.proto.graph.node if needed.intersection(node.output))
        part.graph.initializer.extend(tensor for name, tensor in self._initializers.items() if name in needed)
        part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
        return part

    def typed(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, tuple[int, ...] | None]]:
        """Infer element type and shape of every tensor for given inputs.

        Args:
            feeds: Inputs by name.

        Returns:
            ONNX element type (0 where it is not known) and shape (None where it is not known) by tensor.

        Raises:
            ExportError: The graph contradicts itself or its inputs.
        """
        sized = onnx.ModelProto()
        sized.CopyFrom(self.proto)
        del sized.graph.value_info[:]
        for value in sized.graph.input:
            if value.name in feeds:
                del value.type.tensor_type.shape.dim[:]
                for size in feeds[value.name].shape:
                    value.type.tensor_type.shape.dim.add().dim_value = size
        for value in sized.graph.output:  # a symbolic size of the file would win over the inferred one
            value.type.tensor_type.ClearField("shape")
        try:
            inferred = shape_inference.infer_shapes(sized, data_prop=True).graph
        except shape_inference.InferenceError as error:
            raise ExportError(f"the shapes of the graph cannot be inferred: {str(error).strip()}") from error
        found: dict[str, tuple[int, tuple[int, ...] | None]] = dict.fromkeys(self.tensors, (0, None))
        for value in (*inferred.value_info, *inferred.output):
            kind = value.type.tensor_type
            dims = tuple(dim.dim_value for dim in kind.shape.dim)
            is_known = kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim)
            if value.name in found:
                found[value.name] = (kind.elem_type, dims if is_known else None)
        return found


def _of_constant_nodes(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    return {
        node.output[0]: item.t
        for node in graph.node
        if node.op_type == "Constant"
        for item in node.attribute
        if item.name == "value"
    }


def is_float(kind: int) -> bool:
    """Say whether an ONNX element type is a float, or not known."""
    return kind in _FLOATS


def size_bytes(kind: int, shape: tuple[int, ...] | None) -> int | None:
    """Return the size of a tensor; None where its shape is not known."""
    if shape is None:
        return None
    size = _BYTES.get(kind, 4)
    for length in shape:
        size *= length
    return size


def inputs_of(node: onnx.NodeProto) -> Iterable[str]:
    """Return what a node reads, what the graphs inside it read included."""
    found = [name for name in node.input if name]
    for item in node.attribute:
        for graph in (*item.graphs, *([item.g] if item.HasField("g") else [])):
            found += [name for inner in graph.node for name in inputs_of(inner)]
    return found
