"""Whatever can give the values of tensors by name: an ONNX model on ONNX Runtime, a torch network by hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import nn

from edgekd.core.errors import DataError, ExportError, missing_package
from edgekd.export.fp16_rounding import fp16_rounded
from edgekd.export.layerwise.graph import TensorGraph
from edgekd.export.ort_run import session_options
from edgekd.export.torch_export import evaluation_copy

Feeds = Mapping[str, NDArray[Any]]
Values = dict[str, NDArray[Any]]


class Side(Protocol):
    """One of two things compared."""

    @property
    def name(self) -> str:
        """What it is, in words."""
        ...

    def values(self, tensors: Sequence[str], feeds: Feeds) -> Values:
        """Compute some tensors.

        Args:
            tensors: Their names.
            feeds: Inputs of the network by name, in the order of its inputs.

        Returns:
            Their values by name.

        Raises:
            ExportError: It cannot be run.
        """
        ...


class OnnxSide:
    """An ONNX model on ONNX Runtime's CPU provider, not optimised, cut to what is asked for.

    A typed fp16 model is run with explicit rounding (`fp16_rounded`), since the provider itself computes in float32.

    Args:
        proto: The model.
        name: What it is, in words.
    """

    def __init__(self, proto: onnx.ModelProto, name: str) -> None:
        self.name = name
        self._graph = TensorGraph(fp16_rounded(proto) if _has_halves(proto) else proto)

    def values(self, tensors: Sequence[str], feeds: Feeds) -> Values:
        """Compute some tensors; see `Side.values`."""
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_package("onnxruntime", "cpu", "comparing ONNX models") from error
        options = session_options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        content = self._graph.cut(tensors).SerializeToString()
        named = dict(zip(self._graph.inputs, feeds.values(), strict=False))
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            found = session.run(list(tensors), named)
        except Exception as error:  # onnxruntime's exceptions share no narrower base class
            raise ExportError(f"ONNX Runtime cannot run {self.name}: {str(error).splitlines()[0]}") from error
        return dict(zip(tensors, found, strict=True))


class TorchSide:
    """A torch network whose modules give the values of ONNX tensors.

    Args:
        module: The network; a copy in evaluation mode is run.
        modules: Path of the module that computes each ONNX tensor.
        name: What it is, in words.
    """

    def __init__(self, module: nn.Module, modules: Mapping[str, str], name: str = "the torch network") -> None:
        self.name = name
        self._module = evaluation_copy(module)
        self._modules = dict(modules)

    def values(self, tensors: Sequence[str], feeds: Feeds) -> Values:
        """Compute some tensors; see `Side.values`."""
        found: Values = {}
        by_path: dict[str, list[str]] = {}
        for tensor in tensors:
            by_path.setdefault(self._modules[tensor], []).append(tensor)
        handles = [
            self._module.get_submodule(path).register_forward_hook(_keeping(found, names))
            for path, names in by_path.items()
        ]
        try:
            with torch.no_grad():
                self._module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in feeds.values()))
        except (RuntimeError, ValueError, IndexError) as error:
            raise ExportError(f"{self.name} does not run: {error}") from error
        finally:
            for handle in handles:
                handle.remove()
        return found


def _keeping(found: Values, names: Sequence[str]) -> Any:
    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        del module, inputs
        array = output.detach().numpy().copy()  # a functional relu in place would change it afterwards
        found.update(dict.fromkeys(names, array))

    return keep


def checked_feeds(graph: TensorGraph, feeds: Feeds) -> Feeds:
    """Return inputs in the graph's order once they are what it takes.

    Args:
        graph: The graph.
        feeds: Arrays by name; one array may have any name where the graph has one input.

    Raises:
        DataError: An input is missing, unknown, or of another type or shape.
    """
    if len(feeds) == len(graph.inputs) == 1:
        feeds = {graph.inputs[0]: next(iter(feeds.values()))}
    if set(feeds) != set(graph.inputs):
        raise DataError(
            f"the network takes {', '.join(graph.inputs)}, the inputs given are {', '.join(feeds) or 'none'}"
        )
    values = {value.name: value for value in graph.proto.graph.input}
    for name in graph.inputs:
        kind = values[name].type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
        array = feeds[name]
        is_shape = len(sizes) == array.ndim and all(
            size in (None, real) for size, real in zip(sizes, array.shape, strict=False)
        )
        if array.dtype != dtype or not is_shape:
            words = ", ".join("any" if size is None else str(size) for size in sizes)
            raise DataError(f"input {name!r} is {array.dtype} {list(array.shape)}, the network takes {dtype} [{words}]")
    return {name: feeds[name] for name in graph.inputs}


def _has_halves(proto: onnx.ModelProto) -> bool:
    weights = any(tensor.data_type == TensorProto.FLOAT16 for tensor in proto.graph.initializer)
    casts = any(
        item.name == "to" and item.i == TensorProto.FLOAT16
        for node in proto.graph.node
        if node.op_type == "Cast"
        for item in node.attribute
    )
    return weights or casts
