"""The fused kernels of a torch network without exporting it: a search weighs hundreds, and an export takes seconds.

The network runs once on zeros while every tensor operation is written down as the ONNX operator it would become; the
same fusion follows. Networks of edgekd's families come out equal, number by number, to an analysis of their export.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgekd.core.errors import DataError
from edgekd.latency.fusion import layer_graph_of
from edgekd.latency.layers import LayerGraph
from edgekd.latency.onnx_ops import Op, OpGraph
from edgekd.models import evaluating, zeros_for

_ONNX_OF: Mapping[str, str] = {
    "_adaptive_avg_pool2d": "GlobalAveragePool",
    "_softmax": "Softmax",
    "_native_batch_norm_legit_no_training": "BatchNormalization",
    "native_batch_norm": "BatchNormalization",
    "native_group_norm": "GroupNormalization",
    "native_layer_norm": "LayerNormalization",
    "_to_copy": "Cast",
    "_unsafe_view": "Reshape",
    "add": "Add",
    "alias": "Identity",
    "avg_pool2d": "AveragePool",
    "bmm": "MatMul",
    "cat": "Concat",
    "clamp": "Clip",
    "clone": "Identity",
    "constant_pad_nd": "Pad",
    "convolution": "Conv",
    "detach": "Identity",
    "div": "Div",
    "elu": "Elu",
    "expand": "Expand",
    "gelu": "Gelu",
    "hardsigmoid": "HardSigmoid",
    "hardswish": "HardSwish",
    "hardtanh": "Clip",
    "leaky_relu": "LeakyRelu",
    "max_pool2d_with_indices": "MaxPool",
    "mean": "ReduceMean",
    "mm": "MatMul",
    "mul": "Mul",
    "permute": "Transpose",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "silu": "Swish",
    "slice": "Slice",
    "split": "Split",
    "squeeze": "Squeeze",
    "sub": "Sub",
    "sum": "ReduceSum",
    "tanh": "Tanh",
    "transpose": "Transpose",
    "unsqueeze": "Unsqueeze",
    "upsample_bilinear2d": "Resize",
    "upsample_nearest2d": "Resize",
    "view": "Reshape",
}


def graph_from_module(module: nn.Module, input_shape: tuple[int, ...], *, name: str) -> LayerGraph:
    """Read the fused kernels of a network at batch 1.

    Args:
        module: The network as it is deployed; it is not changed.
        input_shape: `(C, H, W)`, or `(L,)` of tokens.
        name: Its name.

    Returns:
        Kernels in launch order.

    Raises:
        DataError: It does something that has no counterpart here; analyse its export instead.
    """
    inputs = zeros_for(module, input_shape, batch=1)
    recorder = _Recorder(inputs)
    with evaluating(module), recorder:
        output = module(inputs)
    if not isinstance(output, Tensor):
        raise DataError(f"{name} returns {type(output).__name__}, expected one tensor")
    graph = recorder.graph(name, output)
    return layer_graph_of(graph, origin=name, batch=1)


class _Recorder(TorchDispatchMode):
    """Writes down what is computed from an input, each tensor under a name of its own."""

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()
        self._kept: list[Tensor] = [inputs]  # so that no two tensors have the same id
        self._names = {id(inputs): "input"}
        self._shapes = {"input": tuple(inputs.shape)}
        self._constants: set[str] = set()
        self._values: dict[str, tuple[int, ...]] = {}
        self._ops: list[Op] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        given = [one for one in _flat(args) if isinstance(one, Tensor)]
        if any(self._is_active(one) for one in given):
            self._record(name.removesuffix("_") if name.endswith("_") else name, args, given, result)
        return result

    def graph(self, name: str, output: Tensor) -> OpGraph:
        """Return what was written down."""
        if id(output) not in self._names:
            raise DataError(f"what {name} returns does not depend on its input")
        return OpGraph(
            name,
            ("input",),
            (self._names[id(output)],),
            tuple(self._ops),
            dict(self._shapes),
            frozenset(self._constants),
            dict(self._values),
        )

    def _is_active(self, tensor: Tensor) -> bool:
        return self._names.get(id(tensor), "") not in ("", *self._constants)

    def _record(self, aten: str, args: tuple[Any, ...], given: list[Tensor], result: Any) -> None:
        inputs = [self._name(one) for one in given]
        attributes: dict[str, Any] = {}
        if aten == "addmm":
            kind, inputs = "Gemm", [*inputs[1:], inputs[0]]
        elif aten == "convolution":
            kind = "ConvTranspose" if args[6] else "Conv"
            attributes["group"] = int(args[8])
        elif aten in _ONNX_OF:
            kind = _ONNX_OF[aten]
        else:
            raise DataError(f"operation {aten} has no counterpart in the analysis of modules; export the network")
        if aten == "slice" and len(args) > 4 and args[4] != 1:
            inputs = [self._before_strided_slice(inputs[0]), "", "", "", self._number(int(args[4]))]
        outputs = [one for one in (result if isinstance(result, tuple | list) else [result]) if isinstance(one, Tensor)]
        if kind in ("BatchNormalization", "GroupNormalization", "LayerNormalization", "MaxPool"):
            outputs = outputs[:1]
        names = tuple(self._new_name(one) for one in outputs)
        self._ops.append(Op(kind, names[0], tuple(inputs), names, attributes))

    def _before_strided_slice(self, name: str) -> str:
        """Take back a strided slice that was only on the way: torch slices axis by axis, ONNX all axes at once."""
        last = self._ops[-1] if self._ops else None
        is_on_the_way = last is not None and last.type == "Slice" and last.outputs == (name,) and len(last.inputs) == 5
        return self._ops.pop().inputs[0] if is_on_the_way else name

    def _name(self, tensor: Tensor) -> str:
        if id(tensor) not in self._names:
            self._constants.add(self._new_name(tensor))
        return self._names[id(tensor)]

    def _new_name(self, tensor: Tensor) -> str:
        name = f"t{len(self._shapes)}"
        self._kept.append(tensor)
        self._names[id(tensor)] = name
        self._shapes[name] = tuple(tensor.shape)
        return name

    def _number(self, value: int) -> str:
        name = f"n{len(self._values)}"
        self._constants.add(name)
        self._values[name], self._shapes[name] = (value,), (1,)
        return name


def _flat(values: Any) -> list[Any]:
    if isinstance(values, tuple | list):
        return [one for value in values for one in _flat(value)]
    return [values]
