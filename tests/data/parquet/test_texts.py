import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgekd.core.errors import ConfigError, DataError
from edgekd.data import DataConfig, Dataset, load_dataset

pytest.importorskip("tokenizers")


@pytest.fixture
def write_texts() -> Callable[..., None]:
    def write(path: Path, texts: list[str | None], labels: list[int], *, column: str = "text") -> None:
        features = {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}
        table = pa.table({column: texts, "label": labels})
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path
        )

    return write


def _load(path: Path, **options: object) -> Dataset:
    return load_dataset(DataConfig.model_validate({"name": "text", "path": str(path), **options}))


def _texts(count: int) -> list[str]:
    return [f"a {'fine' if row % 2 else 'dull'} film number {row}" for row in range(count)]


def test_texts_of_tables_are_a_corpus(tmp_path: Path, write_texts: Callable[..., None]) -> None:
    write_texts(tmp_path / "train-00000-of-00001.parquet", _texts(40), [row % 2 for row in range(40)])
    write_texts(tmp_path / "validation-00000-of-00001.parquet", _texts(8), [row % 2 for row in range(8)])
    write_texts(tmp_path / "test-00000-of-00001.parquet", _texts(6), [-1] * 6)
    dataset = _load(tmp_path)
    assert dataset.task.targets == ("bad", "good")
    assert len(dataset.test) == 8
    assert dataset.test.labels.tolist() == [0, 1] * 4
    assert dataset.tokenizer is not None
    write_texts(tmp_path / "test-00000-of-00001.parquet", _texts(6), [1] * 6)
    assert [len(_load(tmp_path).val), len(_load(tmp_path).test)] == [8, 6]


def test_texts_that_are_none_are_named(tmp_path: Path, write_texts: Callable[..., None]) -> None:
    write_texts(tmp_path / "a.parquet", [*_texts(9), None], [row % 2 for row in range(10)])
    with pytest.raises(DataError, match=r"a\.parquet: row 9: has no text \('None'\)"):
        _load(tmp_path / "a.parquet")
    write_texts(tmp_path / "a.parquet", _texts(10), [0, 1, -1, 0, 1, 0, 1, 0, 1, 0])
    with pytest.raises(DataError, match=r"a\.parquet: row 2 has no label"):
        _load(tmp_path / "a.parquet")
    write_texts(tmp_path / "a.parquet", _texts(10), [0, 1, 2, 0, 1, 0, 1, 0, 1, 0])
    with pytest.raises(DataError, match=r"a\.parquet: label 2 of row 2 is outside 0\.\.1"):
        _load(tmp_path / "a.parquet")
    write_texts(tmp_path / "a.parquet", _texts(10), [0, 1] * 5, column="words")
    with pytest.raises(ConfigError, match=r"which column is the text\? Set data\.columns\.text"):
        _load(tmp_path / "a.parquet")
    assert len(_load(tmp_path / "a.parquet", columns={"text": "words"}).test) == 2
