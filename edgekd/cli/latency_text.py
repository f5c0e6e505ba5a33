"""Predictions of latency as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.cli.table import format_table

if TYPE_CHECKING:
    from edgekd.core.artifacts import LatencyReport
    from edgekd.latency import LayerGraph
    from edgekd.latency.board_fit import BoardFit
    from edgekd.targets import Target


def model_name(graph: LayerGraph) -> str:
    """Return the name without the size that tables of layers add."""
    return graph.name.removesuffix(f"@{graph.resolution}")


def predictions_text(
    device: Target, precision: str, graphs: Sequence[LayerGraph], reports: Sequence[LatencyReport]
) -> str:
    """Return a table of predictions, and for one network what was assumed."""
    from edgekd.latency.launch_floor import launch_floor_ms
    from edgekd.targets import describe

    header = ("model", "size", "p50 ms", "90 % interval", "bound", "launch floor ms", "GMACs", "kernels")
    rows = [
        (
            model_name(graph),
            str(graph.resolution or "-"),
            f"{report.p50_ms:.4g}",
            f"{report.low_ms:.4g}..{report.high_ms:.4g}",
            str(report.conditions["bound"]),
            f"{launch_floor_ms(device, len(graph.layers)):.3g}",
            f"{graph.macs / 1e9:.3g}",
            str(len(graph.layers)),
        )
        for graph, report in zip(graphs, reports, strict=True)
    ]
    batches = "".join(f"batch {size}, " for size in {graph.batch for graph in graphs} - {1})
    lines = [describe(device), f"{precision}, {batches}predicted, not measured", "", format_table(header, rows)]
    assumed = dict.fromkeys(line for report in reports for line in report.conditions["assumptions"])
    lines += ["", *(f"assumed: {line}" for line in assumed)] if assumed and len(reports) == 1 else []
    return "\n".join(lines)


def explanation_text(
    device: Target, graph: LayerGraph, report: LatencyReport, rows: Sequence[Mapping[str, Any]], top: int | None
) -> str:
    """Return a prediction layer by layer; `top` keeps the slowest."""
    from edgekd.targets import describe

    shown = sorted(rows, key=lambda row: -row["time_ms"])[:top] if top else rows
    table = format_table(
        ("#", "layer", "kind", "ms", "share", "bound", "compute", "traffic", "floor"),
        [
            (
                str(row["index"]),
                row["name"][-48:],
                row["kind"],
                f"{row['time_ms']:.4f}",
                f"{row['share']:.1%}",
                row["bound"],
                f"{row['compute_ms']:.4f}",
                f"{row['traffic_ms']:.4f}",
                f"{row['floor_ms']:.4f}",
            )
            for row in shown
        ],
    )
    conditions = report.conditions
    shares = ", ".join(f"{name} {share:.0%}" for name, share in conditions["share_by_bound"].items())
    lines = [
        describe(device),
        f"{model_name(graph)}, {report.precision}, batch {graph.batch}, predicted, not measured",
        f"p50 {report.p50_ms:.4g} ms, 90 % interval {report.low_ms:.4g}..{report.high_ms:.4g} ms",
        "",
        table,
        "",
        f"besides the layers {conditions['constant_ms']:.3g} ms; time by bound: {shares}",
        f"parameters: {conditions['parameters']}",
        *(f"assumed: {line}" for line in conditions["assumptions"]),
    ]
    return "\n".join(lines)


def fit_text(result: BoardFit, device: Target, path: Path) -> str:
    """Return what a fit changed, network by network, and how to use it."""
    from edgekd.targets import describe

    rows = [
        (
            row.name,
            f"{row.measured_ms:.4g}",
            f"{row.before_ms:.4g} ({row.before_ms / row.measured_ms - 1:+.1%})",
            f"{row.held_out_ms:.4g} ({row.held_out_ms / row.measured_ms - 1:+.1%})",
        )
        for row in result.networks
    ]
    return "\n".join(
        [
            describe(device),
            "",
            format_table(("network", "measured ms", "predicted before", "predicted from the others"), rows),
            "",
            f"mean error {result.before_mape:.1%} before, {result.held_out_mape:.1%} now, each network from the others",
            f"90 % interval of a network like these: {_interval(result.before_half_width_log)} before, "
            f"{_interval(result.half_width_log)} now",
            f"{path}",
            f"use it: --target {path} or --parameters {path}",
        ]
    )


def _interval(half_width_log: float) -> str:
    return f"-{1 - math.exp(-half_width_log):.0%}..+{math.exp(half_width_log) - 1:.0%}"
