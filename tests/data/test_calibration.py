import numpy as np
import pytest

from edgekd.core.errors import ConfigError
from edgekd.data.calibration import calibration_inputs, calibration_rows
from edgekd.data.dataset import Dataset, Split
from edgekd.data.images import ArrayImages
from edgekd.data.inputs import network_inputs
from edgekd.data.task import Task

TASK = Task("classification", tuple("abc"))


def _dataset(counts: list[int]) -> Dataset:
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    pixels = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(2, 1).repeat(2, 2)
    train = Split(ArrayImages(pixels), labels, TASK)
    other = Split(ArrayImages(np.full((5, 2, 2, 1), 255, np.uint8)), np.zeros(5, np.int64), TASK)
    return Dataset("toy", train, other, other, (0.5,), (0.5,), "d")


def test_calibration_rows_are_balanced_distinct_and_mixed() -> None:
    dataset = _dataset([80, 30, 60])
    rows = calibration_rows(dataset, size=45, seed=0)
    assert np.bincount(dataset.train.labels[rows]).tolist() == [15, 15, 15]
    assert len(set(rows.tolist())) == 45
    assert len(set(dataset.train.labels[rows[:15]])) == 3


def test_calibration_rows_fill_up_from_other_classes_when_one_is_small() -> None:
    dataset = _dataset([80, 2, 60])
    assert np.bincount(dataset.train.labels[calibration_rows(dataset, size=22, seed=0)]).tolist() == [10, 2, 10]


def test_calibration_inputs_come_from_train_in_the_order_of_the_rows() -> None:
    dataset = _dataset([80, 30, 60])
    images = calibration_inputs(dataset, size=12, seed=4)
    rows = calibration_rows(dataset, size=12, seed=4)
    np.testing.assert_array_equal(images, network_inputs(dataset.train.inputs.gather(rows)))
    assert images.dtype == np.float32
    assert images.max() < 1.0


def test_calibration_rows_depend_on_the_seed() -> None:
    dataset = _dataset([80, 30, 60])
    first, again, other = (calibration_rows(dataset, size=12, seed=seed).tolist() for seed in (1, 1, 2))
    assert first == again
    assert set(first) != set(other)


def test_calibration_inputs_are_the_whole_training_split_when_it_is_smaller() -> None:
    assert len(calibration_inputs(_dataset([4, 3, 2]), size=100, seed=0)) == 9


def test_calibration_refuses_no_size() -> None:
    with pytest.raises(ConfigError, match="calibration size is 0"):
        calibration_rows(_dataset([4, 3, 2]), size=0, seed=0)
