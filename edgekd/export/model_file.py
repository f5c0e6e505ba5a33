"""Reading and writing ONNX files: one place where every model is checked, described and written the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]
from onnx import TensorProto, checker, shape_inference

from edgekd import __version__
from edgekd.core.artifacts import FileRef, OnnxModel, Precision
from edgekd.core.atomic import write_bytes
from edgekd.core.digest import sha256_of_bytes
from edgekd.core.errors import ExportError, StorageError
from edgekd.export.foreign import LOWEST_IR, regular
from edgekd.export.opset import opset_of

INPUT_NAME = "input"
OUTPUT_NAME = "logits"
_INPUT_WORDS = {
    4: "float32 [B, C, H, W] in 0..1; normalisation is inside the graph",
    2: "int64 [B, L] token numbers, 0 after the end of a text; the attention mask is made inside the graph",
}


@dataclass(frozen=True)
class Form:
    """How a graph's numbers are represented, and what it was made from.

    Attributes:
        precision: `fp32`, `fp16` or `int8`.
        flavour: Who the quantisation suits: `"any"`, `"cpu"` or `"tensorrt"`.
        parents: Digests of what the graph was made from.
        notes: Further facts to keep in the file's metadata; deterministic.
    """

    precision: Precision
    flavour: Literal["any", "cpu", "tensorrt"]
    parents: tuple[str, ...]
    notes: Mapping[str, str]


def read_content(model: OnnxModel) -> bytes:
    """Read a model's bytes.

    Args:
        model: The model; its file must be as it was written.

    Returns:
        The serialised graph.

    Raises:
        StorageError: The file is missing or its bytes have changed.
    """
    try:
        content = Path(model.file.path).read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {model.file.path}: {error.strerror or error}") from error
    if sha256_of_bytes(content) != model.file.sha256:
        raise StorageError(f"{model.file.path} was changed since it was written; export it again")
    return content


def read_proto(model: OnnxModel) -> onnx.ModelProto:
    """Load a model's graph in the form of edgekd's own (see `foreign.regular`).

    Raises:
        StorageError: Its file is missing or its bytes have changed.
    """
    return regular(onnx.load_from_string(read_content(model)))


def write_model(proto: onnx.ModelProto, path: Path, form: Form) -> OnnxModel:
    """Check a graph, stamp its metadata, and write it atomically; the same graph always gives the same bytes.

    Args:
        proto: The graph; its value shapes, metadata and IR version are set anew.
        path: Where the file goes.
        form: Its precision, flavour, parents and notes.

    Returns:
        The written model, described from the graph itself.

    Raises:
        ExportError: The graph is not valid ONNX, takes 2 GiB or more, or is not one batch in (float32 pictures or int64
            tokens), one float32 output `[B, ...]`.
        StorageError: The file cannot be written.
    """
    try:
        finished = _stamped(proto, form)
    except EncodeError as error:  # protobuf cannot even say how long such a file would be
        raise ExportError("the model is too large: one ONNX file holds less than 2 GiB") from error
    batch, *shape = _input_sizes(finished)
    _check_output(finished, batch)
    write_bytes(path, finished.SerializeToString(deterministic=True))
    return OnnxModel(
        file=FileRef.of(path),
        precision=form.precision,
        flavour=form.flavour,
        opset=opset_of(finished),
        input_name=finished.graph.input[0].name,
        input_shape=tuple(shape),
        output_name=finished.graph.output[0].name,
        batch=batch,
        parents=form.parents,
        vocabulary=vocabulary_of(finished) if len(shape) == 1 else 0,
    )


def vocabulary_of(proto: onnx.ModelProto) -> int:
    """Return how many token numbers a network of texts knows: the rows of the table that its input reads.

    Args:
        proto: A graph with the shape of every value.

    Raises:
        ExportError: Its input reads no table.
    """
    name = proto.graph.input[0].name
    values = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in proto.graph.value_info
    }
    shapes: dict[str, list[int]] = {
        **values,
        **{tensor.name: list(tensor.dims) for tensor in proto.graph.initializer},
    }
    tables = [node.input[0] for node in proto.graph.node if node.op_type == "Gather" and node.input[1] == name]
    rows = [shapes[table][0] for table in tables if shapes.get(table)]
    if not rows:
        raise ExportError(f"the input {name!r} is int64 but looks nothing up in a table of tokens")
    return min(rows)


def with_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every value's type and shape inferred anew; raises `ExportError` when it is not valid."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.value_info[:]
    try:
        inferred = shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)
        checker.check_model(inferred, full_check=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        raise ExportError(f"the graph is not valid ONNX: {str(error).strip()}") from error
    return inferred


def _stamped(proto: onnx.ModelProto, form: Form) -> onnx.ModelProto:
    proto.ir_version = max(LOWEST_IR, onnx.helper.find_min_ir_version_for(list(proto.opset_import)))
    finished = with_shapes(proto)
    finished.producer_name, finished.producer_version = "edgekd", __version__
    finished.graph.name = "edgekd"
    facts = {
        "edgekd.precision": form.precision,
        "edgekd.flavour": form.flavour,
        "edgekd.input": _INPUT_WORDS.get(len(finished.graph.input[0].type.tensor_type.shape.dim), "unknown"),
        "edgekd.output": f"float32 [{', '.join(['B', *_dims(finished.graph.output[0])[1:]])}], not activated",
        **form.notes,
    }
    onnx.helper.set_model_props(finished, dict(sorted(facts.items())))
    for values in (finished.graph.initializer, finished.graph.value_info):
        ordered = sorted(values, key=lambda value: value.name)
        del values[:]
        values.extend(ordered)
    return finished


def _input_sizes(proto: onnx.ModelProto) -> list[int]:
    inputs = list(proto.graph.input)
    if len(inputs) != 1:
        raise ExportError(f"the graph has inputs {[value.name for value in inputs]}; exactly one is needed")
    kind = inputs[0].type.tensor_type
    sizes = [dim.dim_value for dim in kind.shape.dim]
    if (kind.elem_type, len(sizes)) not in ((TensorProto.FLOAT, 4), (TensorProto.INT64, 2)) or 0 in sizes[1:]:
        found = TensorProto.DataType.Name(kind.elem_type)
        raise ExportError(f"the input is {found} {_dims(inputs[0])}; float32 [B, C, H, W] or int64 [B, L] is needed")
    return sizes


def _check_output(proto: onnx.ModelProto, batch: int) -> None:
    outputs = list(proto.graph.output)
    if len(outputs) != 1:
        raise ExportError(f"the graph returns {[value.name for value in outputs]}; exactly one is needed")
    kind = outputs[0].type.tensor_type
    dims, first = _dims(outputs[0]), proto.graph.input[0].type.tensor_type.shape.dim[0]
    expected = str(batch) if batch else first.dim_param
    if kind.elem_type != TensorProto.FLOAT or len(dims) < 2 or dims[0] != expected:
        found = TensorProto.DataType.Name(kind.elem_type)
        raise ExportError(f"the output is {found} [{', '.join(dims)}]; float32 [{expected}, ...] is needed")


def _dims(value: onnx.ValueInfoProto) -> list[str]:
    return [dim.dim_param or str(dim.dim_value or "?") for dim in value.type.tensor_type.shape.dim]
