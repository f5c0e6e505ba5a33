import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekd.core.errors import CorruptInput, DataError, StorageError
from edgekd.data import DataConfig, Dataset, batches_ahead, load_dataset, train_batches
from edgekd.data.augment import augmentation
from edgekd.data.corrupt import CorruptLog, CorruptRecord, StoodIn, allowed
from edgekd.data.inputs import Rows, Stored


class _Numbers:
    """Inputs that are their row number, some of which cannot be decoded."""

    shape = (1,)

    def __init__(self, count: int, bad: set[int]) -> None:
        self.count, self.bad = count, bad

    def __len__(self) -> int:
        return self.count

    def gather(self, indices: Rows) -> Stored:
        for row in indices:
            if int(row) in self.bad:
                raise CorruptInput(f"n{row}", "bad")
        return indices[:, None].copy()

    def fingerprint(self, indices: Rows) -> str:
        return "numbers"


def _stood_in(bad: set[int], log: CorruptLog, count: int = 20) -> StoodIn:
    return StoodIn(_Numbers(count, bad), np.arange(count) % 2, "train", log)


def test_another_of_the_same_class_stands_in_whatever_is_gathered_and_when(tmp_path: Path) -> None:
    log = CorruptLog(tmp_path / "c.jsonl", 9)
    bad = {3, 4, 5, 7}
    inputs = _stood_in(bad, log)
    whole = inputs.gather(np.arange(20))[:, 0]
    for row, given in enumerate(whole):
        assert given == row if row not in bad else (given not in bad and given % 2 == row % 2)
    other = _stood_in(bad, CorruptLog(tmp_path / "d.jsonl", 9))
    assert other.gather(np.array([7, 0, 3]))[:, 0].tolist() == [whole[7], 0, whole[3]]
    assert other.gather(np.array([7, 3, 3]))[:, 0].tolist() == [whole[7], whole[3], whole[3]]
    assert other.gather(np.array([5]))[:, 0].tolist() == [whole[5]]
    assert len({int(whole[row]) for row in (3, 5, 7)}) > 1, "one row should not stand in for all"
    assert [record.name for record in log.records()] == ["n3", "n4", "n5", "n7"]
    assert inputs.fingerprint(np.arange(2)) == "numbers"


def test_each_input_counts_once_and_one_too_many_ends_with_a_list(tmp_path: Path) -> None:
    inputs = _stood_in({1, 2, 3}, CorruptLog(tmp_path / "c.jsonl", 2))
    for _ in range(3):
        inputs.gather(np.array([1, 2, 1]))
    with pytest.raises(DataError, match=r"3 inputs .* data.max_corrupt allows 2: .*n3 \(bad\).*c\.jsonl"):
        inputs.gather(np.array([3]))
    lines = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert lines[0] == {"part": "train", "name": "n1", "reason": "bad"}


def test_a_class_that_is_corrupt_altogether_ends(tmp_path: Path) -> None:
    inputs = _stood_in(set(range(0, 20, 2)), CorruptLog(tmp_path / "c.jsonl", 99))
    with pytest.raises(DataError, match="train: row 4 cannot be decoded, and no other of class 0 that was tried can"):
        inputs.gather(np.array([4]))


def _add(path: Path, first: int) -> None:
    log = CorruptLog(path, 1000)
    for number in range(first, first + 50):
        log.add(CorruptRecord("train", f"n{number:03d}", "bad"))


def test_processes_count_together(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_add, args=(tmp_path / "c.jsonl", first)) for first in (0, 25, 50)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    log = CorruptLog(tmp_path / "c.jsonl", 100)
    assert [record.name for record in log.records()] == [f"n{number:03d}" for number in range(100)]
    with pytest.raises(DataError, match="101 inputs cannot be decoded"):
        log.add(CorruptRecord("val", "more", "bad"))


def test_a_line_cut_short_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    CorruptLog(path, 9).add(CorruptRecord("val", "a", "bad"))
    path.write_bytes(path.read_bytes() + b'{"part": "tr')
    assert CorruptLog(path, 9).records() == (CorruptRecord("val", "a", "bad"),)


def test_a_list_without_a_place_is_temporary() -> None:
    log = CorruptLog(None, 9)
    log.add(CorruptRecord("val", "a", "bad"))
    path = log._path
    assert path.is_file()
    del log
    assert not path.exists()


def test_a_list_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write .*file/c.jsonl: "):
        CorruptLog(tmp_path / "file" / "c.jsonl", 9).add(CorruptRecord("val", "a", "bad"))


@pytest.mark.parametrize(("said", "count", "most"), [(0.1, 39, 3), (1, 39, 1), (12.0, 5, 12), (0.99, 100, 99)])
def test_below_one_it_is_a_share(said: float, count: int, most: int) -> None:
    assert allowed(said, count) == most


def _load(path: Path, **options: object) -> Dataset:
    document = {"name": "folder", "path": str(path), "resolution": 10, **options}
    return load_dataset(DataConfig.model_validate(document))


@pytest.fixture
def damaged_folder(picture_folder: Path) -> Path:
    """Return 30 pictures of which 3 dogs and 1 cat are cut short."""
    for name in ("dog/001.png", "dog/005.png", "dog/016.png", "cat/004.png"):
        os.truncate(picture_folder / name, 90)
    return picture_folder


def test_corrupt_pictures_end_the_run_with_what_to_do_or_are_listed(damaged_folder: Path) -> None:
    with pytest.raises(DataError, match=r"\.png: cannot be read as a picture .*data\.max_corrupt"):
        _load(damaged_folder)
    with pytest.raises(DataError, match="4 inputs cannot be decoded, data.max_corrupt allows 3"):
        for split in (dataset := _load(damaged_folder, max_corrupt=0.1)).train, dataset.val, dataset.test:
            split.inputs.gather(np.arange(len(split)))
    dataset = _load(damaged_folder, max_corrupt=4)
    for split in (dataset.train, dataset.val, dataset.test):
        split.inputs.gather(np.arange(len(split)))
    assert dataset.corrupt is not None
    names = sorted(record.name for record in dataset.corrupt.records())
    assert names == ["cat/004.png", "dog/001.png", "dog/005.png", "dog/016.png"]
    assert _load(damaged_folder, max_corrupt=4).digest == dataset.digest


def test_a_file_that_is_gone_or_refused_is_not_corrupt(damaged_folder: Path) -> None:
    dataset = _load(damaged_folder, max_corrupt=20)
    for path in damaged_folder.rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        dataset.train.inputs.gather(np.arange(3))


def test_stand_ins_never_come_from_another_split(damaged_folder: Path) -> None:
    dataset = _load(damaged_folder, max_corrupt=20)
    pixels = [
        {one.tobytes() for one in split.inputs.gather(np.arange(len(split)))}
        for split in (dataset.train, dataset.val, dataset.test)
    ]
    assert not pixels[0] & pixels[1] and not pixels[0] & pixels[2] and not pixels[1] & pixels[2]
    assert sum(map(len, pixels)) == 26


def test_workers_make_the_same_batches_and_count_alike(damaged_folder: Path, tmp_path: Path) -> None:
    found = []
    for workers in (0, 2):
        config = {"name": "folder", "path": str(damaged_folder), "resolution": 10, "max_corrupt": 9}
        dataset = load_dataset(DataConfig.model_validate(config), corrupt_file=tmp_path / f"{workers}.jsonl")
        augment = augmentation("shift")
        if workers:
            batches = batches_ahead(dataset.train, batch_size=4, epoch=0, seed=1, augment=augment, workers=workers)
        else:
            batches = train_batches(dataset.train, batch_size=4, epoch=0, seed=1, augment=augment)
        assert dataset.corrupt is not None
        made = [batch.inputs.numpy().tobytes() for batch in batches]
        found.append((made, dataset.corrupt.records()))
    assert found[0] == found[1]
    assert len(found[0][1]) >= 2


def test_what_a_worker_finds_too_many_comes_as_it_is(damaged_folder: Path, tmp_path: Path) -> None:
    dataset = _load(damaged_folder, max_corrupt=9)
    log = CorruptLog(tmp_path / "fresh.jsonl", 0)
    split = dataset.train
    strict = StoodIn(split.inputs._store, split.inputs._strata, "train", log)  # type: ignore[attr-defined]
    object.__setattr__(split, "inputs", strict)
    with pytest.raises(DataError, match=r"^1 inputs cannot be decoded") as caught:
        list(batches_ahead(split, batch_size=4, epoch=0, seed=1, augment=augmentation("none"), workers=2))
    assert "Traceback" not in str(caught.value)


def test_bounds_are_kept_when_a_run_goes_on(damaged_folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "corrupt.jsonl"
    log.write_text("".join(f'{{"part": "train", "name": "{name}", "reason": "r"}}\n' for name in "abc"))
    config = {"name": "folder", "path": str(damaged_folder), "resolution": 10, "max_corrupt": 2}
    with pytest.raises(DataError, match="3 inputs cannot be decoded, data.max_corrupt allows 2"):
        load_dataset(DataConfig.model_validate(config), corrupt_file=log)


Write = Callable[..., None]


def test_grey_is_decided_by_those_that_can_be_read(tmp_path: Path, write_picture: Write) -> None:
    for name in ("a", "b"):
        for row in range(8):
            write_picture(tmp_path / name / f"{row}.png", mode="L", seed=row + 50 * (name == "b"))
    os.truncate(tmp_path / "a" / "0.png", 20)
    assert _load(tmp_path, max_corrupt=1).in_channels == 1
