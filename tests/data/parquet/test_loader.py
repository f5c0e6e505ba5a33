import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.core.errors import ConfigError, DataError, PreconditionError
from edgekd.data import DataConfig, Dataset, batches_ahead, load_dataset, train_batches
from edgekd.data.augment import augmentation
from edgekd.data.dataset import Split
from edgekd.data.parquet import contents, hub

Write = Callable[..., None]
Encoded = Callable[..., bytes]


def _load(path: Path | str, **options: object) -> Dataset:
    document = {"name": "parquet", "path": str(path), "resolution": 10, **options}
    return load_dataset(DataConfig.model_validate(document))


def _pixels(content: bytes) -> bytes:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))[:, 1:11].tobytes()


def _found(*splits: Split) -> set[tuple[int, bytes]]:
    return {
        (int(label), one.tobytes())
        for split in splits
        for label, one in zip(split.labels, split.inputs.gather(np.arange(len(split))), strict=True)
    }


def _expected(encoded: Encoded, numbers: range) -> set[tuple[int, bytes]]:
    return {(number % 3, _pixels(encoded(number, ".jpg"))) for number in numbers}


def test_tables_give_every_picture_with_its_label(tables: Path, encoded: Encoded) -> None:
    dataset = _load(tables)
    assert _found(dataset.train, dataset.val) == _expected(encoded, range(24))
    assert _found(dataset.test) == _expected(encoded, range(500, 509))
    assert dataset.task.targets == ("cat", "dog", "emu")
    assert "3 tables" in dataset.notes
    alone = _load(tables / "data" / "train-*.parquet")
    assert _found(alone.train, alone.val, alone.test) == _expected(encoded, range(24))


def test_columns_are_found_by_type_by_name_or_by_what_is_said(
    tmp_path: Path, write_table: Write, encoded: Encoded
) -> None:
    pictures = [encoded(number, ".jpg") for number in range(24)]
    words = [("dog", "cat", "emu")[number % 3] for number in range(24)]
    write_table(tmp_path / "a.parquet", pictures, words, names=None, columns=("Img", "class"), is_struct=False)
    assert _load(tmp_path / "a.parquet").task.targets == ("cat", "dog", "emu")
    write_table(tmp_path / "b.parquet", pictures, words, names=None, columns=("x", "y"))
    with pytest.raises(ConfigError, match=r"which column is the image\? Set data\.columns\.image to one of: x"):
        _load(tmp_path / "b.parquet")
    dataset = _load(tmp_path / "b.parquet", columns={"image": "x", "label": "y"})
    assert dataset.task.targets == ("cat", "dog", "emu")
    with pytest.raises(ConfigError, match=r"has no column 'z' \(data\.columns\.label\); its columns: x, y"):
        _load(tmp_path / "b.parquet", columns={"image": "x", "label": "z"})


def test_a_test_part_whose_labels_are_hidden_is_left_out(tables: Path, write_table: Write, encoded: Encoded) -> None:
    pictures = [encoded(number, ".jpg") for number in range(600, 606)]
    write_table(tables / "data" / "validation-00000-of-00001.parquet", pictures, [0, 1, 2] * 2)
    write_table(tables / "data" / "test-00000-of-00001.parquet", pictures, [-1] * 6)
    dataset = _load(tables)
    assert "6 of 6 test pictures have no label and are left out" in dataset.notes
    assert len(dataset.test) == 6
    assert any(note.startswith("test part: val") for note in dataset.notes)


def test_labels_out_of_range_empty_and_missing_tables_are_named(
    tables: Path, write_table: Write, encoded: Encoded, tmp_path: Path
) -> None:
    write_table(tmp_path / "c.parquet", [encoded(0, ".jpg")] * 6, [0, 1, 2, 0, 3, 1], group=3)
    with pytest.raises(DataError, match=r"c\.parquet: row 1 of row group 1: label 3 is none of the 3 classes"):
        _load(tmp_path / "c.parquet")
    write_table(tmp_path / "d.parquet", [], [])
    with pytest.raises(DataError, match="the tables of train hold no row"):
        _load(tmp_path / "d.parquet")
    write_table(tmp_path / "e.parquet", [encoded(0, ".jpg")] * 3, [0.5, 1.5, 2.5], names=None)
    with pytest.raises(DataError, match=r"e\.parquet: row 0 of row group 0: label 0\.5 is neither the number"):
        _load(tmp_path / "e.parquet")
    (tables / "data" / "train-00001-of-00002.parquet").unlink()
    (tables / "data" / "train-00002-of-00003.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"train-0000\d-of-0000\d\.parquet is missing"):
        _load(tables)


@pytest.mark.parametrize("content", [b"", b"PAR1" * 4, b"\0" * 500])
def test_what_is_no_table_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.parquet: cannot be read as a Parquet file"):
        _load(tmp_path / "x.parquet")


def test_what_is_wrong_with_the_path_is_told(tables: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set data\.resolution"):
        load_dataset(DataConfig(name="parquet", path=str(tables)))
    with pytest.raises(PreconditionError, match="needs data.path: a .parquet file"):
        load_dataset(DataConfig(name="parquet", resolution=8))
    with pytest.raises(PreconditionError, match="nothing is there"):
        _load(tmp_path / "absent.parquet")
    with pytest.raises(DataError, match="holds no table of train"):
        (tmp_path / "empty").mkdir()
        _load(tmp_path / "empty")


def test_cells_without_bytes_are_corrupt_and_stood_in_for(tmp_path: Path, write_table: Write, encoded: Encoded) -> None:
    pictures: list[bytes | None] = [encoded(number, ".jpg") for number in range(60)]
    pictures[20], pictures[31] = None, b"no picture"
    write_table(tmp_path / "a.parquet", pictures, [number % 3 for number in range(60)], group=16)
    with pytest.raises(DataError, match=r"a\.parquet: row .* data\.max_corrupt"):
        _load(tmp_path / "a.parquet")
    dataset = _load(tmp_path / "a.parquet", max_corrupt=2)
    assert len(_found(dataset.train, dataset.val, dataset.test)) == 58
    assert dataset.corrupt is not None
    names = {record.name: record.reason for record in dataset.corrupt.records()}
    assert names["a.parquet: row 4 of row group 1"] == "there are no bytes, at most a path"
    assert "a.parquet: row 15 of row group 1" in names


def test_large_tables_are_read_a_few_row_groups_at_a_time(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _load(tables).train.mixing is None
    assert _load(tables, shuffle="shards").train.mixing is not None
    monkeypatch.setattr(contents, "SMALL_BYTES", 0)
    dataset = _load(tables, window=2)
    assert dataset.train.mixing is not None
    assert _load(tables, shuffle="full").train.mixing is None
    read: list[int] = []
    original = contents.TableContents._group

    def counting(self: contents.TableContents, number: int, row: int) -> object:
        read.append(number)
        return original(self, number, row)

    monkeypatch.setattr(contents.TableContents, "_group", counting)
    batches = list(
        train_batches(dataset.train, batch_size=3, epoch=0, seed=0, augment=augmentation("none"), drop_last=False)
    )
    assert sorted(read) == sorted(set(dataset.train.mixing.groups))
    ahead = batches_ahead(dataset.train, batch_size=3, epoch=0, seed=0, augment=augmentation("none"), workers=2)
    for mine, theirs in zip(batches, ahead, strict=False):
        assert (mine.inputs == theirs.inputs).all()


def test_contents_travel_without_what_they_hold_open(tables: Path) -> None:
    path = tables / "data" / "train-00000-of-00002.parquet"
    stored = contents.TableContents(["t"], [path], "image", 2)
    first = stored.read(7)
    assert pickle.loads(pickle.dumps(stored)).read(7) == first
    assert stored.sizes(np.array([0, 5])).min() > 0
    with pytest.raises(IndexError):
        stored.read(12)


def test_a_row_group_too_large_to_hold_is_refused(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "_MOST_GROUP_BYTES", 100)
    with pytest.raises(DataError, match=r"row group 0: its pictures take .* write the table with smaller row groups"):
        _load(tables)


def test_the_digest_follows_pictures_labels_and_order(
    tables: Path, write_table: Write, encoded: Encoded, tmp_path: Path
) -> None:
    first = _load(tables).digest
    assert _load(tables.rename(tmp_path / "elsewhere")).digest == first
    path = tmp_path / "elsewhere" / "data" / "test-00000-of-00001.parquet"
    pictures = [encoded(number, ".jpg") for number in range(500, 509)]
    write_table(path, pictures, [number % 3 for number in range(500, 509)])
    assert _load(tmp_path / "elsewhere").digest == first
    write_table(path, pictures, [0] * 9)
    changed = _load(tmp_path / "elsewhere").digest
    write_table(path, [encoded(1, ".jpg"), *pictures[1:]], [number % 3 for number in range(500, 509)])
    assert len({first, changed, _load(tmp_path / "elsewhere").digest}) == 3


def test_a_data_set_of_the_hub_is_its_tables(tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []
    (tmp_path / "without").mkdir()

    def fake(name: str, revision: str | None) -> Path:
        asked.append((name, revision))
        return tmp_path / "without" if revision is None else tables

    monkeypatch.setattr(hub, "snapshot", fake)
    assert _load("hf:owner/set").digest == _load(tables).digest
    assert asked == [("owner/set", None), ("owner/set", "refs/convert/parquet")]
    assert _load("hf:owner/set@v1").digest == _load(tables).digest
    assert asked[2:] == [("owner/set", "v1")]
    for wrong in ("hf:set", "hf:a/b/c", "hf:/x"):
        with pytest.raises(ConfigError, match="a data set on the hub is named hf:OWNER/NAME"):
            _load(wrong)
    monkeypatch.setattr(hub, "snapshot", lambda name, revision: tmp_path / "without")
    with pytest.raises(DataError, match="hf:owner/set: has no Parquet files"):
        _load("hf:owner/set")


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(name: str, **options: object) -> str:
        assert options["repo_type"] == "dataset"
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(PreconditionError, match=r"could not be fetched \(ConnectionError: no route to host more\)"):
        _load("hf:owner/set")


def test_tables_may_be_pictures_without_labels(tables: Path, picture_folder: Path) -> None:
    document = {"name": "folder", "path": str(picture_folder), "resolution": 10, "unlabelled": str(tables)}
    dataset = load_dataset(DataConfig.model_validate(document))
    assert int((~dataset.train.has_label).sum()) == 33
