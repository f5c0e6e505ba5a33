"""docs/data.md names every key of `data:`, and its figures are those of the file that was measured."""

import json
from pathlib import Path

from edgekd.data import DataConfig, dataset_names

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def test_every_key_is_described() -> None:
    assert [name for name in DataConfig.model_fields if f"`{name}`" not in TEXT] == []
    assert all(f"`{name}`" in TEXT for name in ("folder", "webdataset", "parquet", "text"))
    assert {"webdataset", "parquet"} <= set(dataset_names())


def test_figures_are_those_of_the_result_file() -> None:
    (path,) = (ROOT / "tools" / "bench" / "results").glob("data-loading_*.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert f"tools/bench/results/{path.name}" in TEXT
    for row in document["rates"]:
        if row.get("pictures") != "large":
            continue
        assert f"{row['pictures_per_s']:,}" in TEXT
    rates = {
        (row["loader"], row["storage"], row.get("shuffle"), row["workers"]): f"{row['pictures_per_s']:,}"
        for row in document["rates"]
        if row.get("pictures") != "large"
    }
    for loader, storage, shuffle, workers in rates:
        if workers == 0:
            name = f"{loader}, {storage}{', by shards' if shuffle == 'shards' else ''}"
            assert f"| {name} | {rates[loader, storage, shuffle, 0]} | {rates[loader, storage, shuffle, 2]} |" in TEXT
