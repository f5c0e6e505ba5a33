"""`edgekd build`: an ONNX file to an engine for a target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.console import progress
from edgekd.cli.outcome import Outcome
from edgekd.cli.writing import DryRun, Force, planned, require_free
from edgekd.core.errors import ConfigError, PreconditionError

if TYPE_CHECKING:
    from edgekd.core.artifacts import OnnxModel
    from edgekd.engine import BuildOptions
    from edgekd.targets import Target

_BACKENDS = {"cpu": "onnxruntime", "jetson": "tensorrt", "gpu": "tensorrt_rtx"}


def build(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The ONNX file.")],
    *,
    output: Annotated[
        Path, typer.Option("--output", "--out", "-o", file_okay=False, help="Folder of the engine, or of one a board.")
    ],
    target: Annotated[
        str | None, typer.Option(help="Device the engine is for, cpu by default; with --device, what it must be.")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="Build and measure on a board over SSH: user@host. May be repeated.")
    ] = None,
    targets: Annotated[
        str | None, typer.Option(help="The same on boards of yours by name: a,b,c; or name=user@host.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="onnxruntime, tensorrt_rtx or tensorrt; by default the target's usual one.")
    ] = None,
    dim: Annotated[
        list[str] | None,
        typer.Option(help="Value of an open dimension other than the batch, as height=224 or input:2=224; repeat it."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Batch size it is optimised for; by default the model's own, or 1.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads (onnxruntime).")] = 1,
    workspace_mb: Annotated[int, typer.Option(min=0, help="Limit of the builder's scratch memory; 0 for none.")] = 0,
    optimization_level: Annotated[
        int | None,
        typer.Option(min=0, max=5, help="How long TensorRT looks for fast kernels; its own level by default."),
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="The plan runs in newer TensorRT too; larger, may be slower.")
    ] = False,
    hardware: Annotated[
        str, typer.Option(help="Other GPUs the plan runs on: none, same-sm, or ampere+ (slower); not for Jetson.")
    ] = "none",
    dla: Annotated[
        int | None, typer.Option(min=0, help="On boards: the deep-learning accelerator that runs what it can, from 0.")
    ] = None,
    gpu_fallback: Annotated[
        bool, typer.Option(help="With --dla: whether the GPU takes what the accelerator cannot.")
    ] = True,
    known_hosts: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Trusted host keys of boards, instead of yours.")
    ] = None,
    identity: Annotated[Path | None, typer.Option(dir_okay=False, help="Private key for boards.")] = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> Outcome:
    """Build an engine.

    Usual backends: onnxruntime for cpu, tensorrt for Jetson boards, tensorrt_rtx for other GPUs. On boards, the board's
    own trtexec builds and measures; a job goes on when the connection drops, and the same command joins it or brings
    what it made. Ctrl-C stops it there too.

    Examples:
      edgekd build net.onnx --target rtx-4090 --backend tensorrt_rtx -o engine
      edgekd build net.onnx --device nvidia@192.168.1.20 --device nvidia@192.168.1.21 -o engines
      edgekd build net.onnx --targets my-nx,my-nano -o engines
      edgekd build net.fp16.onnx --device nvidia@192.168.1.20 --dla 0 -o engines
      edgekd build ocr.onnx --dim x:2=48 --dim x:3=320 --target rtx-4090 -o engine
    """
    from edgekd.cli.onnx_file import onnx_model_from_file, with_dims
    from edgekd.engine import BuildOptions
    from edgekd.engine.portability import Portability, hardware_named
    from edgekd.targets import get_target

    portability = Portability(version_compatible, hardware_named(hardware))
    with with_dims(model, dim or ()) as fixed:
        source = onnx_model_from_file(fixed)
        size = batch or source.batch or 1
        if device or targets:
            from edgekd.boards import BoardOptions
            from edgekd.cli.board_build import BoardsAsked, outcome_on_boards

            asked = BoardsAsked(tuple(device or ()), targets, target, backend, known_hosts, identity)
            on_board = BoardOptions(
                batch=size,
                workspace_mb=workspace_mb,
                optimization_level=optimization_level,
                portability=portability,
                dla_core=dla,
                gpu_fallback=gpu_fallback,
            )
            how = {"is_forced": force, "is_dry_run": dry_run, "is_quiet": context.obj.is_quiet}
            return outcome_on_boards(asked, source, output, on_board, **how)
        if dla is not None or not gpu_fallback:
            raise ConfigError("--dla is an accelerator of a board: name the board with --device or --targets")
        with progress(is_quiet=context.obj.is_quiet) as listen:
            options = BuildOptions(
                target=get_target(target or "cpu"),
                batch=size,
                threads=threads,
                workspace_mb=workspace_mb,
                optimization_level=optimization_level,
                portability=portability,
                listener=listen,
            )
            return _built_here(source, output, backend, options, is_forced=force, is_dry_run=dry_run)


def _built_here(
    source: OnnxModel, output: Path, backend: str | None, options: BuildOptions, *, is_forced: bool, is_dry_run: bool
) -> Outcome:
    from edgekd.core.artifacts import to_json
    from edgekd.engine import BACKENDS
    from edgekd.targets import describe

    place = options.target
    name = backend or _BACKENDS[place.kind]
    builder = BACKENDS[name]
    require_free(output, is_forced=is_forced)
    if refusal := builder.available():
        raise PreconditionError(f"{name} cannot be used here: {refusal}")
    if is_dry_run:
        return planned(output, f"an engine of {Path(source.file.path).name} by {name} for {describe(place)}")
    engine = builder.build(source, output, options)
    built_for = _built_for(place, engine.target)
    text = f"{engine.file.path}: {engine.precision} by {name} for {built_for}, {engine.file.size_bytes:,} bytes"
    text = "\n".join([text, *options.portability.advice])
    return Outcome({"engine": to_json(engine)}, text)


def _built_for(device: Target, architecture: str) -> str:
    return device.name if device.name == architecture else f"{device.name} ({architecture})"
