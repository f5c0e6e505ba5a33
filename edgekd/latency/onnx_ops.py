"""Read an ONNX file as operations on tensors of known size, constants told apart from activations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.core.errors import ConfigError, DataError
from edgekd.latency.dims import LARGEST_DIM, close_dims

_SHAPE_SOURCES = ("Shape", "Size")
_DEFAULT_DOMAINS = ("", "ai.onnx")
_SIZED_LIKE = {"GroupNormalization": "InstanceNormalization"}
"""Operators whose size onnx does not infer, and those with the same inputs and the same size that stand in."""


@dataclass(frozen=True)
class Op:
    """One node.

    Attributes:
        type: ONNX operator.
        name: Node name, or its first output.
        inputs: Every input in ONNX order, `""` where an optional one is left out.
        outputs: Its outputs.
        attributes: Plain attributes (numbers, lists, text).
    """

    type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class OpGraph:
    """A static network.

    Attributes:
        name: File name without its suffix.
        inputs: Activations fed from outside.
        outputs: What the network returns.
        ops: Nodes in topological order; those computed from constants alone, or that nobody reads, are left out.
        shapes: Shape of every tensor, constants included.
        constants: Names of the tensors known before the network runs.
        values: Small integer constants, for slices and axes.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ops: tuple[Op, ...]
    shapes: Mapping[str, tuple[int, ...]]
    constants: frozenset[str]
    values: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def elems(self, tensor: str) -> int:
        """Number of elements of a tensor."""
        return math.prod(self.shapes[tensor])

    def activations(self, op: Op) -> tuple[str, ...]:
        """Inputs of `op` that are computed when the network runs."""
        return tuple(name for name in op.inputs if name and name not in self.constants)


def read_ops(path: Path, batch: int, dims: Mapping[str, int] | None = None) -> OpGraph:
    """Read a model and fix its batch size; sizes that shape inference alone does not find are folded by onnxslim.

    Args:
        path: ONNX file.
        batch: Value of the first dimension of every input where it is dynamic.
        dims: Values of other open dimensions, as `parse_dims` returns them.

    Returns:
        The network; some sizes may still be unknown.

    Raises:
        ConfigError: `batch` is below 1 or beyond 31 bits, the file has another fixed one, or a dimension is not open.
        DataError: Not an ONNX model, dynamic dimensions other than the batch, operators of other domains, shapes that
            contradict each other.
    """
    if not 1 <= batch <= LARGEST_DIM:
        raise ConfigError(f"batch size {batch}: at least 1 is needed, and at most {LARGEST_DIM}")
    model = _with_functions_inlined(loaded_model(path))
    _refuse_foreign_domains(model, path)
    if dims:
        close_dims(model, dims, path)
    _fix_batch(model.graph, batch, path)
    return _sized_ops(model, path)


def _sized_ops(model: Any, path: Path) -> OpGraph:
    """Fold until every size is known or no more become so; onnxslim stops after ten rounds, deep chains need more."""
    ops = _op_graph(_inferred(model, path).graph, path.stem)
    unsized, before = len(_unsized(ops)), math.inf
    while 0 < unsized < before:
        model = _folded(model)
        ops = _op_graph(_inferred(model, path).graph, path.stem)
        unsized, before = len(_unsized(ops)), unsized
    return ops


def _op_graph(graph: Any, name: str) -> OpGraph:
    shapes, constants = _shapes_of(graph), {item.name for item in graph.initializer}
    ops = []
    for node in graph.node:
        if node.op_type in _SHAPE_SOURCES or _reads_only(constants, node):
            constants.update(node.output)
        else:
            ops.append(_op_of(node))
    inputs = tuple(item.name for item in graph.input if item.name not in constants)
    outputs = tuple(item.name for item in graph.output)
    used = used_ops(ops, outputs)
    return OpGraph(name, inputs, outputs, used, shapes, frozenset(constants), _small_integers(graph))


def _reads_only(constants: set[str], node: Any) -> bool:
    """Return whether a node depends on constants alone; what a branch or a loop body reads is not among its inputs."""
    has_body = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
    return not has_body and all(name in constants for name in node.input if name)


def _folded(model: Any) -> Any:
    """Return a model with what its shapes are computed from folded, or as it is where that fails."""
    import onnxslim

    try:
        return onnxslim.slim(model)
    except Exception:  # of any kind: the model is then refused for its sizes
        return model


def _unsized(graph: OpGraph) -> list[str]:
    return [name for name in _activations(graph) if name not in graph.shapes]


def _activations(graph: OpGraph) -> list[str]:
    made = [name for op in graph.ops for name in (*graph.activations(op), op.outputs[0])]
    return list(dict.fromkeys([*graph.inputs, *made]))


def require_sizes(graph: OpGraph, path: Path) -> None:
    """Check that every activation has a known size above zero; raises `DataError` naming the first that have not."""
    unknown = _unsized(graph)
    if unknown:
        raise DataError(
            f"{path}: the size of {len(unknown)} tensor(s) cannot be known before the network runs, first: "
            f"{_names(unknown)}; export it with static shapes and try again"
        )
    empty = [name for name in _activations(graph) if graph.elems(name) == 0]
    if empty:
        raise DataError(f"{path}: tensors without elements: {_names(empty)}; the network does nothing there")


def used_ops(ops: Sequence[Op], outputs: tuple[str, ...]) -> tuple[Op, ...]:
    """Return the operations that the outputs depend on, in the order given."""
    wanted, kept = set(outputs), []
    for op in reversed(ops):
        if wanted.intersection(op.outputs):
            wanted.update(op.inputs)
            kept.append(op)
    return tuple(reversed(kept))


def loaded_model(path: Path) -> Any:
    """Load an ONNX file; raises `DataError` when it is missing or is none."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(str(path))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file ({error.filename or 'its external weights'} is missing)") from error
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise DataError(f"{path}: not a readable ONNX model: {error}") from error
    if not model.graph.input or not model.graph.output:
        raise DataError(f"{path}: not an ONNX model with inputs and outputs")
    return model


def _with_functions_inlined(model: Any) -> Any:
    from onnx import inliner

    return inliner.inline_local_functions(model) if model.functions else model


def _refuse_foreign_domains(model: Any, path: Path) -> None:
    foreign = sorted(
        {f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in _DEFAULT_DOMAINS}
    )
    if foreign:
        raise DataError(
            f"{path}: operators outside the ONNX standard: {', '.join(foreign)}; TensorRT would need plugins "
            "of unknown cost. Export again without them"
        )


def _fix_batch(graph: Any, batch: int, path: Path) -> None:
    initial = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in initial]
    symbols = {item.type.tensor_type.shape.dim[0].dim_param for item in inputs if item.type.tensor_type.shape.dim} - {
        ""
    }
    problems, flags = [], []
    for item in inputs:
        for axis, dim in enumerate(item.type.tensor_type.shape.dim):
            is_fixed = dim.HasField("dim_value") and dim.dim_value > 0
            if is_fixed:
                if axis == 0 and batch not in (1, dim.dim_value):
                    raise ConfigError(
                        f"{path}: batch {batch} asked for, but input {item.name!r} is fixed at {dim.dim_value}"
                    )
            elif axis == 0 or dim.dim_param in symbols:
                dim.dim_value = batch
            else:
                problems.append(f"dimension {axis} of input {item.name!r} ({dim.dim_param or 'unknown'})")
                is_named = dim.dim_param not in ("", "?")
                flags.append(f"--dim {dim.dim_param if is_named else f'{item.name}:{axis}'}=224")
    if problems:
        raise DataError(
            f"{path}: only the batch may be dynamic, but {', '.join(problems)} is too; latency depends on it. "
            f"Give values, as {' '.join(dict.fromkeys(flags))}, or export with fixed sizes"
        )


def _inferred(model: Any, path: Path) -> Any:
    import onnx

    for item in model.graph.output:
        item.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    stood_in = [index for index, node in enumerate(model.graph.node) if node.op_type in _SIZED_LIKE]
    kept = [model.graph.node[index].op_type for index in stood_in]
    for index, op_type in zip(stood_in, kept, strict=True):
        model.graph.node[index].op_type = _SIZED_LIKE[op_type]
    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=False, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise DataError(f"{path}: shapes cannot be inferred: {str(error).strip()}") from error
    for graph in (model.graph, inferred.graph):
        for index, op_type in zip(stood_in, kept, strict=True):
            graph.node[index].op_type = op_type
    return inferred


def _shapes_of(graph: Any) -> dict[str, tuple[int, ...]]:
    shapes = {item.name: tuple(item.dims) for item in graph.initializer}
    for item in (*graph.input, *graph.value_info, *graph.output):
        if not item.type.tensor_type.HasField("shape"):
            continue
        dims = item.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes.setdefault(item.name, tuple(dim.dim_value for dim in dims))
    return shapes


def _small_integers(graph: Any) -> dict[str, tuple[int, ...]]:
    from onnx import TensorProto, numpy_helper

    tensors = {item.name: item for item in graph.initializer}
    found: dict[str, tuple[int, ...]] = {}
    for node in graph.node:
        attribute = node.attribute[0] if node.op_type == "Constant" and node.attribute else None
        if attribute is not None and attribute.name == "value":
            tensors[node.output[0]] = attribute.t
        elif attribute is not None and attribute.name in ("value_int", "value_ints"):
            found[node.output[0]] = (attribute.i,) if attribute.name == "value_int" else tuple(attribute.ints)
    wanted = (TensorProto.INT32, TensorProto.INT64)
    return found | {
        name: tuple(int(value) for value in numpy_helper.to_array(item).reshape(-1))
        for name, item in tensors.items()
        if item.data_type in wanted and math.prod(item.dims) <= 16
    }


def _op_of(node: Any) -> Op:
    from onnx import AttributeProto, helper

    plain = (
        AttributeProto.INT,
        AttributeProto.INTS,
        AttributeProto.FLOAT,
        AttributeProto.FLOATS,
        AttributeProto.STRING,
    )
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute if item.type in plain}
    outputs = tuple(name for name in node.output if name)
    return Op(node.op_type, node.name or outputs[0], tuple(node.input), outputs, attributes)


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in list(names)[:3])
