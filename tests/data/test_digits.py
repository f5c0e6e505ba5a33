import numpy as np
import pytest
from sklearn.datasets import load_digits as bundled_digits

from edgekd.core.errors import ConfigError
from edgekd.data.config import DataConfig
from edgekd.data.dataset import Dataset
from edgekd.data.digits import load_digits
from edgekd.data.loading import load_dataset


def _labelled_pictures(dataset: Dataset) -> list[tuple[int, bytes]]:
    splits = (dataset.train, dataset.val, dataset.test)
    return sorted(
        (int(label), picture.tobytes())
        for split in splits
        for label, picture in zip(split.labels, split.inputs.gather(np.arange(len(split))), strict=True)
    )


def test_digits_are_those_of_scikit_learn_scaled_to_bytes_each_once() -> None:
    dataset = load_dataset(DataConfig())
    byte_of = [round(value * 255 / 16) for value in range(17)]
    bundled = bundled_digits()
    expected = sorted(
        (int(label), bytes(byte_of[int(value)] for value in picture.ravel()))
        for label, picture in zip(bundled.target, bundled.images, strict=True)
    )
    assert _labelled_pictures(dataset) == expected
    assert (dataset.in_channels, dataset.resolution, dataset.task.targets) == (1, 8, tuple("0123456789"))


def test_digits_splits_keep_the_class_shares_and_sizes() -> None:
    dataset = load_dataset(DataConfig())
    totals = np.bincount(bundled_digits().target)
    assert len(dataset.test) == round(1797 * 0.3)
    assert len(dataset.val) == round((1797 - len(dataset.test)) * 0.15)
    assert np.abs(np.bincount(dataset.test.labels) - totals * 0.3).max() < 1
    assert len(dataset.train) + len(dataset.val) + len(dataset.test) == 1797


def test_digits_test_part_is_the_same_for_every_seed() -> None:
    one, other = (load_dataset(DataConfig(seed=seed)) for seed in (0, 1))
    rows = np.arange(len(one.test))
    np.testing.assert_array_equal(one.test.inputs.gather(rows), other.test.inputs.gather(rows))
    assert not np.array_equal(one.val.inputs.gather(rows[:100]), other.val.inputs.gather(rows[:100]))


def test_digits_refuse_a_path() -> None:
    with pytest.raises(ConfigError, match=r"remove data\.path \(somewhere\)"):
        load_digits(DataConfig(path="somewhere"))
