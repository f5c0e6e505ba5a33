import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.core.errors import ConfigError, DataError, PreconditionError
from edgekd.data.config import DataConfig
from edgekd.data.dataset import Dataset, Split
from edgekd.data.loading import load_dataset

Write = Callable[..., None]


def _load(path: Path, **options: object) -> Dataset:
    return load_dataset(DataConfig.model_validate({"name": "folder", "path": str(path), "resolution": 10, **options}))


def _pictures(split: Split) -> set[tuple[int, bytes]]:
    pixels = split.inputs.gather(np.arange(len(split)))
    return {(int(label), picture.tobytes()) for label, picture in zip(split.labels, pixels, strict=True)}


@pytest.fixture
def parted_folder(tmp_path: Path, write_picture: Write) -> Path:
    seed = 0
    for part, count in (("train", 10), ("val", 4), ("test", 3)):
        for name in ("cat", "dog"):
            for row in range(count):
                seed += 1
                write_picture(tmp_path / "set" / part / name / f"{row}.png", seed=seed)
    return tmp_path / "set"


def _files(folder: Path) -> set[tuple[int, bytes]]:
    return {
        (label, np.asarray(Image.open(path))[:, 1:11].tobytes())
        for label, name in enumerate(("cat", "dog"))
        for path in (folder / name).iterdir()
    }


def test_folder_splits_class_folders_three_ways(picture_folder: Path) -> None:
    dataset = _load(picture_folder)
    assert dataset.task.targets == ("cat", "dog")
    assert [len(split) for split in (dataset.train, dataset.val, dataset.test)] == [20, 4, 6]
    assert np.bincount(dataset.test.labels).tolist() == [2, 4]
    splits = [_pictures(split) for split in (dataset.train, dataset.val, dataset.test)]
    assert sum(map(len, splits)) == 30
    assert set.union(*splits) == _files(picture_folder)


def test_folder_test_part_does_not_depend_on_the_seed(picture_folder: Path) -> None:
    one, other = _load(picture_folder, seed=0), _load(picture_folder, seed=1)
    assert _pictures(one.test) == _pictures(other.test)
    assert _pictures(one.val) != _pictures(other.val)


def test_folder_with_train_and_test_holds_val_out_of_train(parted_folder: Path) -> None:
    (parted_folder / "val").rename(parted_folder.parent / "elsewhere")
    dataset = _load(parted_folder)
    assert _pictures(dataset.test) == _files(parted_folder / "test")
    assert _pictures(dataset.train) | _pictures(dataset.val) == _files(parted_folder / "train")
    assert (len(dataset.train), len(dataset.val)) == (17, 3)


def test_folder_with_train_and_val_never_selects_on_val(parted_folder: Path) -> None:
    (parted_folder / "test").rename(parted_folder.parent / "elsewhere")
    dataset = _load(parted_folder)
    assert _pictures(dataset.test) == _files(parted_folder / "val")
    assert _pictures(dataset.train) | _pictures(dataset.val) == _files(parted_folder / "train")
    assert any("test part: val/" in note for note in dataset.notes)


def test_folder_with_all_parts_keeps_them(parted_folder: Path) -> None:
    dataset = _load(parted_folder)
    for split, name in ((dataset.train, "train"), (dataset.val, "val"), (dataset.test, "test")):
        assert _pictures(split) == _files(parted_folder / name)
    assert any("as the folder brings it" in note for note in dataset.notes)


def test_folder_is_grey_only_when_the_training_files_are(tmp_path: Path, write_picture: Write) -> None:
    for name in ("a", "b"):
        for row in range(6):
            write_picture(tmp_path / name / f"{row}.png", mode="L", seed=row)
    grey = _load(tmp_path)
    assert grey.in_channels == 1
    assert "grey pictures, by the stored modes of 12 training files" in grey.notes
    write_picture(tmp_path / "a" / "0.png", mode="RGBA")
    colour = _load(tmp_path)
    assert colour.in_channels == 3
    assert colour.digest != grey.digest


def test_folder_finds_nested_files_and_says_what_it_ignored(picture_folder: Path, write_picture: Write) -> None:
    write_picture(picture_folder / "cat" / "deep" / "er" / "x.PNG", seed=900)
    (picture_folder / "cat" / "notes.txt").write_text("x")
    (picture_folder / "dog" / "._000.png").write_text("x")
    (picture_folder / ".cache").mkdir()
    dataset = _load(picture_folder)
    assert len(dataset.train) + len(dataset.val) + len(dataset.test) == 31
    assert "ignored 2 files that are not pictures, such as cat/notes.txt" in dataset.notes


def test_folder_names_a_corrupt_picture_wherever_it_lies(parted_folder: Path) -> None:
    for part in ("train", "val", "test"):
        path = parted_folder / part / "dog" / "1.png"
        content = path.read_bytes()
        path.write_bytes(content[:200])
        with pytest.raises(DataError, match=f"{part}/dog/1.png: cannot be read as a picture"):
            _load(parted_folder)
        path.write_bytes(content)


def test_folder_digest_follows_content_and_resolution(picture_folder: Path, write_picture: Write) -> None:
    first = _load(picture_folder).digest
    assert _load(picture_folder).digest == first
    assert _load(picture_folder, resolution=9).digest != first
    write_picture(picture_folder / "cat" / "000.png", seed=901)
    assert _load(picture_folder).digest != first


def test_folder_refuses_a_class_without_pictures(picture_folder: Path) -> None:
    (picture_folder / "emu").mkdir()
    with pytest.raises(DataError, match="emu: holds no picture"):
        _load(picture_folder)


def test_folder_refuses_a_test_class_that_train_lacks(parted_folder: Path) -> None:
    (parted_folder / "test" / "emu").mkdir()
    with pytest.raises(DataError, match="class emu is not among the classes of train"):
        _load(parted_folder)


def test_folder_notes_a_class_that_the_test_part_lacks(parted_folder: Path) -> None:
    (parted_folder / "test" / "dog").rename(parted_folder.parent / "dog")
    assert "test has no picture of 1 classes, such as dog" in _load(parted_folder).notes


def test_folder_refuses_train_alone(parted_folder: Path) -> None:
    (parted_folder / "test").rename(parted_folder.parent / "a")
    (parted_folder / "val").rename(parted_folder.parent / "b")
    with pytest.raises(DataError, match="has train/ but no class folders in test/ or val/"):
        _load(parted_folder)


def test_folder_refuses_too_few_pictures_with_the_numbers(tmp_path: Path, write_picture: Write) -> None:
    write_picture(tmp_path / "a" / "0.png")
    write_picture(tmp_path / "b" / "0.png", seed=1)
    with pytest.raises(DataError, match=r"cannot hold 0\.2 of 2 pictures in 2 classes out"):
        _load(tmp_path)


def test_folder_tells_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no class folder"):
        _load(tmp_path)
    with pytest.raises(PreconditionError, match="nothing is there"):
        _load(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    with pytest.raises(PreconditionError, match="is a file"):
        _load(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"set data\.resolution"):
        load_dataset(DataConfig(name="folder", path=str(tmp_path)))


def test_folder_limit_keeps_both_classes(picture_folder: Path) -> None:
    dataset = _load(picture_folder, limit=12, val_fraction=0.25)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (9, 3, 6)
    assert np.bincount(np.concatenate([dataset.train.labels, dataset.val.labels])).tolist() == [4, 8]


def test_folder_refuses_a_subfolder_that_cannot_be_listed(
    picture_folder: Path, write_picture: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_picture(picture_folder / "cat" / "locked" / "x.png", seed=902)
    scandir = os.scandir

    def refusing(path: str) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match="cat/locked: cannot be listed: Permission denied"):
        _load(picture_folder)


def test_folder_refuses_a_root_that_cannot_be_listed(picture_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refusing)
    with pytest.raises(DataError, match="pets: cannot be listed: Permission denied"):
        _load(picture_folder)
