"""Pictures inside of tables, a row group read at a time and the last few kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.core.errors import CorruptInput, DataError
from edgekd.data.contents import MAX_PICTURE_BYTES, too_large
from edgekd.data.inputs import Rows
from edgekd.data.parquet.tables import open_table

SMALL_BYTES = 1 << 28
"""Tables whose pictures take no more than this are kept whole by each process that reads them."""

_MOST_OPEN = 16
_MOST_GROUP_BYTES = 1 << 31


class TableContents:
    """The pictures of some tables, in the order of the tables.

    Args:
        names: What messages and digests call each table.
        paths: Where each lies.
        column: Holds the encoded pictures: binary, or a struct whose `bytes` they are.
        window: Row groups that are kept.

    Raises:
        DataError: A table cannot be read, or a row group is too large.
    """

    def __init__(self, names: Sequence[str], paths: Sequence[Path], column: str, window: int) -> None:
        self._names = tuple(names)
        self._paths = tuple(paths)
        self._column = column
        counts, sizes, tables = [], [], []
        for number, path in enumerate(paths):
            metadata = open_table(path).metadata
            for group in range(metadata.num_row_groups):
                counts.append(metadata.row_group(group).num_rows)
                sizes.append(_bytes_of(metadata.row_group(group), column, f"{names[number]}, row group {group}"))
                tables.append((number, group))
        self._groups = tables
        self._starts = np.cumsum([0, *counts])
        self._mean_sizes = np.array(sizes, np.int64) // np.maximum(np.array(counts, np.int64), 1)
        self.group = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        self.is_small = sum(sizes) <= SMALL_BYTES
        self._most_kept = len(counts) if self.is_small else window
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._open: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self.group)

    def name(self, row: int) -> str:
        """Return table and row of a picture."""
        table, group = self._groups[self.group[row]]
        return f"{self._names[table]}: row {row - self._starts[self.group[row]]} of row group {group}"

    def sizes(self, rows: Rows) -> Rows:
        """Return the mean size in bytes of the pictures of each row's group, int64 `[n]`."""
        return self._mean_sizes[self.group[rows]]

    def read(self, row: int) -> bytes:
        """Return a picture's bytes; see `Contents.read` for the errors."""
        number = int(self.group[row])
        value = self._pictures(number, row)[row - int(self._starts[number])]
        if not value.is_valid:
            raise CorruptInput(self.name(row), "there are no bytes, at most a path")
        if (size := len(value.as_buffer())) > MAX_PICTURE_BYTES:
            raise too_large(self.name(row), size)
        return bytes(value.as_buffer())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "_open": OrderedDict()}

    def _pictures(self, number: int, row: int) -> Any:
        if number not in self._kept:
            while len(self._kept) >= self._most_kept:
                self._kept.popitem(last=False)
            self._kept[number] = self._group(number, row)
        self._kept.move_to_end(number)
        return self._kept[number]

    def _group(self, number: int, row: int) -> Any:
        import pyarrow as pa

        table, group = self._groups[number]
        try:
            read = self._table(table).read_row_group(group, columns=[self._column], use_threads=False)
            column = read.column(0).combine_chunks()
            column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
            if pa.types.is_struct(column.type):
                column = column.flatten()[column.type.get_field_index("bytes")]
        except (pa.ArrowException, OSError) as error:
            raise CorruptInput(self.name(row), f"row group {group} cannot be read: {error}".splitlines()[0]) from error
        return column

    def _table(self, number: int) -> Any:
        if number not in self._open:
            while len(self._open) >= _MOST_OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[number] = open_table(self._paths[number])
        self._open.move_to_end(number)
        return self._open[number]


def _bytes_of(group: Any, column: str, where: str) -> int:
    """Return the bytes that a row group's pictures take once they are read."""
    chunks = [group.column(at) for at in range(group.num_columns)]
    size = sum(one.total_uncompressed_size for one in chunks if one.path_in_schema.split(".")[0] == column)
    if size > _MOST_GROUP_BYTES:
        raise DataError(
            f"{where}: its pictures take {size:,} bytes, at most {_MOST_GROUP_BYTES:,} are read at once; write the "
            "table with smaller row groups"
        )
    return int(size)
