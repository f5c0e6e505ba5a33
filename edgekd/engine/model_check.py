"""What is wrong with an ONNX model is said before a builder is started, in edgekd's words and not the builder's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.core.artifacts import Engine, OnnxModel
from edgekd.core.errors import BuildError, ConfigError
from edgekd.engine.backend import BuildOptions

if TYPE_CHECKING:
    from onnx import ModelProto

_NAMES_SHOWN = 5
_FLOAT32, _INT64 = 1, 7  # of onnx.TensorProto


def checked_model(model: OnnxModel, options: BuildOptions) -> ModelProto:
    """Read an ONNX model and compare it with what it is said to be.

    Args:
        model: The noun that describes the file.
        options: Gives the batch and the newest opset that the target is given.

    Returns:
        The ONNX model.

    Raises:
        BuildError: The file is missing, altered or unreadable; its input, output or opset is not as described; the
            opset is too new for the target; a weight is NaN or infinite.
        ConfigError: The batch asked for is not the model's fixed one.
    """
    import onnx

    if not model.file.is_intact():
        raise BuildError(f"{model.file.path} is missing or was changed after its export; export the network again")
    if model.batch and model.batch != options.batch:
        raise ConfigError(f"the ONNX model has fixed batch {model.batch}, but batch {options.batch} is asked for")
    try:
        proto = onnx.load(model.file.path)
        onnx.checker.check_model(proto)
    except Exception as error:  # protobuf and onnx raise many unrelated types
        raise BuildError(f"{model.file.path} is not a valid ONNX model: {error}") from error
    problems = [*_opset_problems(proto, model, options), *_interface_problems(proto, model), *_weight_problems(proto)]
    if problems:
        raise BuildError(f"{Path(model.file.path).name}: " + "; ".join(problems))
    return proto


def require_intact(engine: Engine) -> Path:
    """Return the path of an engine's file, or raise `BuildError` when it is missing or altered."""
    if not engine.file.is_intact():
        raise BuildError(f"{engine.file.path} is missing or was changed after it was built; build it again")
    return Path(engine.file.path)


def _opset_problems(proto: ModelProto, model: OnnxModel, options: BuildOptions) -> list[str]:
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    problems = []
    if opset != model.opset:
        problems.append(f"its opset is {opset}, not {model.opset} as described")
    limit = options.target.read_opset
    if opset > limit:
        problems.append(f"opset {opset} is newer than {options.target.name} takes ({limit}); export with opset {limit}")
    return problems


def _interface_problems(proto: ModelProto, model: OnnxModel) -> list[str]:
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = {value.name: _shape(value) for value in proto.graph.input if value.name not in weights}
    outputs = [value.name for value in proto.graph.output]
    problems = []
    if list(inputs) != [model.input_name]:
        problems.append(f"its inputs are {list(inputs)}, expected one named {model.input_name!r}")
    else:
        shape = inputs[model.input_name]
        batch = model.batch or None
        if shape != (batch, *model.input_shape):
            problems.append(f"its input has shape {_words(shape)}, expected {_words((batch, *model.input_shape))}")
    if outputs != [model.output_name]:
        problems.append(f"its outputs are {outputs}, expected one named {model.output_name!r}")
    types = {model.input_name: _INT64 if model.vocabulary else _FLOAT32, model.output_name: _FLOAT32}
    return problems + [
        f"{value.name!r} is not {'int64' if types[value.name] == _INT64 else 'float32'}; inputs and outputs keep their "
        "type in every precision"
        for value in [*proto.graph.input, *proto.graph.output]
        if value.type.tensor_type.elem_type != types.get(value.name, value.type.tensor_type.elem_type)
    ]


def _shape(value: Any) -> tuple[int | None, ...]:
    """Return sizes, None for open ones, which some exporters write as -1."""
    dims = value.type.tensor_type.shape.dim
    return tuple(
        dim.dim_value if dim.WhichOneof("value") == "dim_value" and dim.dim_value >= 0 else None for dim in dims
    )


def _words(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("dynamic" if size is None else str(size) for size in shape) + "]"


def _weight_problems(proto: ModelProto) -> list[str]:
    from onnx import TensorProto, numpy_helper

    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    bad = [
        tensor.name
        for tensor in proto.graph.initializer
        if tensor.data_type in floats and not np.isfinite(numpy_helper.to_array(tensor)).all()
    ]
    if not bad:
        return []
    shown = ", ".join(bad[:_NAMES_SHOWN]) + (", ..." if len(bad) > _NAMES_SHOWN else "")
    return [f"{len(bad)} weight(s) hold NaN or infinity: {shown}"]
