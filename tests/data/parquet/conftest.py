"""Tables as `datasets` writes them, made with pyarrow alone."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def write_table() -> Callable[..., None]:
    """Return a writer of a table of pictures: a struct of bytes and path, labels, and the schema's features."""

    def write(
        path: Path,
        pictures: Sequence[bytes | None],
        labels: Sequence[Any],
        *,
        names: Sequence[str] | None = ("cat", "dog", "emu"),
        columns: tuple[str, str] = ("image", "label"),
        group: int = 4,
        is_struct: bool = True,
    ) -> None:
        image, label = columns
        cells = [{"bytes": one, "path": None} for one in pictures] if is_struct else list(pictures)
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if is_struct else pa.binary()
        table = pa.table({image: pa.array(cells, kind), label: pa.array(labels)})
        if names is not None:
            features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=group)

    return write


@pytest.fixture
def tables(tmp_path: Path, write_table: Callable[..., None], encoded: Callable[..., bytes]) -> Path:
    """Return a folder as the hub has it: 2 tables of 12 to train on, 1 of 9 to test on, classes 0, 1 and 2 in turn."""
    for name, first, count in (
        ("train-00000-of-00002", 0, 12),
        ("train-00001-of-00002", 12, 12),
        ("test-00000-of-00001", 500, 9),
    ):
        numbers = range(first, first + count)
        pictures = [encoded(number, ".jpg") for number in numbers]
        write_table(tmp_path / "set" / "data" / f"{name}.parquet", pictures, [number % 3 for number in numbers])
    return tmp_path / "set"
