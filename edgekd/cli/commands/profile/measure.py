"""`edgekd profile measure`: measure an ONNX file here, or predict it for another target, and judge it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.outcome import Outcome
from edgekd.cli.profile_text import judged
from edgekd.core.errors import ConfigError

if TYPE_CHECKING:
    from edgekd.core.artifacts import LatencyReport, OnnxModel
    from edgekd.targets import Target


def measure(
    model: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="Any ONNX file with one input, of pictures or tokens.")
    ],
    *,
    budget: Annotated[
        str | None, typer.Option(help='Limits to hold, for example "p99<8ms" or "p50<2ms, p99<4ms".')
    ] = None,
    target: Annotated[
        str, typer.Option(help="cpu is measured here; any other target is predicted, not measured.")
    ] = "cpu",
    batch: Annotated[int | None, typer.Option(min=1, help="Batch size; by default the model's own, or 1.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    shape: Annotated[str | None, typer.Option(help="C,H,W where the model leaves image sizes open.")] = None,
    min_samples: Annotated[int, typer.Option(min=6, help="Fewest runs to time.")] = 300,
    min_seconds: Annotated[float, typer.Option(min=0.0, help="Shortest time to measure.")] = 1.0,
    warmup: Annotated[
        int | None, typer.Option(min=0, help="Runs before the first sample; by default until latency is steady.")
    ] = None,
    soak: Annotated[
        float, typer.Option(min=0.0, help="Seconds to run before the first sample, to reach working temperature.")
    ] = 0.0,
    layers: Annotated[bool, typer.Option("--layers", help="Time every layer too, in runs of their own.")] = False,
    energy: Annotated[
        bool, typer.Option("--energy", help="Energy of an inference, from the INA power rails of a Jetson.")
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write a Chrome trace of every run (and layer) to this file.")
    ] = None,
) -> Outcome:
    """Measure the latency of a network on this CPU and hold it against a budget.

    Ends with 3 when the budget is missed. With another target than cpu the latency is predicted, and says so. Keep the
    --json document to compare it later (edgekd profile compare).

    Examples:
      edgekd profile measure net.onnx --budget "p99<8ms" --threads 1 --json
      edgekd profile measure net.onnx --layers --trace net.trace.json
    """
    from edgekd.core.atomic import write_json
    from edgekd.core.budget import LATENCY_METRICS, parse_budget
    from edgekd.profile import Profile, ProfileOptions, chrome_trace, profile_here, require_rails
    from edgekd.targets import get_target

    limits = parse_budget(budget) if budget is not None else None
    device = get_target(target)
    if limits is not None:
        limits.require_known((*LATENCY_METRICS, *(["energy"] if energy else [])), device.name)
    with tempfile.TemporaryDirectory(prefix="edgekd-profile-") as scratch:
        onnx = _readable(model, shape, Path(scratch))
        size = batch or onnx.batch or 1
        if device.kind == "cpu":
            options = ProfileOptions(
                batch=size,
                threads=threads,
                warmup=warmup,
                soak_s=soak,
                min_samples=min_samples,
                min_seconds=min_seconds,
                has_layers=layers,
                rails=require_rails() if energy else (),
            )
            found = profile_here(onnx, Path(scratch) / "engine", device, options)
        else:
            _require_a_measurement(device, {"--layers": layers, "--energy": energy, "--trace": trace is not None})
            found = Profile(str(model), _predicted(onnx, device, size))
    found = dataclasses.replace(found, model=str(model))
    if trace is not None:
        write_json(trace, chrome_trace(found))
    return judged(found, limits)


def _readable(model: Path, shape: str | None, scratch: Path) -> OnnxModel:
    from edgekd.cli.onnx_file import onnx_model_from_file, with_image_shape

    if shape is None:
        return onnx_model_from_file(model)
    return onnx_model_from_file(with_image_shape(model, _parsed_shape(shape), scratch / "fixed.onnx"))


def _parsed_shape(text: str) -> tuple[int, int, int]:
    sizes = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if len(sizes) != 3 or min(sizes) < 1:
        raise ConfigError(f"--shape {text!r}: write three sizes as C,H,W, for example 3,224,224")
    return (sizes[0], sizes[1], sizes[2])


def _require_a_measurement(device: Target, asked: Mapping[str, bool]) -> None:
    options = [name for name, is_asked in asked.items() if is_asked]
    if options:
        raise ConfigError(
            f"{' and '.join(options)}: latency on {device.name} is predicted here, there is nothing to take them from; "
            "import what the board measured (edgekd profile import)"
        )


def _predicted(onnx: OnnxModel, device: Target, batch: int) -> LatencyReport:
    from edgekd.latency import graph_from_onnx, predict

    return predict(graph_from_onnx(Path(onnx.file.path), batch), device, onnx.precision)
