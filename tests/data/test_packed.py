"""Packed pictures: what was packed comes back in order, from a folder or a zip, and what is damaged is named."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgekd.core.errors import DataError, PreconditionError
from edgekd.data import DATASETS, DataConfig


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 5, 5, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path, pictures: np.ndarray) -> Path:
    root = tmp_path / "packed"
    root.mkdir()
    labels = np.array([0, 1, 1, 0, 1, 0, 1])
    np.savez(root / "train-000.npz", images=pictures[:3], labels=labels[:3])
    np.savez_compressed(root / "train-001.npz", images=pictures[3:5], labels=labels[3:5].astype(np.uint8))
    np.savez(root / "test-000.npz", images=pictures[5:], labels=labels[5:])
    (root / "classes.txt").write_text("cat\ndog\n")
    return root


def _load(path: Path):
    return DATASETS["packed"].load(DataConfig(name="packed", path=str(path)))


def test_pieces_come_back_in_order(folder: Path, pictures: np.ndarray) -> None:
    source = _load(folder)
    assert source.task.targets == ("cat", "dog")
    np.testing.assert_array_equal(source.train.inputs.gather(np.arange(5)), pictures[:5])
    np.testing.assert_array_equal(source.test.inputs.gather(np.arange(2)), pictures[5:])
    assert source.train.labels.tolist() == [0, 1, 1, 0, 1] and source.test.labels.tolist() == [0, 1]


def test_a_zip_holds_the_same(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"inside/{file.name}")
    rows = np.arange(5)
    zipped, plain = _load(tmp_path / "packed.zip").train, _load(folder).train
    np.testing.assert_array_equal(zipped.inputs.gather(rows), plain.inputs.gather(rows))


@pytest.mark.parametrize("absent", ["train-*.npz", "test-*.npz", "classes.txt"])
def test_what_is_absent_is_named(folder: Path, absent: str) -> None:
    for file in folder.glob(absent):
        file.unlink()
    with pytest.raises(PreconditionError) as problem:
        _load(folder)
    assert absent in str(problem.value).split(" not found")[0]


def test_pieces_of_another_shape_count_or_kind_are_refused(folder: Path, pictures: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"train pieces hold pictures \[H, W, C\] of .*\(4, 5, 3\) and \(5, 5, 3\)"):
        np.savez(folder / "train-002.npz", images=pictures[:1, :4], labels=np.zeros(1, np.int64))
        _load(folder)
    with pytest.raises(DataError, match="6 pictures but 7 labels"):
        np.savez(folder / "train-002.npz", images=pictures[:1], labels=np.zeros(2, np.int64))
        _load(folder)
    with pytest.raises(DataError, match="label 2 of picture 5"):
        np.savez(folder / "train-002.npz", images=pictures[:1], labels=np.full(1, 2))
        _load(folder)
    with pytest.raises(DataError, match="train-002.npz: not a piece with the arrays images and labels"):
        np.savez(folder / "train-002.npz", pictures=pictures)
        _load(folder)


def test_pickled_and_damaged_pieces_are_refused(folder: Path) -> None:
    np.savez(folder / "train-002.npz", images=np.array([{}], dtype=object), labels=np.zeros(1, np.int64))
    with pytest.raises(DataError, match="train-002.npz"):
        _load(folder)
    (folder / "train-002.npz").write_bytes((folder / "train-000.npz").read_bytes()[:-40])
    with pytest.raises(DataError, match="train-002.npz"):
        _load(folder)


def test_a_bomb_is_refused_by_its_stated_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import edgekd.data.packed as packed

    monkeypatch.setattr(packed, "MAX_MEMBER_BYTES", 100)
    with pytest.raises(DataError, match=r"test-000.npz|train-000.npz: unpacks to \d+ bytes, at most 100"):
        _load(folder)
