"""Parquet files: which column is what, and the columns that are read whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from edgekd.core.errors import ConfigError, DataError, missing_package

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

Role: TypeAlias = Literal["image", "label", "text"]

_NAMES: Mapping[Role, tuple[str, ...]] = {
    "image": ("image", "img", "picture", "pixel_values", "jpg", "png"),
    "label": ("label", "labels", "class", "target", "fine_label", "cls"),
    "text": ("text", "sentence", "content", "review"),
}
_MOST_SHOWN = 8


@dataclass(frozen=True)
class Columns:
    """What the schema of a table says about its columns.

    Attributes:
        types: Arrow type of each column, in words.
        classes: Names of the classes of each column that the schema has as such.
        images: Columns that the schema has as pictures.
    """

    types: Mapping[str, str]
    classes: Mapping[str, tuple[str, ...]]
    images: tuple[str, ...]


def open_table(path: Path) -> ParquetFile:
    """Open a Parquet file, memory-mapped.

    Raises:
        DataError: It is no Parquet file, or cannot be read.
        PreconditionError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise missing_package("pyarrow", "parquet", "reading Parquet tables") from error
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as a Parquet file ({_short(error)}); fetch it again") from error


def columns_of(table: ParquetFile) -> Columns:
    """Read what a schema says, that which `datasets` adds to it too."""
    schema = table.schema_arrow
    features = _features(schema)
    return Columns(
        {name: str(schema.field(name).type) for name in schema.names},
        {
            name: tuple(map(str, feature["names"]))
            for name, feature in features.items()
            if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)
        },
        tuple(name for name, feature in features.items() if feature.get("_type") == "Image"),
    )


def column_for(role: Role, columns: Columns, chosen: Mapping[Role, str], where: str) -> str | None:
    """Return the column that holds something, None where none is found.

    Args:
        role: What it holds.
        columns: The table's.
        chosen: `data.columns`.
        where: The table, for messages.

    Raises:
        ConfigError: `data.columns` names one that is not there.
    """
    if role in chosen:
        if chosen[role] not in columns.types:
            known = ", ".join(list(columns.types)[:_MOST_SHOWN])
            raise ConfigError(f"{where}: has no column {chosen[role]!r} (data.columns.{role}); its columns: {known}")
        return chosen[role]
    said = {"image": columns.images, "label": tuple(columns.classes), "text": ()}[role]
    if len(said) == 1:
        return said[0]
    lower = {name.lower(): name for name in columns.types}
    return next((lower[name] for name in _NAMES[role] if name in lower), None)


def required_column(role: Role, columns: Columns, chosen: Mapping[Role, str], where: str) -> str:
    """Return the column that holds something; raises `ConfigError` where none is found."""
    found = column_for(role, columns, chosen, where)
    if found is None:
        known = ", ".join(f"{name} ({kind})" for name, kind in list(columns.types.items())[:_MOST_SHOWN])
        raise ConfigError(f"{where}: which column is the {role}? Set data.columns.{role} to one of: {known}")
    return found


def values_of(table: ParquetFile, column: str, where: str) -> list[Any]:
    """Return a whole column as Python values.

    Raises:
        DataError: The file is damaged.
    """
    import pyarrow as pa

    try:
        return table.read(columns=[column], use_threads=False).column(column).to_pylist()  # type: ignore[no-any-return]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{where}: column {column!r} cannot be read ({_short(error)}); fetch it again") from error


def named(values: Sequence[Any], names: tuple[str, ...] | None, where: str) -> list[str]:
    """Return labels as words, by the schema's names where it has any.

    Raises:
        DataError: A label is out of range or none.
    """
    words = []
    for row, value in enumerate(values):
        is_number = isinstance(value, int)
        if value is None or (is_number and value < 0):
            raise DataError(f"{where}: row {row} has no label ({value}); leave such rows or this table out")
        if names is not None and is_number and value >= len(names):
            raise DataError(f"{where}: label {value} of row {row} is outside 0..{len(names) - 1}")
        words.append(names[value] if names is not None and is_number else str(value))
    return words


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {name: one for name, one in features.items() if isinstance(one, dict) and name in schema.names}


def _short(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
