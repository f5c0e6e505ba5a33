"""Read the public latency tables as points: one measured latency of one known graph on one board."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekd.latency.layer_tables import graphs_from_csv
from edgekd.latency.layers import LayerGraph

TRTUTILS = "trtutils_yolo_sweep.csv.gz"
ULTRALYTICS = "jetson_ultralytics_trt.csv.gz"
JETSON_OTHER = "jetson_other.csv.gz"
GPU_OTHER = "gpu_trt_other.csv.gz"
PADDLECLAS = "gpu_trt_paddleclas.csv.gz"
LAYERS = "fused_layers.csv.gz"

DEVKIT = "agx-orin-devkit-32gb"
"""A board of the tables that is no target: full GPU, 32 GB, clocks unknown. It has the hardware of the 64 GB module."""

_DEVICES: Mapping[str, str] = {
    "Jetson AGX Orin 64GB": "jetson-agx-orin-64gb",
    "Jetson AGX Orin 32GB (devkit?)": DEVKIT,
    "Jetson Orin Nano 8GB": "jetson-orin-nano-8gb",
    "Jetson Orin NX 16GB": "jetson-orin-nx-16gb",
    "Jetson Xavier NX 8GB": "jetson-xavier-nx",
    "Jetson AGX Xavier": "jetson-agx-xavier-32gb",
    "Jetson AGX Thor": "jetson-agx-thor",
    "Jetson Nano 4GB": "jetson-nano",
    "DGX Spark (GB10)": "dgx-spark",
    "RTX 3080 Ti": "rtx-3080-ti",
    "RTX 3090": "rtx-3090",
    "TITAN RTX": "titan-rtx",
    "T4": "t4",
}
_MODEL_NAMES: Mapping[str, str] = {
    "EfficientViT-B1": "efficientvit_b1",
    "EfficientViT-B2": "efficientvit_b2",
    "EfficientViT-B3": "efficientvit_b3",
}
_MEASURES: Mapping[str, tuple[str, str]] = {
    TRTUTILS: ("engine execute only", "TensorRT"),
    ULTRALYTICS: ("engine inference", "TensorRT"),
    JETSON_OTHER: ("latency", "TensorRT"),
    GPU_OTHER: ("engine inference", "TensorRT"),
    PADDLECLAS: ("mean of 2000 runs", "Paddle Inference + TensorRT"),
}


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        board: Target device name, or `DEVKIT`.
        model: Model name in the layer table.
        resolution: Input height.
        batch: Batch size.
        precision: `fp32`, `fp16` or `int8`.
        latency_ms: Median where the source gives one, else mean.
        max_over_median: Slowest run over the median, where the source gives it.
        runtime: Software as the source names it.
        table: File it came from.
    """

    board: str
    model: str
    resolution: int
    batch: int
    precision: str
    latency_ms: float
    max_over_median: float | None
    runtime: str
    table: str

    @property
    def device(self) -> str:
        """Target whose hardware the board has."""
        return "jetson-agx-orin-64gb" if self.board == DEVKIT else self.board

    @property
    def family(self) -> str:
        """Model name without its size, good enough to group relatives."""
        stem = self.model.lower().replace("-", "_").split("_")[0]
        letters = stem.rstrip("0123456789") if not stem.startswith("yolo") else stem[:-1]
        return letters.rstrip("0123456789bx") if letters.startswith("efficientnet") else letters


def read_graphs(data: Path) -> dict[tuple[str, int], LayerGraph]:
    """Read the graphs that the tables refer to."""
    return graphs_from_csv(data / LAYERS)


def read_points(data: Path, table: str, graphs: Mapping[tuple[str, int], LayerGraph]) -> list[Point]:
    """Read the rows of one table that have a graph, a known board, and a measurement of the engine alone.

    Args:
        data: Folder of the tables.
        table: File name.
        graphs: Known graphs by model and resolution.

    Returns:
        Points in the order of the file.
    """
    return list(_points(data / table, graphs))


def _points(path: Path, graphs: Mapping[tuple[str, int], LayerGraph]) -> Iterator[Point]:
    measure, runtime = _MEASURES[path.name]
    reader = csv.DictReader(io.StringIO(gzip.decompress(path.read_bytes()).decode("utf-8")))
    for row in reader:
        model, height = _MODEL_NAMES.get(row["model"], row["model"]), row["resolution"].split("x")[0]
        latency = row.get("median_ms") or row.get("latency_ms")
        is_wanted = row["measure"].startswith(measure) and row["runtime"].startswith(runtime)
        if not (is_wanted and latency and height.isdigit() and row["batch"].isdigit() and row["device"] in _DEVICES):
            continue
        if (model, int(height)) not in graphs or row["precision"] not in ("fp32", "fp16", "int8"):
            continue
        slowest = row.get("max_ms")
        yield Point(
            board=_DEVICES[row["device"]],
            model=model,
            resolution=int(height),
            batch=int(row["batch"]),
            precision=row["precision"],
            latency_ms=float(latency),
            max_over_median=float(slowest) / float(latency) if slowest else None,
            runtime=row["runtime"],
            table=path.name,
        )
