"""`edgekd profile import`: what trtexec and tegrastats wrote on a board, as one profile."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.outcome import Outcome
from edgekd.cli.profile_text import judged
from edgekd.core.errors import ConfigError


class PrecisionName(str, Enum):
    """What `--precision` takes."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


def import_files(
    exports: Annotated[
        list[Path],
        typer.Argument(
            exists=True, dir_okay=False, help="Files of trtexec --exportTimes, --exportProfile, --exportLayerInfo."
        ),
    ],
    *,
    target: Annotated[str, typer.Option(help="The board that was measured.")],
    model: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The ONNX file of the engine.")],
    precision: Annotated[
        PrecisionName | None, typer.Option(help="Precision of the engine; by default that of the ONNX file.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Batch size; by default the model's own, or 1.")] = None,
    warmup_ms: Annotated[float, typer.Option(min=0.0, help="What trtexec --warmUp was (8.x keeps it).")] = 200.0,
    tegrastats: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Log of tegrastats while trtexec ran.")
    ] = None,
    idle_tegrastats: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Log of tegrastats of the idle board.")
    ] = None,
    interval_ms: Annotated[
        float | None, typer.Option(min=1.0, help="What tegrastats --interval was; by default what its stamps say.")
    ] = None,
    budget: Annotated[str | None, typer.Option(help='Limits to hold, for example "p99<8ms, energy<80mJ".')] = None,
    trace: Annotated[Path | None, typer.Option(dir_okay=False, help="Write a Chrome trace to this file.")] = None,
) -> Outcome:
    """Make a profile of what a board measured, to keep, compare, and learn the board from (edgekd latency fit).

    Which file is which is seen from its content; files of TensorRT 8.x, 10.x and 11.x are read. Ends with 3 when a
    budget is missed.

    Example:
      edgekd profile import times.json profile.json layers.json --target jetson-orin --model net.onnx --json
    """
    from edgekd.cli.onnx_file import onnx_model_from_file, read_onnx
    from edgekd.core.atomic import write_json
    from edgekd.core.budget import parse_budget
    from edgekd.profile import BoardFiles, chrome_trace, profile_from_board
    from edgekd.targets import get_target

    device = get_target(target)
    if device.kind == "cpu":
        raise ConfigError("target cpu is measured here (edgekd profile measure); import is for boards")
    limits = parse_budget(budget) if budget is not None else None
    if idle_tegrastats is not None and tegrastats is None:
        raise ConfigError("--idle-tegrastats is subtracted from --tegrastats: pass both")
    onnx = onnx_model_from_file(model)
    found = profile_from_board(
        BoardFiles(tuple(exports), tegrastats, idle_tegrastats, interval_ms, warmup_ms),
        model=str(model),
        target=device.name,
        precision=onnx.precision if precision is None else precision.value,
        batch=batch or onnx.batch or 1,
        known_nodes={node.name for node in read_onnx(model).graph.node},
    )
    if trace is not None:
        write_json(trace, chrome_trace(found))
    return judged(found, limits)
