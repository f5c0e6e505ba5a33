"""A torch network's operations without running or exporting it: one pass over tensors that have shapes and no data.

An export takes seconds; this takes milliseconds, and gives the same kernels (tests compare them for every family). A
search uses it for its candidates; what ships is analysed from its ONNX file.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import DataError
from edgekd.latency.fusion import graph_from_ops
from edgekd.latency.layers import LayerGraph
from edgekd.latency.onnx_ops import Op, OpGraph, used_ops
from edgekd.models import build, deploy, evaluating, zeros_for

_INPUT = "input"
_ONNX_OF: Mapping[str, str] = {
    aten: onnx
    for onnx, names in {
        "Abs": "abs",
        "Add": "add add_",
        "AveragePool": "avg_pool2d _adaptive_avg_pool2d",
        "BatchNormalization": "_native_batch_norm_legit_no_training cudnn_batch_norm native_batch_norm",
        "Cast": "_to_copy",
        "Clip": "clamp clamp_ hardtanh hardtanh_",
        "Concat": "cat",
        "Div": "div div_",
        "Elu": "elu elu_",
        "Equal": "eq",
        "Erf": "erf",
        "Exp": "exp",
        "Gather": "embedding select",
        "Gelu": "gelu",
        "Gemm": "addmm",
        "GroupNormalization": "native_group_norm",
        "HardSigmoid": "hardsigmoid hardsigmoid_",
        "HardSwish": "hardswish hardswish_",
        "Identity": "_unsafe_view alias clone detach expand reshape squeeze unflatten unsqueeze view",
        "LayerNormalization": "native_layer_norm",
        "LeakyRelu": "leaky_relu leaky_relu_",
        "Log": "log",
        "LogSoftmax": "_log_softmax",
        "MatMul": "bmm mm",
        "MaxPool": "max_pool2d_with_indices",
        "Mul": "mul mul_",
        "Neg": "neg",
        "Not": "bitwise_not logical_not",
        "PRelu": "_prelu_kernel",
        "Pad": "constant_pad_nd",
        "Pow": "pow",
        "Reciprocal": "reciprocal",
        "ReduceMax": "amax",
        "ReduceMean": "mean",
        "ReduceSum": "sum",
        "Relu": "relu relu_",
        "Resize": "upsample_bicubic2d upsample_bilinear2d upsample_nearest2d",
        "Sigmoid": "sigmoid sigmoid_",
        "Softmax": "_softmax",
        "Softplus": "softplus",
        "Sqrt": "rsqrt sqrt",
        "Sub": "rsub sub sub_",
        "Swish": "silu silu_",
        "Tanh": "tanh tanh_",
        "Transpose": "permute t transpose",
        "Where": "where",
    }.items()
    for aten in names.split()
}
_BATCH_NORM = "native_batch_norm"
_KEEPS_SHAPE = frozenset({_BATCH_NORM, "gelu", "hardswish", "leaky_relu", "relu", "sigmoid", "silu", "tanh"})


def graph_of_spec(spec: NetSpec) -> LayerGraph:
    """Return the kernels of a network of the zoo, in the form in which it is deployed, without making its weights.

    Args:
        spec: Its architecture.

    Returns:
        The kernels at batch 1, as an analysis of its export gives them.

    Raises:
        ConfigError: The family cannot build this spec.
        DataError: The network has an operator that no rule knows.
    """
    with torch.device("meta"):
        module = deploy(build(spec))
    return _traced(module, spec.input_shape, name=spec.name, parents=(spec.digest,))


def graph_from_module(module: nn.Module, input_shape: tuple[int, ...], *, name: str = "network") -> LayerGraph:
    """Return the kernels of any network.

    Args:
        module: The network, in the form in which it is deployed; it is not touched.
        input_shape: `(C, H, W)` of one picture, or `(L,)` of one text.
        name: What to call it.

    Returns:
        The kernels at batch 1.

    Raises:
        DataError: The network has an operator that no rule knows, or does not return one tensor.
    """
    return _traced(copy.deepcopy(module).to("meta"), input_shape, name=name, parents=())


def _traced(module: nn.Module, input_shape: tuple[int, ...], *, name: str, parents: tuple[str, ...]) -> LayerGraph:
    example = zeros_for(module, input_shape, batch=1)
    recorder = _Recorder({id(parameter): path for path, parameter in module.named_parameters()}, example)
    with evaluating(module), recorder:
        output = module(example)
    if not isinstance(output, Tensor):
        raise DataError(f"{name} returns {type(output).__name__}; one tensor is needed")
    return graph_from_ops(recorder.op_graph(name, output), parents=parents)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operator that depends on the input; what does not is a constant."""

    def __init__(self, weights: Mapping[int, str], example: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights = weights
        self._names: dict[int, str] = {}
        self._kept: list[Tensor] = []  # so that no identity is used twice
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._constants: set[str] = set()
        self._values: dict[str, tuple[int, ...]] = {}
        self._ops: list[Op] = []
        self._add(example, _INPUT)

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator on shapes alone and write it down."""
        aten = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {})) if aten not in _KEEPS_SHAPE else _outputs_of(aten, args[0])
        inputs = tuple(self._name(tensor) for tensor in _tensors(args))
        output = result[0] if isinstance(result, tuple | list) else result
        if isinstance(output, Tensor):
            name = self._add(output, f"{aten}_{len(self._kept)}")
            if self._constants.issuperset(inputs):
                self._constants.add(name)
            else:
                self._ops.append(self._op(aten, args, inputs, name))
        return result

    def op_graph(self, name: str, output: Tensor) -> OpGraph:
        """Return what was written down, as the exporter would leave it."""
        outputs = (self._names[id(output)],)
        ops = _in_levels(_with_slices_merged(used_ops(self._ops, outputs)), self._constants)
        return OpGraph(name, (_INPUT,), outputs, ops, self._shapes, frozenset(self._constants), self._values)

    def _add(self, tensor: Tensor, name: str) -> str:
        self._names[id(tensor)] = name
        self._kept.append(tensor)
        self._shapes[name] = tuple(tensor.shape)
        return name

    def _name(self, tensor: Tensor) -> str:
        if id(tensor) not in self._names:
            self._constants.add(self._add(tensor, self._weights.get(id(tensor), f"constant_{len(self._kept)}")))
        return self._names[id(tensor)]

    def _op(self, aten: str, args: tuple[Any, ...], inputs: tuple[str, ...], output: str) -> Op:
        kind, attributes = _ONNX_OF.get(aten, aten), dict[str, Any]()
        if aten == "convolution":
            kind, attributes = ("ConvTranspose" if args[6] else "Conv"), {"group": args[8]}
        elif aten == "addmm":
            inputs = (*inputs[1:], inputs[0])
        elif aten == "slice":
            step = f"{output}.step"
            self._values[step] = (args[4] if len(args) > 4 else 1,)
            self._constants.add(step)
            is_whole = self._shapes[output] == self._shapes[inputs[0]]
            kind, inputs = "Identity" if is_whole else "Slice", (inputs[0], "", "", "", step)
        weight = next((name for name in inputs if name.endswith(".weight")), output)
        return Op(kind, f"{weight.removesuffix('.weight')}/{kind}", inputs, (output,), attributes)


def _outputs_of(aten: str, tensor: Tensor) -> Any:
    """Return at once what torch would work out from the arithmetic, a hundred times slower."""
    output = tensor.new_empty(tensor.shape)
    return output if aten != _BATCH_NORM else (output, tensor.new_empty(0), tensor.new_empty(0))


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)


def _with_slices_merged(ops: Sequence[Op]) -> list[Op]:
    """Join slices along several axes, which torch takes one by one, into the one that an export has."""
    readers: dict[str, int] = {}
    for op in ops:
        for name in op.inputs:
            readers[name] = readers.get(name, 0) + 1
    merged: dict[str, Op] = {}
    for op in ops:
        before = merged.get(op.inputs[0]) if op.type == "Slice" else None
        if before is not None and before.type == "Slice" and readers[op.inputs[0]] == 1:
            merged[op.outputs[0]] = Op("Slice", op.name, merged.pop(op.inputs[0]).inputs, op.outputs, {})
        else:
            merged[op.outputs[0]] = op
    return list(merged.values())


def _in_levels(ops: Sequence[Op], constants: set[str]) -> tuple[Op, ...]:
    """Sort by the length of the longest way from the input, which is how the exporter's clean-up leaves a graph."""
    level: dict[str, int] = {}
    for op in ops:
        before = (level.get(name, 0) for name in op.inputs if name not in constants)
        level[op.outputs[0]] = 1 + max(before, default=0)
    return tuple(sorted(ops, key=lambda op: level[op.outputs[0]]))
