"""Reads what trtexec of TensorRT 8.x, 10.x and 11.x exports: times, layer profile, layer information.

Times (`--exportTimes`) are a list with one object an inference; 8.x adds `endToEndMs` and writes the warm-up too, newer
ones do neither. A profile (`--exportProfile`) is a list that starts with `{"count": runs}`; 8.x lacks `medianMs`. Layer
information (`--exportLayerInfo`) is an object with `Layers`, objects or plain strings, and with `Bindings` up to 10.x
or `I/O Tensors` from 11.x.

Reference: NVIDIA/TensorRT, samples/common/sampleReporting.cpp.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.core.errors import DataError
from edgekd.engine.tensorrt.inspector import nodes_of_metadata

DEFAULT_WARMUP_MS = 200.0
"""What trtexec warms up for when it is not told."""

_PARTS = ("Enq", "H2d", "Compute", "D2h")
_DURATIONS = ("h2dMs", "computeMs", "d2hMs", "latencyMs")


@dataclass(frozen=True)
class Inference:
    """One inference, milliseconds of trtexec's clock.

    Attributes:
        enqueue: When the host started and ended to enqueue it.
        h2d: Start and end of the copy in.
        compute: Start and end on the GPU.
        d2h: Start and end of the copy out.
        latency_ms: Copy in, compute and copy out together; waiting between them takes no part.
    """

    enqueue: tuple[float, float]
    h2d: tuple[float, float]
    compute: tuple[float, float]
    d2h: tuple[float, float]
    latency_ms: float


@dataclass(frozen=True)
class Times:
    """What `--exportTimes` wrote.

    Attributes:
        inferences: Every inference after the warm-up, in order.
        dropped: Inferences of the warm-up that were in the file (8.x).
    """

    inferences: tuple[Inference, ...]
    dropped: int


@dataclass(frozen=True)
class ProfiledLayer:
    """One layer of `--exportProfile`.

    Attributes:
        name: Its name.
        average_ms: Mean time of a run.
        median_ms: Median; None in files of 8.x.
        share: Of the time of all layers, 0..1.
    """

    name: str
    average_ms: float
    median_ms: float | None
    share: float


@dataclass(frozen=True)
class LayerProfile:
    """What `--exportProfile` wrote.

    Attributes:
        runs: Inferences profiled.
        layers: Every layer, in order of execution.
    """

    runs: int
    layers: tuple[ProfiledLayer, ...]


@dataclass(frozen=True)
class EngineLayer:
    """One layer of `--exportLayerInfo`.

    Attributes:
        name: Its name.
        kind: Its type; empty without detailed verbosity.
        onnx_nodes: ONNX nodes it was made from; empty where the file does not tell.
    """

    name: str
    kind: str
    onnx_nodes: tuple[str, ...]


@dataclass(frozen=True)
class LayerInfo:
    """What `--exportLayerInfo` wrote.

    Attributes:
        layers: Every layer.
        tensors: Names of inputs and outputs.
    """

    layers: tuple[EngineLayer, ...]
    tensors: tuple[str, ...]


def read_export(path: Path, *, warmup_ms: float = DEFAULT_WARMUP_MS) -> Times | LayerProfile | LayerInfo:
    """Read one exported file and say by its type what it is.

    Args:
        path: The file.
        warmup_ms: What `--warmUp` was; inferences before it are dropped from files of 8.x.

    Raises:
        DataError: It is missing, no JSON, or none of the three; a wrong field is named.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    return export_from_text(content, str(path), warmup_ms=warmup_ms)


def export_from_text(
    text: str, origin: str, *, warmup_ms: float = DEFAULT_WARMUP_MS
) -> Times | LayerProfile | LayerInfo:
    """Read the content of one exported file; see `read_export`."""
    try:
        document = json.loads(text, strict=False)  # metadata may hold bare control characters
    except (ValueError, RecursionError) as error:
        raise DataError(f"{origin} is not JSON as trtexec writes it: {error}") from error
    if isinstance(document, Mapping):
        return _layer_info(document, origin)
    if not isinstance(document, list) or not document:
        raise DataError(f"{origin}: trtexec writes a list or an object with Layers, this is neither, or empty")
    if isinstance(document[0], Mapping) and "count" in document[0]:
        return _layer_profile(document, origin)
    return _times(document, origin, warmup_ms)


def _times(rows: Sequence[Any], origin: str, warmup_ms: float) -> Times:
    found, dropped = [], 0
    for index, row in enumerate(rows):
        where = f"{origin}: inference {index}"
        pairs = [(_number(row, f"start{part}Ms", where), _number(row, f"end{part}Ms", where)) for part in _PARTS]
        durations = {name: _number(row, name, where) for name in _DURATIONS}
        if not durations["latencyMs"] > 0:
            raise DataError(f"{where}: 'latencyMs' is {durations['latencyMs']:g}, it must be above zero")
        if "endToEndMs" in row and pairs[2][0] < warmup_ms:
            dropped += 1
            continue
        found.append(Inference(pairs[0], pairs[1], pairs[2], pairs[3], durations["latencyMs"]))
    if not found:
        raise DataError(f"{origin}: all {dropped} inferences started within the warm-up of {warmup_ms:g} ms")
    return Times(tuple(found), dropped)


def _layer_profile(rows: Sequence[Any], origin: str) -> LayerProfile:
    runs = _number(rows[0], "count", f"{origin}: entry 0")
    if runs < 1 or runs != int(runs):
        raise DataError(f"{origin}: entry 0: 'count' is {runs:g}, a number of runs is needed")
    layers = []
    for index, row in enumerate(rows[1:], start=1):
        where = f"{origin}: entry {index}"
        average, median = _number(row, "averageMs", where), None
        if "medianMs" in row:
            median = _number(row, "medianMs", where)
        if average < 0:
            raise DataError(f"{where}: 'averageMs' is {average:g}, it must not be negative")
        layers.append((_name(row, "name", where), average, median))
    total = sum(average for _, average, _ in layers)
    if not total > 0:
        raise DataError(f"{origin}: no layer took any time")
    return LayerProfile(int(runs), tuple(ProfiledLayer(*layer, layer[1] / total) for layer in layers))


def _layer_info(document: Mapping[str, Any], origin: str) -> LayerInfo:
    layers = document.get("Layers")
    if not isinstance(layers, list) or not layers:
        raise DataError(f"{origin}: 'Layers' is missing or empty; trtexec --exportLayerInfo writes it")
    found = []
    for index, layer in enumerate(layers):
        where = f"{origin}: layer {index}"
        if isinstance(layer, str):
            found.append(EngineLayer(layer, "", ()))
            continue
        kind = str(layer.get("LayerType", "")) if isinstance(layer, Mapping) else ""
        name = _name(layer, "Name", where)
        found.append(EngineLayer(name, kind, nodes_of_metadata(str(layer.get("Metadata", "")))))
    tensors = document.get("I/O Tensors", document.get("Bindings", []))
    if not isinstance(tensors, list):
        raise DataError(f"{origin}: 'I/O Tensors' or 'Bindings' is no list")
    names = [item if isinstance(item, str) else _name(item, "Name", f"{origin}: I/O Tensors") for item in tensors]
    return LayerInfo(tuple(found), tuple(names))


def _field(row: Any, name: str, where: str) -> Any:
    if not isinstance(row, Mapping):
        raise DataError(f"{where} is {type(row).__name__}, not an object with the field {name!r}")
    if name not in row:
        raise DataError(f"{where}: the field {name!r} is missing")
    return row[name]


def _number(row: Any, name: str, where: str) -> float:
    value = _field(row, name, where)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{where}: {name!r} is {value!r}, not a finite number")
    return float(value)


def _name(row: Any, name: str, where: str) -> str:
    value = _field(row, name, where)
    if not isinstance(value, str) or not value:
        raise DataError(f"{where}: {name!r} is {value!r}, not a name")
    return value
