"""Fused-layer lists as CSV: one row a layer, the columns `model` and `resolution` say which graph it belongs to."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Mapping
from pathlib import Path

from edgekd.core.digest import sha256_of_file
from edgekd.core.errors import DataError
from edgekd.latency.layers import KINDS, Layer, LayerGraph, LayerKind, with_gates

_NUMBERS = (
    "macs",
    "in_elems",
    "out_elems",
    "weight_elems",
    "gemm_m",
    "gemm_n",
    "gemm_k",
    "groups",
    "kernel_area",
    "fused_pointwise",
    "fused_residual",
)
_COLUMNS = ("model", "resolution", "kind", *_NUMBERS)
_KIND_OF: Mapping[str, LayerKind] = {kind: kind for kind in KINDS}


def graphs_from_csv(path: Path) -> dict[tuple[str, int], LayerGraph]:
    """Read every graph of a fused-layer table, at batch 1.

    Args:
        path: CSV, plain or gzip (`.gz`), with the columns model, resolution, kind, macs, in_elems, out_elems,
            weight_elems, gemm_m, gemm_n, gemm_k, groups, kernel_area, fused_pointwise, fused_residual; an empty number
            is 0.

    Returns:
        Graphs by model and resolution, in the order of the file.

    Raises:
        DataError: The file is missing, is not such a table, or holds an impossible row; the line is named.
    """
    reader = csv.DictReader(io.StringIO(_text_of(path)))
    layers: dict[tuple[str, int], list[Layer]] = {}
    try:
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{path}: not a fused-layer table, columns missing: {', '.join(missing)}")
        for row in reader:
            layers.setdefault(_graph_of(row), []).append(_layer_of(row))
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error
    digest = sha256_of_file(path)
    return {
        (model, resolution): LayerGraph(f"{model}@{resolution}", 1, with_gates(rows, 1), resolution, (digest,))
        for (model, resolution), rows in layers.items()
    }


def _text_of(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error


def _graph_of(row: Mapping[str, str]) -> tuple[str, int]:
    if None in row or None in row.values():
        raise ValueError("the row has not as many fields as there are columns")
    model, resolution = row["model"], int(row["resolution"])
    if not model or resolution < 0:
        raise ValueError("model has no name" if not model else f"resolution {resolution} is below 0")
    return model, resolution


def _layer_of(row: Mapping[str, str]) -> Layer:
    if row["kind"] not in _KIND_OF:
        raise ValueError(f"unknown layer kind {row['kind']!r}; known: {', '.join(KINDS)}")
    numbers = {column: int(row[column] or 0) for column in _NUMBERS}
    negative = [column for column, value in numbers.items() if value < 0]
    if negative or numbers["out_elems"] == 0:
        raise ValueError(
            f"a layer cannot have {negative[0] if negative else 'out_elems'} {'< 0' if negative else '= 0'}"
        )
    return Layer(kind=_KIND_OF[row["kind"]], name=row.get("idx") or "", **numbers)
