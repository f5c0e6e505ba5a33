"""`edgekd profile`: measure an ONNX file here, or predict it for another target, and hold it against a budget."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.outcome import Outcome
from edgekd.cli.table import format_table
from edgekd.core.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from edgekd.core.artifacts import LatencyReport, OnnxModel
    from edgekd.core.budget import Budget
    from edgekd.profile import GateVerdict
    from edgekd.targets import Target


@dataclasses.dataclass(frozen=True)
class _Sampling:
    batch: int
    threads: int
    min_samples: int
    min_seconds: float


def profile(
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
) -> Outcome:
    """Measure the latency of a network on this CPU and hold it against a budget.

    Ends with 3 when the budget is missed. With another target than cpu the latency is predicted, and says so.

    Example:
      edgekd profile net.onnx --budget "p99<8ms" --threads 1 --json
    """
    from edgekd.core.budget import LATENCY_METRICS, parse_budget
    from edgekd.targets import get_target

    limits = parse_budget(budget) if budget is not None else None
    device = get_target(target)
    if limits is not None:
        limits.require_known(LATENCY_METRICS, device.name)
    with tempfile.TemporaryDirectory(prefix="edgekd-profile-") as scratch:
        onnx = _readable(model, shape, Path(scratch))
        sampling = _Sampling(batch or onnx.batch or 1, threads, min_samples, min_seconds)
        if device.kind == "cpu":
            report = _measured(onnx, device, sampling, Path(scratch))
        else:
            report = _predicted(onnx, device, sampling.batch)
    return _judged(report, limits, model)


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


def _measured(onnx: OnnxModel, device: Target, sampling: _Sampling, scratch: Path) -> LatencyReport:
    from edgekd.engine import BACKENDS, BuildOptions
    from edgekd.export import random_inputs
    from edgekd.profile import measure

    backend = BACKENDS["onnxruntime"]
    options = BuildOptions(target=device, batch=sampling.batch, threads=sampling.threads)
    engine = backend.build(onnx, scratch / "engine", options)
    inputs = random_inputs(onnx, sampling.batch, seed=0)
    with backend.open(engine) as runner:
        return measure(
            runner,
            inputs,
            target=device.name,
            precision=onnx.precision,
            min_samples=sampling.min_samples,
            min_seconds=sampling.min_seconds,
        )


def _predicted(onnx: OnnxModel, device: Target, batch: int) -> LatencyReport:
    from edgekd.latency import graph_from_onnx, predict

    return predict(graph_from_onnx(Path(onnx.file.path), batch), device, onnx.precision)


def _judged(report: LatencyReport, limits: Budget | None, model: Path) -> Outcome:
    from edgekd.core.artifacts import to_json
    from edgekd.profile import verdict

    judgement = verdict(report, limits) if limits is not None else None
    is_missed = judgement is not None and not judgement.is_kept
    document = {
        "model": str(model),
        "latency": to_json(report),
        "budget": str(limits) if limits is not None else None,
        "verdict": dataclasses.asdict(judgement) if judgement is not None else None,
    }
    lines = [_figures(report, model), *(f"warning: {line}" for line in report.conditions.get("warnings", ()))]
    if limits is not None and judgement is not None:
        lines += _verdict_lines(str(limits), judgement)
    return Outcome(document, "\n".join(lines), ExitCode.GATE_MISSED if is_missed else ExitCode.DONE)


def _figures(report: LatencyReport, model: Path) -> str:
    conditions = report.conditions
    label = "measured" if report.kind == "measured" else "predicted, not measured"
    interval = f"{report.low_ms:.3g}..{report.high_ms:.3g}"
    row = (report.precision, f"{report.p50_ms:.4g}", interval, f"{report.p99_ms:.4g}")
    known = [
        f"{name} {conditions[name]}"
        for name in ("batch", "threads", "samples", "warmup", "provider")
        if name in conditions
    ]
    table = format_table(("precision", "p50 ms", "p50 interval", "p99 ms"), [row])
    return f"{model} on {report.target}, {label} by {report.backend}\n{table}\n{', '.join(known)}".rstrip()


def _verdict_lines(budget: str, judgement: GateVerdict) -> list[str]:
    if judgement.is_kept:
        return [f"budget {budget}: kept ({judgement.kind})"]
    kept = [f"  {item.clause}: kept" for item in judgement.clauses if item.is_kept]
    return [f"budget {budget}: MISSED", *(f"  {miss}" for miss in judgement.misses), *kept]
