"""docs/data.md names every key of `data:`."""

from pathlib import Path

from edgekd.data import DataConfig, dataset_names

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def test_every_key_is_described() -> None:
    assert [name for name in DataConfig.model_fields if f"`{name}`" not in TEXT] == []
    assert all(f"`{name}`" in TEXT for name in ("folder", "webdataset", "parquet", "text"))
    assert {"webdataset", "parquet"} <= set(dataset_names())
