import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.core.errors import ConfigError, DataError, PreconditionError
from edgekd.data import DataConfig, Dataset, batches_ahead, load_dataset, train_batches
from edgekd.data.augment import augmentation
from edgekd.data.dataset import Split

Write = Callable[..., None]
Encoded = Callable[..., bytes]


def _load(path: Path | str, **options: object) -> Dataset:
    return load_dataset(
        DataConfig.model_validate({"name": "webdataset", "path": str(path), "resolution": 10, **options})
    )


def _pixels(content: bytes) -> bytes:
    """Return the centre 10 x 10 of a picture of 12 x 10, decoded here."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))[:, 1:11].tobytes()


def _found(split: Split) -> set[tuple[int, bytes]]:
    pixels = split.inputs.gather(np.arange(len(split)))
    return {(int(label), one.tobytes()) for label, one in zip(split.labels, pixels, strict=True)}


def _expected(encoded: Encoded, numbers: range) -> set[tuple[int, bytes]]:
    return {(number % 3, _pixels(encoded(number))) for number in numbers}


def test_shards_give_every_picture_with_its_label(shards: Path, encoded: Encoded) -> None:
    dataset = _load(shards)
    numbers = [range(100 * shard, 100 * shard + 10) for shard in range(4)]
    train = set.union(*(_expected(encoded, one) for one in numbers))
    assert _found(dataset.train) | _found(dataset.val) == train
    assert _found(dataset.test) == _expected(encoded, range(5000, 5012))
    assert dataset.task.targets == ("0", "1", "2")
    assert dataset.shards is not None and dataset.shards.count == 5
    assert "5 shards" in dataset.notes


def test_a_pattern_alone_is_split_three_ways(shards: Path) -> None:
    dataset = _load(shards / "train-{000000..000003}.tar")
    assert len(dataset.train) + len(dataset.val) + len(dataset.test) == 40
    assert len(dataset.test) == 8
    assert _found(_load(shards / "train-*.tar", seed=3).test) == _found(dataset.test)


def test_parts_may_be_named(shards: Path) -> None:
    parts = {"train": "train-00000{0..1}.tar", "val": "train-000002.tar", "test": ["train-000003.tar", "test-*.tar"]}
    dataset = _load(shards, parts=parts)
    assert [len(split) for split in (dataset.train, dataset.val, dataset.test)] == [20, 10, 22]
    with pytest.raises(ConfigError, match="data.parts names test, and no shards of train"):
        _load(shards, parts={"test": "test-*.tar"})


def test_a_shard_missing_in_the_middle_ends_the_run_unless_it_is_skipped(shards: Path) -> None:
    (shards / "train-000002.tar").unlink()
    for path in (shards, shards / "train-{000000..000003}.tar", shards / "train-*.tar"):
        with pytest.raises(DataError, match=r"train-000002\.tar is missing, of [45] shards"):
            _load(path)
        dataset = _load(path, missing_shards="skip")
        assert dataset.shards is not None and dataset.shards.missing == ("train-000002.tar",)
        assert "1 shards are missing and skipped, such as train-000002.tar" in dataset.notes


def test_classes_are_those_of_the_file_or_the_names_that_labels_are(
    tmp_path: Path, write_shard: Write, encoded: Encoded
) -> None:
    names = ("dog", "cat", "emu")
    write_shard(
        tmp_path / "a.tar",
        {
            f"{row}{suffix}": content
            for row in range(30)
            for suffix, content in ((".jpg", encoded(row, ".jpg")), (".cls", names[row % 3].encode()))
        },
    )
    assert _load(tmp_path).task.targets == ("cat", "dog", "emu")
    (tmp_path / "classes.txt").write_text("emu\ndog\ncat\n")
    dataset = _load(tmp_path)
    assert dataset.task.targets == ("emu", "dog", "cat")
    assert (0, _pixels(encoded(2, ".jpg"))) in _found(dataset.train) | _found(dataset.val) | _found(dataset.test)
    (tmp_path / "classes.txt").write_text("emu\ndog\n")
    with pytest.raises(DataError, match=r"a\.tar: 1\.jpg: label 'cat' is none of the 2 classes \(emu, dog\); 10 such"):
        _load(tmp_path)


def test_labels_out_of_range_or_of_two_kinds_are_named(shards: Path, write_shard: Write, encoded: Encoded) -> None:
    (shards / "classes.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"train-000000\.tar: 000002\.png: label 2 is none of the 2 classes"):
        _load(shards)
    (shards / "classes.txt").unlink()
    write_shard(shards / "train-000004.tar", {"x.png": encoded(1), "x.cls": b"cat"})
    with pytest.raises(DataError, match="labels are numbers and names, such as 0 and 'cat'"):
        _load(shards)


def test_the_digest_follows_pictures_labels_and_order_and_nothing_else(
    shards: Path, write_shard: Write, encoded: Encoded
) -> None:
    first = _load(shards).digest
    assert _load(shards).digest == first
    digests = {first, _load(shards, shuffle="shards").digest, _load(shards, shuffle="shards", window=2).digest}
    digests.add(_load(shards, decode="fast").digest)
    elsewhere = shards.rename(shards.parent / "elsewhere")
    assert _load(elsewhere).digest == first
    members = {
        "0.png": encoded(1),
        "0.cls": b"0",
        "1.png": encoded(2),
        "1.cls": b"1",
        "2.png": encoded(3),
        "2.cls": b"2",
    }
    write_shard(elsewhere / "test-000000.tar", members)
    digests.add(_load(elsewhere).digest)
    write_shard(elsewhere / "test-000000.tar", {**members, "2.cls": b"1"})
    digests.add(_load(elsewhere).digest)
    assert len(digests) == 6


def test_any_number_of_workers_makes_the_same_batches_from_any_step(shards: Path) -> None:
    for options in ({}, {"shuffle": "shards", "window": 2}):
        split, augment = _load(shards, **options).train, augmentation("shift")
        whole = list(train_batches(split, batch_size=4, epoch=1, seed=5, augment=augment))
        ahead = batches_ahead(split, batch_size=4, epoch=1, seed=5, augment=augment, workers=2, first=3)
        for mine, theirs in zip(whole[3:], ahead, strict=True):
            assert (mine.inputs == theirs.inputs).all()
            assert mine.ids.tolist() == theirs.ids.tolist()


def test_shard_wise_shuffling_reads_a_few_shards_at_a_time_and_every_row_once(shards: Path) -> None:
    dataset = _load(shards / "train-*.tar", shuffle="shards", window=2, val_fraction=0.1)
    split = dataset.train
    assert split.mixing is not None
    orders = []
    for epoch in range(2):
        batches = train_batches(split, batch_size=3, epoch=epoch, seed=0, augment=augmentation("none"), drop_last=False)
        order = np.concatenate([batch.ids.numpy() for batch in batches])
        assert sorted(order) == list(range(len(split)))
        groups = split.mixing.groups[order]
        half = np.isin(split.mixing.groups, np.unique(groups[:3])).sum()
        first, second = set(groups[: len(groups) // 2 - 2]), set(groups[len(groups) // 2 + 2 :])
        assert len(first) == len(second) == 2 and not first & second and half >= 3
        orders.append(order.tolist())
    assert orders[0] != orders[1]
    firsts = set()
    for epoch in range(8):
        batch = next(train_batches(split, batch_size=12, epoch=epoch, seed=0, augment=augmentation("none")))
        firsts.add(frozenset(split.mixing.groups[batch.ids.numpy()].tolist()))
    assert len(firsts) > 2, "which shards come first must change too"
    with pytest.raises(ConfigError, match="'digits' has no shards to shuffle"):
        load_dataset(DataConfig(name="digits", shuffle="shards"))


def test_a_shard_cut_short_ends_the_run_or_counts_as_one(shards: Path) -> None:
    os.truncate(shards / "train-000003.tar", 5000)
    with pytest.raises(DataError, match=r"train-000003\.tar: it is cut short or damaged.*max_corrupt"):
        _load(shards)
    dataset = _load(shards, max_corrupt=1)
    assert 30 < len(dataset.train) + len(dataset.val) < 40
    assert dataset.corrupt is not None
    assert [record.name for record in dataset.corrupt.records()] == ["train-000003.tar"]


def test_what_is_wrong_with_the_path_is_told(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set data\.resolution"):
        load_dataset(DataConfig(name="webdataset", path=str(shards)))
    with pytest.raises(PreconditionError, match="needs data.path: a folder of .tar shards"):
        load_dataset(DataConfig(name="webdataset", resolution=8))
    with pytest.raises(PreconditionError, match="nothing is there"):
        _load(tmp_path / "absent.tar")
    with pytest.raises(PreconditionError, match="no such folder"):
        _load(tmp_path / "absent" / "{0..3}.tar")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "train-0.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match=r"holds no shard of train .*train-0\.tar\.gz is compressed: unpack it"):
        _load(tmp_path / "packed")
    with pytest.raises(DataError, match=r"holds shards or tables: take --data webdataset"):
        load_dataset(DataConfig(name="folder", path=str(shards), resolution=8))


def test_shards_without_any_label_are_refused_with_where_they_belong(
    tmp_path: Path, write_shard: Write, encoded: Encoded
) -> None:
    write_shard(tmp_path / "a.tar", {f"{row}.png": encoded(row) for row in range(9)})
    with pytest.raises(DataError, match=r"no picture has a label .*data\.unlabelled"):
        _load(tmp_path)
