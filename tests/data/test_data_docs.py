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
    large = [row for row in document["rates"] if row.get("pictures") == "large"]
    assert [row["decode"] for row in large] == ["exact", "fast"]
    words = "come at {:,} a processor second with `decode: exact` and {:,} with `fast`"
    assert words.format(*(row["pictures_per_cpu_s"] for row in large)) in TEXT
    found = {
        (row["loader"], row["storage"], row.get("shuffle"), row["workers"]): row
        for row in document["rates"]
        if row not in large
    }
    for (loader, storage, shuffle, workers), row in found.items():
        if workers == 0:
            name = f"{loader}, {storage}{', by shards' if shuffle == 'shards' else ''}"
            two = found[loader, storage, shuffle, 2]["pictures_per_s"]
            assert f"| {name} | {row['pictures_per_cpu_s']:,} | {two:,} |" in TEXT
