"""`edgekd build`: an ONNX file to an engine for a target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.console import progress
from edgekd.cli.outcome import Outcome
from edgekd.cli.writing import DryRun, Force, planned, require_free
from edgekd.core.errors import PreconditionError

if TYPE_CHECKING:
    from edgekd.targets import Target

_BACKENDS = {"cpu": "onnxruntime", "jetson": "tensorrt", "gpu": "tensorrt_rtx"}


def build(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The ONNX file.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="Folder of the engine.")],
    target: Annotated[str, typer.Option(help="Device the engine is for.")] = "cpu",
    backend: Annotated[
        str | None, typer.Option(help="onnxruntime, tensorrt_rtx or tensorrt; by default the target's usual one.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch size it is optimised for.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads (onnxruntime).")] = 1,
    force: Force = False,
    dry_run: DryRun = False,
) -> Outcome:
    """Build an engine.

    Usual backends: onnxruntime for cpu, tensorrt for Jetson boards, tensorrt_rtx for other GPUs.

    Example:
      edgekd build net.onnx --target rtx-4090 --backend tensorrt_rtx -o engine
    """
    from edgekd.cli.onnx_file import onnx_model_from_file
    from edgekd.core.artifacts import to_json
    from edgekd.engine import BACKENDS, BuildOptions
    from edgekd.targets import describe, get_target

    device = get_target(target)
    name = backend or _BACKENDS[device.kind]
    builder, source = BACKENDS[name], onnx_model_from_file(model)
    require_free(output, is_forced=force)
    if refusal := builder.available():
        raise PreconditionError(f"{name} cannot be used here: {refusal}")
    if dry_run:
        return planned(output, f"an engine of {model} by {name} for {describe(device)}")
    with progress(is_quiet=context.obj.is_quiet) as listen:
        options = BuildOptions(target=device, batch=batch, threads=threads, listener=listen)
        engine = builder.build(source, output, options)
    built_for = _built_for(device, engine.target)
    text = f"{engine.file.path}: {engine.precision} by {name} for {built_for}, {engine.file.size_bytes:,} bytes"
    return Outcome({"engine": to_json(engine)}, text)


def _built_for(device: Target, architecture: str) -> str:
    return device.name if device.name == architecture else f"{device.name} ({architecture})"
