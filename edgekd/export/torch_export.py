"""torch -> ONNX through the dynamo exporter, with every silent compromise of the exporter turned into an error."""

from __future__ import annotations

import copy
from pathlib import Path

import onnx
import torch
from torch import nn

from edgekd.core.artifacts import OnnxModel
from edgekd.core.errors import ConfigError, ExportError
from edgekd.export.cleanup import cleaned
from edgekd.export.model_file import INPUT_NAME, OUTPUT_NAME, Form, write_model
from edgekd.export.opset import EXPORTER_MINIMUM, LOWEST, at_opset
from edgekd.export.quiet import quiet_exporter
from edgekd.models import takes_tokens

_DYNAMIC_EXAMPLE_BATCH = 3
_TOKENS_OF_ANY_TABLE = 2
_MOST_BYTES = 2 << 30


def export_onnx(
    module: nn.Module,
    path: Path,
    *,
    input_shape: tuple[int, ...],
    opset: int = 17,
    batch: int = 0,
    parents: tuple[str, ...] = (),
) -> OnnxModel:
    """Export a network in evaluation mode; the network itself is not touched.

    Args:
        module: Maps float32 `[B, C, H, W]` in 0..1, or tokens int64 `[B, L]`, to one output `[B, K]` or
            `[B, K, H, W]`; re-parameterised already where it needs that.
        path: The file to write.
        input_shape: `(C, H, W)` of one picture, or `(L,)` of one text.
        opset: Default-domain opset that the file must have.
        batch: Fixed batch size, or 0 for a dynamic one.
        parents: Digests of what the network was made from.

    Returns:
        The fp32 model. Exporting the same network again gives the same bytes.

    Raises:
        ConfigError: `input_shape`, `opset` or `batch` make no sense.
        ExportError: A weight is not finite or not float32, all take 2 GiB or more, the network does not map inputs to
            outputs, the exporter cannot follow it, or it has no form at `opset` or with a dynamic batch.
        StorageError: The file cannot be written.
    """
    _check_request(input_shape, opset, batch)
    frozen = evaluation_copy(module)
    _check_weights(frozen)
    example = _example(frozen, input_shape, batch or _DYNAMIC_EXAMPLE_BATCH)
    _check_outputs(frozen, example)
    with quiet_exporter():
        proto = cleaned(_traced(frozen, example, opset=opset, is_dynamic=batch == 0))
    proto = at_opset(proto, opset)
    _check_input(proto, [str(batch or "batch"), *map(str, input_shape)])
    return write_model(proto, path, Form("fp32", "any", parents, {"edgekd.exporter": f"torch {torch.__version__}"}))


def evaluation_copy(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU in evaluation mode; raises `ExportError` when the module cannot be copied."""
    try:
        return copy.deepcopy(module).cpu().eval()
    except (RuntimeError, TypeError) as error:
        raise ExportError(f"the network cannot be copied for export: {error}") from error


def _check_request(input_shape: tuple[int, ...], opset: int, batch: int) -> None:
    newest = onnx.defs.onnx_opset_version()
    problems = []
    if len(input_shape) not in (1, 3) or min(input_shape) < 1:
        problems.append(f"input_shape is {input_shape}; sizes (C, H, W) or (L,) of at least 1 are needed")
    if not LOWEST <= opset <= newest:
        problems.append(f"opset is {opset}; it must be between {LOWEST} and {newest}")
    if batch < 0:
        problems.append(f"batch is {batch}; give a size, or 0 for a dynamic batch")
    if problems:
        raise ConfigError("; ".join(problems))


def _check_weights(module: nn.Module) -> None:
    problems = []
    size_bytes = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    if size_bytes >= _MOST_BYTES:
        problems.append(f"they take {size_bytes} bytes, one ONNX file holds less than {_MOST_BYTES}")
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if not tensor.is_floating_point():
            continue
        if tensor.dtype != torch.float32:
            problems.append(f"{name} is {str(tensor.dtype).removeprefix('torch.')}, not float32")
        elif bad := int((~torch.isfinite(tensor)).sum()):
            problems.append(f"{name} has {bad} NaN or infinite values of {tensor.numel()}")
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise ExportError(f"the network's weights cannot be exported: {shown}")


def _example(module: nn.Module, input_shape: tuple[int, ...], batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if takes_tokens(module, input_shape):
        return torch.randint(0, _TOKENS_OF_ANY_TABLE, (batch, *input_shape), generator=generator)
    return torch.rand((batch, *input_shape), generator=generator)


def _check_outputs(module: nn.Module, example: torch.Tensor) -> None:
    shape = list(example.shape)
    try:
        with torch.no_grad():
            outputs = module(example)
    except Exception as error:  # a network of the user's may raise anything
        raise ExportError(f"the network does not run on an input {shape}: {_first_cause(error)}") from error
    if not isinstance(outputs, torch.Tensor):
        raise ExportError(f"the network returns {type(outputs).__name__}; one tensor [B, K] or [B, K, H, W] is needed")
    if outputs.ndim not in (2, 4) or len(outputs) != len(example):
        raise ExportError(
            f"the network maps {shape} to {list(outputs.shape)}; [{len(example)}, K] or [{len(example)}, K, H, W] is "
            "needed"
        )
    if not bool(torch.isfinite(outputs).all()):
        raise ExportError("the network's outputs are not finite on random inputs: the weights are unusable")


def _traced(module: nn.Module, example: torch.Tensor, *, opset: int, is_dynamic: bool) -> onnx.ModelProto:
    shapes = ({0: torch.export.Dim("batch", min=1)},) if is_dynamic else None
    try:
        # Captured first: given a module, torch.onnx.export retries with a fixed batch when a dynamic one fails.
        captured = torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)
        program = torch.onnx.export(
            captured,
            dynamo=True,
            opset_version=max(opset, EXPORTER_MINIMUM),
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
    except Exception as error:  # the exporter runs the network, and neither keeps to a few types
        raise ExportError(f"the dynamo exporter cannot follow the network: {_first_cause(error)}") from error
    if program is None:
        raise ExportError("the dynamo exporter returned nothing; a newer torch is needed (2.11 or later)")
    return program.model_proto


def _check_input(proto: onnx.ModelProto, wanted: list[str]) -> None:
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    found = [dim.dim_param or str(dim.dim_value) for dim in dims]
    if found != wanted:
        raise ExportError(f"the exporter made an input [{', '.join(found)}] where [{', '.join(wanted)}] was asked for")


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
