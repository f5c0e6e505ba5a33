"""Turn an ONNX file that a user names, made by edgekd or not, into the noun that the library works with."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgekd.core.artifacts import FileRef, OnnxModel, Precision
from edgekd.core.errors import ConfigError

if TYPE_CHECKING:
    import onnx

_FLAVOURS: dict[str, Literal["any", "cpu", "tensorrt"]] = {"any": "any", "cpu": "cpu", "tensorrt": "tensorrt"}
_PRECISIONS: dict[str, Precision] = {
    "fp32": "fp32",
    "fp16": "fp16",
    "int8": "int8",
    "bf16": "bf16",
    "fp8": "fp8",
}


def onnx_model_from_file(path: Path) -> OnnxModel:
    """Describe an ONNX file with one input, float32 pictures or int64 tokens.

    Precision and flavour are those that edgekd wrote into the file; those of other files are read off the graph.

    Args:
        path: The file; its input is `[B, C, H, W]`, or `[B, L]` of token numbers, with only the batch size left open.

    Returns:
        The model.

    Raises:
        ConfigError: It is missing, no ONNX model, keeps weights in other files, or has other inputs.
        ExportError: Its input is int64 and looks nothing up in a table of tokens.
    """
    from edgekd.export import vocabulary_of, with_shapes

    proto = read_onnx(path, with_external=False)
    _require_whole(proto, path)
    value = only_input(proto, path)
    batch, *sizes = sizes_of(value)
    is_text = _is_text(value)
    if len(sizes) != (1 if is_text else 3) or 0 in sizes:
        raise ConfigError(
            f"{path}: input {value.name!r} has shape {_words(value)}, edgekd needs [B, C, H, W] with C, H, W fixed, or "
            "int64 [B, L] with L fixed: export it so, or give open sizes (--dim of edgekd build, --shape of edgekd "
            "profile)"
        )
    noted = {entry.key: entry.value for entry in proto.metadata_props}
    return OnnxModel(
        file=FileRef.of(path),
        precision=_PRECISIONS.get(noted.get("edgekd.precision", "")) or _precision_of(proto),
        flavour=_FLAVOURS.get(noted.get("edgekd.flavour", ""), "any"),
        opset=next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0),
        input_name=value.name,
        input_shape=tuple(sizes),
        output_name=proto.graph.output[0].name,
        batch=batch,
        vocabulary=vocabulary_of(with_shapes(proto)) if is_text else 0,
    )


def with_image_shape(path: Path, shape: tuple[int, int, int], copy: Path) -> Path:
    """Write a copy of an ONNX file whose open image sizes are fixed.

    Args:
        path: The file.
        shape: `(C, H, W)`.
        copy: Where the copy goes.

    Returns:
        `copy`.

    Raises:
        ConfigError: A size that the file fixes is another one, or its input is no image.
    """
    import onnx

    proto = read_onnx(path)
    value = only_input(proto, path)
    _, *image = sizes_of(value)
    if len(image) != 3 or any(size not in (0, wanted) for size, wanted in zip(image, shape, strict=True)):
        raise ConfigError(f"{path}: input {value.name!r} has shape {_words(value)}, which --shape cannot make {shape}")
    for dim, size in zip(value.type.tensor_type.shape.dim[1:], shape, strict=True):
        dim.dim_value = size
    onnx.save(proto, str(copy))
    return copy


@contextmanager
def with_dims(path: Path, assignments: Sequence[str]) -> Iterator[Path]:
    """Fix open dimensions of an ONNX file in a copy that is there for the length of a block.

    Args:
        path: The file.
        assignments: `height=224`, or `images:2=224` where a dimension has no name.

    Yields:
        The copy, under the same name, or `path` itself when nothing is assigned.

    Raises:
        ConfigError: An assignment is malformed, or names no open dimension.
    """
    from edgekd.latency.dims import close_dims, parse_dims

    if not assignments:
        yield path
        return
    proto = read_onnx(path)
    close_dims(proto, parse_dims(assignments), path)
    with tempfile.TemporaryDirectory(prefix="edgekd-dims-") as scratch:
        copy = Path(scratch) / path.name
        copy.write_bytes(proto.SerializeToString())
        yield copy


def read_onnx(path: Path, *, with_external: bool = True) -> onnx.ModelProto:
    """Load an ONNX file, by default with weights it keeps elsewhere; raises `ConfigError` where there is none."""
    import onnx

    try:
        proto = onnx.load(str(path), load_external_data=with_external)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # protobuf and onnx raise many unrelated types
        raise ConfigError(f"{path} is not an ONNX model: {error}") from error
    if not proto.graph.node or not proto.graph.output:
        raise ConfigError(f"{path} is not an ONNX model: its graph is empty")
    return proto


def _require_whole(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse a file that is a part of a model: what is packed, sent and compared by digest is this one file."""
    if any(tensor.external_data for tensor in _tensors(proto.graph)):
        command = "python -c 'import onnx, sys; onnx.save(onnx.load(sys.argv[1]), sys.argv[2])'"
        raise ConfigError(
            f"{path} keeps weights in other files; edgekd takes models that are one file (below 2 GiB). To make it one:"
            f" {command} {shlex.quote(str(path))} whole.onnx"
        )


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)


def only_input(proto: onnx.ModelProto, path: Path) -> onnx.ValueInfoProto:
    """Return the one input of a graph, float32, or int64 `[B, L]`; raises `ConfigError` at another number or type."""
    from onnx import TensorProto

    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs: list[onnx.ValueInfoProto] = [value for value in proto.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise ConfigError(f"{path} has {len(inputs)} inputs ({', '.join(v.name for v in inputs)}), edgekd needs one")
    kind = inputs[0].type.tensor_type.elem_type
    if kind != TensorProto.FLOAT and not _is_text(inputs[0]):
        raise ConfigError(f"{path}: input {inputs[0].name!r} is {TensorProto.DataType.Name(kind)}, edgekd needs FLOAT")
    return inputs[0]


def _is_text(value: onnx.ValueInfoProto) -> bool:
    from onnx import TensorProto

    kind = value.type.tensor_type
    return bool(kind.elem_type == TensorProto.INT64 and len(kind.shape.dim) == 2)


def sizes_of(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return the sizes of a value, 0 where one is left open."""
    return tuple(max(dim.dim_value, 0) for dim in value.type.tensor_type.shape.dim)


def _words(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return f"[{', '.join(dim.dim_param or str(dim.dim_value or '?') for dim in dims)}]"


def _precision_of(proto: onnx.ModelProto) -> Precision:
    from onnx import TensorProto

    kinds = {tensor.data_type for tensor in proto.graph.initializer}
    if any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
        return "fp8" if TensorProto.FLOAT8E4M3FN in kinds else "int8"
    if TensorProto.BFLOAT16 in kinds:
        return "bf16"
    return "fp16" if TensorProto.FLOAT16 in kinds else "fp32"
