"""`edgekd latency`: predict networks, explain a prediction layer by layer, learn a board from its own measurements."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.latency_text import explanation_text, fit_text, model_name, predictions_text
from edgekd.cli.outcome import Outcome, delivering
from edgekd.cli.writing import DryRun, Force, planned, require_free
from edgekd.core.errors import ConfigError

if TYPE_CHECKING:
    from edgekd.core.artifacts import LatencyReport, Precision
    from edgekd.latency import LayerGraph, LayerTime
    from edgekd.latency.board_fit import BoardFit
    from edgekd.targets import Target

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Latency as predicted, never as measured.")


class PrecisionName(str, Enum):
    """What `--precision` takes."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


@dataclasses.dataclass(frozen=True)
class _Source:
    model: Path | None
    layers: Path | None
    name: str | None
    size: int | None
    batch: int
    dims: tuple[str, ...]


_Model = Annotated[Path | None, typer.Argument(exists=True, dir_okay=False, help="An ONNX file.")]
_Layers = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, help="A table of fused layers (CSV, plain or .gz) instead of an ONNX file."
    ),
]
_Name = Annotated[str | None, typer.Option("--model", help="Only this model of the table; by default all.")]
_Size = Annotated[int | None, typer.Option(min=1, help="Only this input size of the table.")]
_TargetName = Annotated[str, typer.Option(help="Device; `edgekd targets list`. NAME@MODE for a power mode.")]
_Precision = Annotated[
    PrecisionName | None, typer.Option(help="Precision of the engine; by default int8 for a Q/DQ model, else fp16.")
]
_Batch = Annotated[int, typer.Option(min=1, help="Batch size where the file leaves it open.")]
_Dims = Annotated[
    list[str] | None, typer.Option("--dim", help="Value of an open dimension, as height=224 or input:2=224.")
]
_PowerMode = Annotated[str | None, typer.Option(help="Power mode, as nvpmodel names it.")]
_Parameters = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="A board file of `edgekd latency fit` to predict with.")
]


def predict_latency(
    model: _Model = None,
    *,
    target: _TargetName,
    layers: _Layers = None,
    name: _Name = None,
    size: _Size = None,
    precision: _Precision = None,
    batch: _Batch = 1,
    dim: _Dims = None,
    power_mode: _PowerMode = None,
    parameters: _Parameters = None,
) -> Outcome:
    """Predict the latency of a network on a target, with its 90 % interval and what bounds it. Nothing is measured.

    With --json the document is a list with one row a network: model, size, target, precision, p50_ms, low_ms, high_ms,
    bound.

    Examples:
      edgekd latency predict student.onnx --target jetson-orin
      edgekd latency predict net.onnx --target jetson-orin --power-mode 30W --dim height=480 --dim width=640
      edgekd latency predict --layers fused_layers.csv.gz --model yolov8n --size 640 --target jetson-orin --json
    """
    from edgekd.latency import predict_many

    device = _target(target, power_mode, parameters)
    source = _Source(model, layers, name, size, batch, tuple(dim or ()))
    graphs = _graphs(source)
    kind = _precision(source, precision)
    reports = predict_many(graphs, device, kind)
    rows = [_row(graph, report) for graph, report in zip(graphs, reports, strict=True)]
    return Outcome(rows, predictions_text(device, kind, graphs, reports))


def show_latency(
    model: _Model = None,
    *,
    target: _TargetName,
    layers: _Layers = None,
    name: _Name = None,
    size: _Size = None,
    precision: _Precision = None,
    batch: _Batch = 1,
    dim: _Dims = None,
    power_mode: _PowerMode = None,
    parameters: _Parameters = None,
    top: Annotated[int | None, typer.Option(min=1, help="Only the slowest layers.")] = None,
) -> Outcome:
    """Explain a prediction layer by layer: time, what bounds it, its share. Nothing is measured.

    Example:
      edgekd latency show student.onnx --target jetson-orin --top 10
    """
    from edgekd.latency import explain, predict

    device = _target(target, power_mode, parameters)
    source = _Source(model, layers, name, size, batch, tuple(dim or ()))
    graphs = _graphs(source)
    if len(graphs) != 1:
        raise ConfigError(f"one network is explained at a time, the table has {len(graphs)}: name it (--model, --size)")
    kind = _precision(source, precision)
    report, times = predict(graphs[0], device, kind), explain(graphs[0], device, kind)
    rows = [_layer(index, time, report.p50_ms) for index, time in enumerate(times)]
    document = {
        "model": model_name(graphs[0]),
        "size": graphs[0].resolution,
        "target": report.target,
        "precision": report.precision,
        "p50_ms": report.p50_ms,
        "low_ms": report.low_ms,
        "high_ms": report.high_ms,
        "layers": rows,
        "conditions": dict(report.conditions),
    }
    return Outcome(document, explanation_text(device, graphs[0], report, rows, top))


def fit_latency(
    *,
    measured: Annotated[
        Path,
        typer.Option(
            "--from", exists=True, help="Folder with runs or `edgekd profile --json` documents, or a CSV model,p50_ms."
        ),
    ],
    target: _TargetName,
    out: Annotated[
        Path | None, typer.Option(help="Board file to write; by default among your boards, as TARGET-fitted.")
    ] = None,
    power_mode: _PowerMode = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> Outcome:
    """Learn a board from your own measurements of five or more networks; ten say most of what there is to learn.

    Starts from the parameters of its generation. The board file serves every command: --target FILE, --target NAME when
    it is among your boards, or --parameters FILE.

    Examples:
      edgekd latency fit --from runs/ --target jetson-orin
      edgekd latency fit --from measured.csv --target jetson-orin --power-mode 30W --out my-orin.yaml
    """
    from edgekd.latency.board_fit import MeasuredNetwork, fit_board
    from edgekd.latency.fusion import graph_from_onnx
    from edgekd.latency.measurements import read_measurements
    from edgekd.targets import boards_folder
    from edgekd.targets.board import document_of, save_board

    device = _target(target, power_mode, None)
    path = out or boards_folder() / f"{device.device}-fitted.yaml"
    require_free(path, is_forced=force)
    networks = [
        MeasuredNetwork(item.model.stem, graph_from_onnx(item.model, item.batch), item.precision, item.p50_ms)
        for item in read_measurements(measured, device)
    ]
    result = fit_board(networks, device)
    document = document_of(device, path.stem, latency=result.fit.model_dump(mode="json"))
    if dry_run:
        return planned(path, f"the board {path.stem}, fitted on {len(networks)} measurements")
    save_board(path, document)
    return Outcome(_fit_document(result, device, path), fit_text(result, device, path))


def _target(name: str, power_mode: str | None, parameters: Path | None) -> Target:
    from edgekd.targets import get_target, load_target

    target = get_target(f"{name}@{power_mode}" if power_mode else name)
    if parameters is None:
        return target
    board = load_target(parameters)
    if board.latency is None:
        raise ConfigError(f"{parameters}: holds no latency parameters; make some with `edgekd latency fit`")
    if board.generation != target.generation:
        raise ConfigError(
            f"{parameters}: its parameters were fitted on a board of generation {board.generation}, {target.name} is "
            f"{target.generation}: they say nothing of it. Leave --parameters out, or fit that board"
        )
    return dataclasses.replace(target, latency=board.latency)


def _graphs(source: _Source) -> list[LayerGraph]:
    if source.layers is not None and source.model is None:
        return _graphs_of_table(source, source.layers)
    if source.model is None or source.layers is not None:
        raise ConfigError("name an ONNX file, or a table of layers with --layers")
    if source.name is not None or source.size is not None:
        raise ConfigError("--model and --size choose from a table; they need --layers")
    from edgekd.latency import graph_from_onnx
    from edgekd.latency.dims import parse_dims

    return [graph_from_onnx(source.model, source.batch, dims=parse_dims(source.dims))]


def _graphs_of_table(source: _Source, table: Path) -> list[LayerGraph]:
    from edgekd.latency import graphs_from_csv, with_batch

    if source.dims:
        raise ConfigError("--dim fixes dimensions of an ONNX file; a table of layers has none open")
    graphs = graphs_from_csv(table)
    wanted = [
        graph
        for (model, resolution), graph in graphs.items()
        if source.name in (None, model) and source.size in (None, resolution)
    ]
    if not wanted:
        raise ConfigError(f"{table} has no {_asked(source)}; it has {_listed(graphs, source.name)}")
    return [with_batch(graph, source.batch) for graph in wanted]


def _asked(source: _Source) -> str:
    return f"model {source.name or '(any)'}" + (f" of size {source.size}" if source.size is not None else "")


def _listed(graphs: Iterable[tuple[str, int]], name: str | None) -> str:
    sizes = sorted({size for model, size in graphs if model == name})
    if sizes:
        return f"{name} of size {', '.join(map(str, sizes))}"
    return ", ".join(sorted({model for model, _ in graphs})[:40]) or "no graph"


def _precision(source: _Source, asked: PrecisionName | None) -> Precision:
    if asked is not None:
        return asked.value
    if source.model is None:
        return "fp16"
    from edgekd.cli.onnx_file import read_onnx

    is_quantised = any(node.op_type == "QuantizeLinear" for node in read_onnx(source.model).graph.node)
    return "int8" if is_quantised else "fp16"


def _row(graph: LayerGraph, report: LatencyReport) -> dict[str, Any]:
    return {
        "model": model_name(graph),
        "size": graph.resolution,
        "target": report.target,
        "precision": report.precision,
        "p50_ms": report.p50_ms,
        "low_ms": report.low_ms,
        "high_ms": report.high_ms,
        "bound": report.conditions["bound"],
    }


def _layer(index: int, time: LayerTime, total_ms: float) -> dict[str, Any]:
    return {
        "index": index,
        "name": time.layer.name,
        "kind": time.layer.kind,
        "time_ms": time.time_ms,
        "share": time.time_ms / total_ms,
        "bound": time.bound,
        "compute_ms": time.compute_ms,
        "traffic_ms": time.traffic_ms,
        "floor_ms": time.floor_ms,
        "macs": time.layer.macs,
    }


def _fit_document(result: BoardFit, device: Target, path: Path) -> dict[str, Any]:
    return {
        "target": device.name,
        "file": str(path),
        "networks": [dataclasses.asdict(row) for row in result.networks],
        "before_mape": result.before_mape,
        "held_out_mape": result.held_out_mape,
        "before_half_width_log": result.before_half_width_log,
        "half_width_log": result.half_width_log,
        "kernel": result.fit.parameters.kernel.model_dump(),
    }


app.command("predict")(delivering(predict_latency))
app.command("show")(delivering(show_latency))
app.command("fit")(delivering(fit_latency))
