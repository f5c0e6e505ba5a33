"""Labelled texts in Parquet tables, as a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekd.core.errors import DataError
from edgekd.data.config import DataConfig
from edgekd.data.parquet.loader import table_files
from edgekd.data.parquet.tables import Columns, columns_of, named, open_table, required_column, values_of
from edgekd.data.parts import PartName
from edgekd.data.text.corpus import Corpus, Table


def holds_tables(path: str) -> bool:
    """Say whether a path is that of Parquet tables: a file, a folder with some, a pattern or a name on the hub."""
    place = Path(path).expanduser()
    return path.startswith("hf:") or path.endswith(".parquet") or (place.is_dir() and any(place.rglob("*.parquet")))


def read_text_tables(config: DataConfig) -> Corpus:
    """Read texts and labels of tables; `data.columns` says which column is what where names do not.

    Returns:
        The parts; a `val` without `test` is the test part. A test part without labels is left out.

    Raises:
        ConfigError: It is not clear which column is what.
        DataError: A table is missing or damaged, or a row has no text or no label.
        PreconditionError: Nothing is there, or pyarrow is not installed.
    """
    _, files, _ = table_files(config, config.path)
    columns = columns_of(open_table(files["train"][0]))
    parts: dict[PartName, Table] = {}
    for part, paths in files.items():
        if (table := _table(paths, columns, config, part)) is not None:
            parts[part] = table
    if "test" not in parts:
        return Corpus(parts["train"], parts.get("val"))
    return Corpus(parts["train"], parts["test"], parts.get("val"))


def _table(paths: Sequence[Path], columns: Columns, config: DataConfig, part: PartName) -> Table | None:
    text = required_column("text", columns, config.columns, paths[0].name)
    label = required_column("label", columns, config.columns, paths[0].name)
    texts: list[str] = []
    labels: list[str] = []
    for path in paths:
        table = open_table(path)
        if absent := {text, label} - set(table.schema_arrow.names):
            raise DataError(f"{path}: has no column {', '.join(sorted(absent))}, which other tables have")
        found = values_of(table, label, path.name)
        if part == "test" and found and all(value in (None, -1) for value in found):
            return None
        labels += named(found, columns.classes.get(label), path.name)
        texts += [
            _text(value, f"{path.name}: row {row}") for row, value in enumerate(values_of(table, text, path.name))
        ]
    if not texts:
        raise DataError(f"{paths[0]}: the tables of {part} hold no row")
    return Table(tuple(texts), tuple(labels))


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: has no text ({str(value)[:40]!r}); leave such rows out, or set data.columns.text")
    return value.strip()
