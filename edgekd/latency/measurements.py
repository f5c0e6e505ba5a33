"""A user's own measurements, from wherever they kept them: a CSV, kept `edgekd profile --json`, or run folders."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from edgekd.core.artifacts import Precision
from edgekd.core.errors import DataError, EdgeKDError
from edgekd.targets import Target, get_target

_COLUMNS = ("model", "p50_ms")
_PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class Measurement:
    """One measured network.

    Attributes:
        model: Its ONNX file.
        p50_ms: Median latency.
        precision: Precision it ran at.
        batch: Batch size.
        origin: Where the figure stands.
    """

    model: Path
    p50_ms: float
    precision: Precision
    batch: int
    origin: str


def read_measurements(source: Path, target: Target) -> tuple[Measurement, ...]:
    """Collect what was measured on a target.

    Args:
        source: A CSV with the columns `model` (ONNX file, relative to the CSV) and `p50_ms`, and where they differ from
            fp16 and 1 `precision` and `batch`; or a folder, searched for documents of `edgekd profile --json` and for
            run folders. Predictions and measurements on other targets are left out.
        target: The board.

    Returns:
        Every measurement, once.

    Raises:
        DataError: There is none, a row is wrong, or an ONNX file is missing.
    """
    if source.is_file():
        found = list(_from_csv(source))
    elif source.is_dir():
        found = [item for path in sorted(source.rglob("*.json")) for item in _from_document(path, target)]
    else:
        raise DataError(f"{source}: no such file or folder")
    if not found:
        raise DataError(
            f"{source}: nothing measured on {target.name} is there; keep documents of `edgekd profile --json`, or "
            "write a CSV with the columns model,p50_ms"
        )
    missing = sorted({str(item.model) for item in found if not item.model.is_file()})
    if missing:
        raise DataError(f"{source}: ONNX files are missing: {', '.join(missing)}")
    return tuple(dict.fromkeys(found))


def _from_csv(path: Path) -> Iterator[Measurement]:
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error
    absent = [column for column in _COLUMNS if not rows or column not in rows[0]]
    if absent:
        raise DataError(f"{path}: no rows with the columns {', '.join(_COLUMNS)}")
    for line, row in enumerate(rows, start=2):
        origin = f"{path}, line {line}"
        yield _measurement(
            path.parent / str(row["model"]),
            row["p50_ms"],
            precision=row.get("precision") or "fp16",
            batch=row.get("batch") or 1,
            origin=origin,
        )


def _from_document(path: Path, target: Target) -> Iterator[Measurement]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return
    if not isinstance(document, dict):
        return
    if isinstance(document.get("latency"), dict) and isinstance(document.get("model"), str):
        report = document["latency"]
        if _is_of(report, target):
            yield _reported(report, _resolved(path.parent, document["model"]), path)
    elif path.name == "run.json" and isinstance(document.get("stages"), dict):
        yield from _from_run(path, document["stages"], target)


def _from_run(path: Path, stages: Mapping[str, Any], target: Target) -> Iterator[Measurement]:
    """Follow a run's measured latencies to the engines timed, and those to the ONNX files they were made from."""
    sidecars = [_json(file) for file in sorted(path.parent.glob("engines/*/*.json"))]
    nouns = {noun["digest"]: noun for noun in _nouns([stages, sidecars])}
    for report in nouns.values():
        if not _is_of(report, target):
            continue
        engines = [nouns[digest] for digest in report.get("parents", ()) if digest in nouns]
        models = [nouns[digest] for engine in engines for digest in engine.get("parents", ()) if digest in nouns]
        files = [noun["file"]["path"] for noun in models if isinstance(noun.get("file"), dict)]
        if files:
            yield _reported(report, _resolved(path.parent, files[0]), path)


def _nouns(document: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(document, Mapping):
        if isinstance(document.get("digest"), str):
            yield document
        document = list(document.values())
    if isinstance(document, list):
        for value in document:
            yield from _nouns(value)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return None


def _is_of(report: Mapping[str, Any], target: Target) -> bool:
    """Say whether a target's GPU was timed; a DLA of the same board is another device."""
    if report.get("kind") != "measured" or not isinstance(report.get("target"), str):
        return False
    if isinstance(report.get("conditions"), Mapping) and "dla_core" in report["conditions"]:
        return False
    if report["target"] in (target.name, target.device):
        return True
    if "@" in target.name or "@" in report["target"]:
        return False
    try:
        return get_target(report["target"]).device == target.device
    except EdgeKDError:  # a target that this machine does not know is another one
        return False


def _reported(report: Mapping[str, Any], model: Path, path: Path) -> Measurement:
    conditions = report.get("conditions")
    batch = conditions.get("batch", 1) if isinstance(conditions, Mapping) else 1
    return _measurement(model, report.get("p50_ms"), precision=report.get("precision"), batch=batch, origin=str(path))


def _measurement(model: Path, p50_ms: Any, *, precision: Any, batch: Any, origin: str) -> Measurement:
    try:
        figure, size = float(p50_ms), int(batch)
    except (TypeError, ValueError) as error:
        raise DataError(f"{origin}: p50_ms {p50_ms!r} or batch {batch!r} is no number") from error
    if not 0 < figure < float("inf") or size < 1:
        raise DataError(f"{origin}: p50_ms {p50_ms!r} and batch {batch!r} must be above zero")
    if precision not in _PRECISIONS:
        raise DataError(f"{origin}: precision {precision!r} is none of {', '.join(_PRECISIONS)}")
    return Measurement(model, figure, precision, size, origin)


def _resolved(folder: Path, path: str) -> Path:
    """Return a path as it was written where that exists, else relative to the document."""
    written = Path(path)
    return written if written.is_absolute() or written.is_file() else folder / written
