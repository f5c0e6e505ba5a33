from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekd.core.errors import ConfigError, DataError, PreconditionError
from edgekd.data import DataConfig, Dataset, ResidentSplit, batches_ahead, calibration_rows, load_dataset, train_batches
from edgekd.data.augment import augmentation
from edgekd.data.images import ArrayImages
from edgekd.data.joined import JoinedRows

Write = Callable[..., None]
Encoded = Callable[..., bytes]


def _load(path: Path, **options: object) -> Dataset:
    document = {"name": "folder", "path": str(path), "resolution": 10, **options}
    return load_dataset(DataConfig.model_validate(document))


@pytest.fixture
def wild(tmp_path: Path, write_picture: Write) -> Path:
    """Return 12 pictures without labels, at two depths."""
    for row in range(12):
        write_picture(tmp_path / "wild" / ("deep/er" if row % 2 else "") / f"{row}.jpg", seed=7000 + row)
    (tmp_path / "wild" / "readme.txt").write_text("x")
    return tmp_path / "wild"


def test_unlabelled_pictures_come_behind_the_labelled_ones(picture_folder: Path, wild: Path) -> None:
    plain, dataset = _load(picture_folder), _load(picture_folder, unlabelled=str(wild))
    split = dataset.train
    assert len(split) == len(plain.train) + 12
    assert split.has_label.tolist() == [True] * len(plain.train) + [False] * 12
    assert split.labels[~split.has_label].tolist() == [-1] * 12
    for name in ("val", "test"):
        assert getattr(dataset, name).labels.tolist() == getattr(plain, name).labels.tolist()
        assert getattr(dataset, name).has_label.all()
    assert "12 of 12 pictures without a label are trained on" in dataset.notes
    assert dataset.digest != plain.digest
    pixels = split.inputs.gather(np.arange(len(split)))
    assert len({one.tobytes() for one in pixels}) == len(split)
    assert (split.inputs.gather(np.array([30, 2, 21])) == pixels[[30, 2, 21]]).all()


def test_the_ratio_bounds_how_many_are_taken_and_the_seed_says_which(picture_folder: Path, wild: Path) -> None:
    def added(**options: object) -> list[bytes]:
        split = _load(picture_folder, unlabelled=str(wild), unlabelled_ratio=0.25, **options).train
        return [one.tobytes() for one in split.inputs.gather(np.flatnonzero(~split.has_label))]

    assert len(added()) == 5  # of 20 training pictures
    assert added() == added()
    assert set(added()) != set(added(seed=4))
    with pytest.raises(ValueError, match="unlabelled_ratio is of the pictures that data.unlabelled names"):
        DataConfig(name="folder", unlabelled_ratio=1)


def test_batches_say_which_rows_have_a_label_with_workers_and_on_the_device(picture_folder: Path, wild: Path) -> None:
    split = _load(picture_folder, unlabelled=str(wild)).train
    made = list(train_batches(split, batch_size=8, epoch=0, seed=0, augment=augmentation("none")))
    assert any(batch.is_labelled.any() and not batch.is_labelled.all() for batch in made)
    ahead = batches_ahead(split, batch_size=8, epoch=0, seed=0, augment=augmentation("none"), workers=1)
    resident = ResidentSplit(split, augmentation("none"), torch.device("cpu")).batches(batch_size=8, epoch=0, seed=0)
    for batch, other, third in zip(made, ahead, resident, strict=True):
        assert batch.is_labelled.tolist() == (batch.ids < 20).tolist()
        for one in (other, third):
            assert one.is_labelled.tolist() == batch.is_labelled.tolist()
            assert (one.inputs == batch.inputs).all()
            assert (one.labels == batch.labels).all()


def test_shards_without_labels_are_taken_and_shuffled_among_their_own(
    shards: Path, tmp_path: Path, write_shard: Write, encoded: Encoded
) -> None:
    for shard in range(2):
        members = {f"{row}.png": encoded(9000 + 10 * shard + row) for row in range(5)}
        write_shard(tmp_path / "more" / f"{shard}.tar", members | {"0.cls": b"broken label is read by nobody's class"})
    document = {"name": "webdataset", "path": str(shards), "resolution": 10, "shuffle": "shards"}
    dataset = load_dataset(DataConfig.model_validate({**document, "unlabelled": str(tmp_path / "more")}))
    assert int((~dataset.train.has_label).sum()) == 10
    assert dataset.train.mixing is not None
    groups = dataset.train.mixing.groups
    assert not set(groups[dataset.train.has_label]) & set(groups[~dataset.train.has_label])
    assert len(set(groups)) == 6
    with pytest.raises(DataError, match=r"1\.tar is missing"):
        (tmp_path / "more" / "1.tar").rename(tmp_path / "more" / "2.tar")
        load_dataset(DataConfig.model_validate({**document, "unlabelled": str(tmp_path / "more")}))


def test_negative_labels_are_none_and_judge_nothing(shards: Path, write_shard: Write, encoded: Encoded) -> None:
    members = {}
    for row in range(10):
        members |= {f"{row}.png": encoded(9000 + row), f"{row}.cls": b"-1" if row < 6 else b"1"}
    write_shard(shards / "train-000004.tar", members)
    write_shard(shards / "test-000001.tar", members)
    dataset = load_dataset(DataConfig.model_validate({"name": "webdataset", "path": str(shards), "resolution": 10}))
    assert int((~dataset.train.has_label).sum()) == 6
    assert len(dataset.test) == 16
    assert "6 of 22 test pictures have no label and are left out" in dataset.notes
    rows = calibration_rows(dataset, size=32, seed=0)
    assert dataset.train.has_label[rows].all()


def test_a_training_part_without_labels_is_judged_by_parts_of_the_test_part(
    shards: Path, write_shard: Write, encoded: Encoded
) -> None:
    for shard in range(4):
        members = {f"{row}.png": encoded(300 * shard + row) for row in range(10)}
        write_shard(shards / f"train-{shard:06d}.tar", members)
    dataset = load_dataset(
        DataConfig.model_validate({"name": "webdataset", "path": str(shards), "resolution": 10, "val_fraction": 0.25})
    )
    assert not dataset.train.has_label.any()
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (40, 3, 9)
    pixels = [{one.tobytes() for one in getattr(dataset, name).inputs.gather(np.arange(3))} for name in ("val", "test")]
    assert not pixels[0] & pixels[1]
    assert any("held-out split is made from the test part" in note for note in dataset.notes)
    assert len(calibration_rows(dataset, size=8, seed=0)) == 8


def test_what_cannot_take_pictures_says_so(picture_folder: Path, tmp_path: Path, wild: Path) -> None:
    with pytest.raises(PreconditionError, match="no folder, shards"):
        _load(picture_folder, unlabelled=str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no picture"):
        _load(picture_folder, unlabelled=str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="'digits-scenes': data.unlabelled is for square pictures of one class each"):
        load_dataset(DataConfig(name="digits-scenes", unlabelled=str(wild)))


def test_digits_take_pictures_of_their_own_shape(wild: Path) -> None:
    dataset = load_dataset(DataConfig(name="digits", limit=200, unlabelled=str(wild)))
    assert dataset.input_shape == (1, 8, 8)
    assert int((~dataset.train.has_label).sum()) == 12


def test_joined_rows_are_those_of_each_store_in_turn() -> None:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (count, 2, 2, 1), np.uint8) for count in (3, 1, 4)]
    joined = JoinedRows([ArrayImages(one) for one in pixels])
    whole = np.concatenate(pixels)
    assert (joined.gather(np.array([7, 0, 3, 2, 7])) == whole[[7, 0, 3, 2, 7]]).all()
    assert joined.gather(np.empty(0, np.int64)).shape == (0, 2, 2, 1)
    assert len(joined) == 8
    assert joined.fingerprint(np.arange(8)) != joined.fingerprint(np.array([0, 1, 2, 3, 4, 5, 7, 6]))
    with pytest.raises(DataError, match="cannot be one split"):
        JoinedRows([ArrayImages(pixels[0]), ArrayImages(np.zeros((1, 3, 3, 1), np.uint8))])
