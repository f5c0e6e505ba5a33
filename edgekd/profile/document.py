"""A profile as one JSON document: the figures, every sample, the layers, the energy; written, imported, read back.

The document keeps the keys `model` and `latency` of `edgekd profile --json`, so that `edgekd latency fit --from` takes
every one of them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edgekd.core.artifacts import LatencyReport, from_json, to_json
from edgekd.core.errors import DataError, StorageError
from edgekd.profile.layers import MeasuredLayer, by_module
from edgekd.profile.power import Energy

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Span:
    """A stretch of time of one run, for a trace.

    Attributes:
        track: What it belongs to (`"run"`, `"enqueue"`, `"h2d"`, `"compute"`, `"d2h"`).
        start_ms: When it started, in milliseconds of the clock of the measurement.
        end_ms: When it ended.
    """

    track: str
    start_ms: float
    end_ms: float


@dataclass(frozen=True)
class Profile:
    """Everything that was measured of one network on one machine.

    Attributes:
        model: Its ONNX file, as the user named it.
        report: The figures.
        samples_ms: Milliseconds of each run, in order; empty where only the figures were kept.
        spans: What happened when; empty where that was not kept.
        layers: Time of each layer; empty where layers were not timed.
        energy: Energy of an inference; None where it was not measured.
        memory_mb: Memory by what holds it, in 10^6 bytes.
    """

    model: str
    report: LatencyReport
    samples_ms: tuple[float, ...] = ()
    spans: tuple[Span, ...] = ()
    layers: tuple[MeasuredLayer, ...] = ()
    energy: Energy | None = None
    memory_mb: Mapping[str, float] = field(default_factory=dict)


def document_of(profile: Profile) -> dict[str, Any]:
    """Return a profile as plain JSON data; times of spans are counted from the first one."""
    origin = min((span.start_ms for span in profile.spans), default=0.0)
    return {
        "model": profile.model,
        "latency": to_json(profile.report),
        "samples_ms": [round(value, 6) for value in profile.samples_ms],
        "spans": [
            [span.track, round(span.start_ms - origin, 6), round(span.end_ms - origin, 6)] for span in profile.spans
        ],
        "layers": [dataclasses.asdict(layer) for layer in profile.layers],
        "modules": [dataclasses.asdict(one) for one in by_module(profile.layers)],
        "energy": None if profile.energy is None else dataclasses.asdict(profile.energy),
        "memory_mb": dict(profile.memory_mb),
    }


def profile_from_document(document: Any, origin: str) -> Profile:
    """Read what `document_of` returned; what older documents lack is left empty.

    Args:
        document: JSON data.
        origin: Where it came from, for errors.

    Raises:
        DataError: A field is missing or wrong, or the figures were altered.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("latency"), Mapping):
        raise DataError(f"{origin}: no field 'latency'; a document of `edgekd profile --json` is needed")
    if not isinstance(document.get("model"), str):
        raise DataError(f"{origin}: the field 'model' is missing")
    try:
        report = from_json(LatencyReport, document["latency"])
    except StorageError as error:
        raise DataError(f"{origin}: field 'latency': {error}") from error
    return Profile(
        document["model"],
        report,
        samples_ms=_read(tuple[float, ...], document.get("samples_ms") or (), f"{origin}: field 'samples_ms'"),
        spans=tuple(
            Span(*row)
            for row in _read(
                tuple[tuple[str, float, float], ...], document.get("spans") or (), f"{origin}: field 'spans'"
            )
        ),
        layers=_read(tuple[MeasuredLayer, ...], document.get("layers") or (), f"{origin}: field 'layers'"),
        energy=_read(Energy | None, document.get("energy"), f"{origin}: field 'energy'"),
        memory_mb=_read(dict[str, float], document.get("memory_mb") or {}, f"{origin}: field 'memory_mb'"),
    )


def read_profile(path: Path) -> Profile:
    """Read a document of `edgekd profile --json`; raises `DataError` with the file and the field."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    return profile_from_document(document, str(path))


def _read(kind: Any, value: Any, what: str) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{what}{f', {where}' if where else ''}: {first['msg']}") from error
