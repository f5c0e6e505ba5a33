from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from edgekd.core.errors import ConfigError, DataError
from edgekd.data.config import DataConfig
from edgekd.data.dataset import Dataset
from edgekd.data.loading import load_dataset


def _pixels(dataset: Dataset, name: str) -> np.ndarray:
    split = getattr(dataset, name)
    return split.inputs.gather(np.arange(len(split)))


def _load(folder: Path, **options: object) -> Dataset:
    return load_dataset(DataConfig.model_validate({"name": "mnist", "path": str(folder), **options}))


def test_load_dataset_takes_statistics_from_train_only(idx_folder: Path) -> None:
    dataset = _load(idx_folder, val_fraction=0.4)
    train = _pixels(dataset, "train") / 255.0
    assert dataset.mean[0] == pytest.approx(train.mean(), rel=1e-12)
    assert dataset.std[0] == pytest.approx(train.std(), rel=1e-9)
    assert dataset.mean[0] != pytest.approx(np.concatenate([train, _pixels(dataset, "val") / 255.0]).mean(), rel=1e-6)


def test_load_dataset_never_takes_val_from_the_test_files(idx_folder: Path) -> None:
    dataset = _load(idx_folder)
    stored = (idx_folder / "t10k-images-idx3-ubyte").read_bytes()[16:]
    assert _pixels(dataset, "test").tobytes() == stored
    train_file = (idx_folder / "train-images-idx3-ubyte").read_bytes()[16:]
    expected = sorted(train_file[start : start + 36] for start in range(0, len(train_file), 36))
    found = [picture.tobytes() for name in ("train", "val") for picture in _pixels(dataset, name)]
    assert sorted(found) == expected


def test_load_dataset_digest_is_reproducible_and_covers_what_matters(
    idx_folder: Path, idx_bytes: Callable[[np.ndarray], bytes]
) -> None:
    base = _load(idx_folder).digest
    assert _load(idx_folder).digest == base
    digests = {base}
    for options in ({"seed": 1}, {"val_fraction": 0.3}, {"resolution": 7}, {"limit": 30}):
        digests.add(_load(idx_folder, **options).digest)
    labels = np.arange(20, dtype=np.uint8) % 10
    labels[0] = 9
    (idx_folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    digests.add(_load(idx_folder).digest)
    content = bytearray((idx_folder / "train-images-idx3-ubyte").read_bytes())
    content[500] ^= 1
    (idx_folder / "train-images-idx3-ubyte").write_bytes(content)
    digests.add(_load(idx_folder).digest)
    assert len(digests) == 7


def test_load_dataset_digest_does_not_depend_on_where_the_files_lie(idx_folder: Path, tmp_path: Path) -> None:
    here = _load(idx_folder).digest
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    idx_folder.rename(moved)
    assert _load(moved).digest == here


def test_load_dataset_limit_is_stratified_and_bounds_every_part(idx_folder: Path) -> None:
    dataset = _load(idx_folder, limit=20, val_fraction=0.5)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (10, 10, 20)
    assert np.bincount(np.concatenate([dataset.train.labels, dataset.val.labels])).tolist() == [2] * 10
    assert len(_load(idx_folder, limit=15, val_fraction=0.3).test) == 15


def test_load_dataset_limited_test_part_is_the_same_for_every_seed(idx_folder: Path) -> None:
    one, other = (_load(idx_folder, limit=15, val_fraction=0.3, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(_pixels(one, "test"), _pixels(other, "test"))
    assert sorted(p.tobytes() for p in _pixels(one, "train")) != sorted(p.tobytes() for p in _pixels(other, "train"))


def test_load_dataset_refuses_a_limit_without_room_for_every_class(idx_folder: Path) -> None:
    with pytest.raises(DataError, match=r"cannot hold|have no training example under data\.limit 8"):
        _load(idx_folder, limit=8)


def test_load_dataset_refuses_classes_without_training_pictures(
    idx_folder: Path, idx_bytes: Callable[[np.ndarray], bytes]
) -> None:
    (idx_folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(40, dtype=np.uint8) % 8))
    with pytest.raises(DataError, match="2 of 10 classes have no training example: 8, 9"):
        _load(idx_folder)


def test_load_dataset_resizes_every_part(idx_folder: Path) -> None:
    dataset = _load(idx_folder, resolution=12)
    assert dataset.resolution == 12
    for name in ("train", "val", "test"):
        assert _pixels(dataset, name).shape[1:] == (12, 12, 1)


def test_load_dataset_asks_for_a_resolution_when_pictures_are_not_square(
    idx_folder: Path, idx_bytes: Callable[[np.ndarray], bytes]
) -> None:
    rng = np.random.default_rng(0)
    for stem, count in (("train", 40), ("t10k", 20)):
        pixels = rng.integers(0, 256, (count, 6, 9), np.uint8)
        (idx_folder / f"{stem}-images-idx3-ubyte").write_bytes(idx_bytes(pixels))
    with pytest.raises(ConfigError, match=r"9 x 6 pixels; set data\.resolution"):
        _load(idx_folder)
    assert _load(idx_folder, resolution=6).resolution == 6


def test_load_dataset_refuses_parts_of_two_sizes(idx_folder: Path, idx_bytes: Callable[[np.ndarray], bytes]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 7, 7), np.uint8)
    (idx_folder / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(pixels))
    with pytest.raises(DataError, match="differ in shape between parts"):
        _load(idx_folder)


def test_load_dataset_notes_sampled_statistics(idx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekd.data import loading, statistics

    monkeypatch.setattr(
        loading,
        "channel_statistics",
        lambda images, max_values: statistics.channel_statistics(images, max_values=36 * 5),
    )
    assert "mean and std: from 5 evenly spaced training pictures" in _load(idx_folder).notes


@pytest.mark.parametrize(
    "options",
    [{"val_fraction": 0.0}, {"val_fraction": 1.0}, {"limit": 0}, {"resolution": 0}, {"seed": -1}, {"pth": "x"}],
)
def test_data_config_refuses_impossible_values(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DataConfig.model_validate(options)
