"""Labelled texts from a table (TSV, CSV), or from a folder or archive of one table for each part."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from edgekd.core.errors import DataError, StorageError
from edgekd.data.inputs import Rows
from edgekd.data.members import MAX_MEMBER_BYTES, read_members

NEEDS = (
    "a .tsv or .csv of text and label, or a folder or archive with train, test and perhaps dev (.tsv or .csv); or "
    "Parquet tables"
)
"""What `data.path` must point to, in words."""

_SUFFIXES = (".tsv", ".csv")
_PART_NAMES = {"train": ("train",), "val": ("dev", "val", "validation"), "test": ("test",)}
_TEXT_COLUMNS = ("text", "sentence")
_LABEL_COLUMN = "label"


@dataclass(frozen=True)
class Table:
    """Texts and their labels as they are written.

    Attributes:
        texts: One text a row, none empty.
        labels: As many labels, none empty.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Rows) -> Table:
        """Return some rows, in the order given."""
        return Table(tuple(self.texts[row] for row in rows), tuple(self.labels[row] for row in rows))


@dataclass(frozen=True)
class Corpus:
    """A corpus as it is stored.

    Attributes:
        train: Training part, or all there is.
        test: Test part, or `None` when the corpus is one table.
        val: Held-out part that the corpus brings itself, or `None`.
    """

    train: Table
    test: Table | None = None
    val: Table | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels of the training part, sorted; by value when all are whole numbers."""
        found = set(self.train.labels)
        is_numeric = all(label.isdecimal() for label in found)
        return tuple(sorted(found, key=(lambda label: (int(label), label)) if is_numeric else None))


def read_corpus(path: Path) -> Corpus:
    """Read a corpus.

    A table has a text and a label in each row. Its first line names the columns (`text` or `sentence`, and `label`;
    others are left out); without such a line there are two columns, the text first. TSV is read without quoting, as in
    GLUE, CSV with it; both are UTF-8.

    Args:
        path: A `.tsv` or `.csv`, or a folder, zip or tar that holds `train`, `test` and perhaps `dev` (also called
            `val` or `validation`) as such tables.

    Returns:
        Its parts.

    Raises:
        DataError: The file is damaged, too large, or not such a corpus; names the file, the line and what is wrong.
        StorageError: The file cannot be read.
    """
    if path.suffix.lower() in _SUFFIXES and path.is_file():
        return Corpus(read_table(_content(path), str(path)))
    patterns = [f"{name}{suffix}" for names in _PART_NAMES.values() for name in names for suffix in _SUFFIXES]
    members = read_members(path, patterns)
    parts = {part: _part(members, names, path) for part, names in _PART_NAMES.items()}
    if parts["train"] is None or parts["test"] is None:
        absent = [part for part in ("train", "test") if parts[part] is None]
        raise DataError(f"{path}: holds no {' and no '.join(absent)} table; expected {NEEDS}")
    return Corpus(parts["train"], parts["test"], parts["val"])


def read_table(content: bytes, origin: str) -> Table:
    """Read a table of texts and labels.

    Args:
        content: UTF-8, a byte order mark allowed.
        origin: File name, for messages; one that ends in `.csv` is comma-separated and quoted, else it is TSV.

    Returns:
        Its rows.

    Raises:
        DataError: Not UTF-8, a broken quote, a row with too many or too few columns, an empty text or label, no row.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{origin}: not UTF-8 text at byte {error.start}; convert the file") from error
    is_csv = origin.lower().endswith(".csv")
    rows = csv.reader(
        io.StringIO(text, newline=""),
        delimiter="," if is_csv else "\t",
        quoting=csv.QUOTE_MINIMAL if is_csv else csv.QUOTE_NONE,
        strict=True,
    )
    numbered: list[tuple[int, list[str]]] = []
    try:
        numbered.extend((rows.line_num, row) for row in rows if row)
    except csv.Error as error:
        raise DataError(f"{origin}, line {rows.line_num}: {error}") from error
    return _table(numbered, origin)


def label_numbers(table: Table, classes: tuple[str, ...], origin: str) -> Rows:
    """Return labels as positions in `classes`, int64 `[N]`.

    Raises:
        DataError: A label is none of the classes; names row and label.
    """
    number = {label: position for position, label in enumerate(classes)}
    for row, label in enumerate(table.labels, start=1):
        if label not in number:
            raise DataError(f"{origin}: label {label!r} of text {row} is not in the training part ({_some(classes)})")
    return np.array([number[label] for label in table.labels], np.int64)


def _table(rows: list[tuple[int, list[str]]], origin: str) -> Table:
    columns = _columns(rows[0][1]) if rows else None
    width = len(rows[0][1]) if columns else 2
    text_at, label_at = columns or (0, 1)
    texts, labels = [], []
    for line, row in rows[1 if columns else 0 :]:
        if len(row) != width:
            raise DataError(f"{origin}, line {line}: {len(row)} columns where {width} are expected; {_expectation()}")
        text, label = row[text_at].strip(), row[label_at].strip()
        if not text or not label:
            raise DataError(f"{origin}, line {line}: empty {'label' if text else 'text'}; remove or complete the row")
        texts.append(text)
        labels.append(label)
    if not texts:
        raise DataError(f"{origin}: holds no text")
    return Table(tuple(texts), tuple(labels))


def _columns(first: list[str]) -> tuple[int, int] | None:
    names = [name.strip().lower() for name in first]
    texts = [position for position, name in enumerate(names) if name in _TEXT_COLUMNS]
    return (texts[0], names.index(_LABEL_COLUMN)) if len(texts) == 1 and _LABEL_COLUMN in names else None


def _expectation() -> str:
    return f"a first line naming {' or '.join(_TEXT_COLUMNS)} and {_LABEL_COLUMN}, or text and label alone"


def _content(path: Path) -> bytes:
    try:
        if (size := path.stat().st_size) > MAX_MEMBER_BYTES:
            raise DataError(f"{path}: {size:,} bytes, at most {MAX_MEMBER_BYTES:,} are read")
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error


def _part(members: dict[str, bytes], names: tuple[str, ...], path: Path) -> Table | None:
    found = [member for member in members if PurePosixPath(member).stem in names]
    if len(found) > 1:
        raise DataError(f"{path}: {' and '.join(found)} are the same part; keep one")
    return read_table(members[found[0]], f"{path}:{found[0]}") if found else None


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
