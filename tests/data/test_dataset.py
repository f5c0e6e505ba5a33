import json

import numpy as np
import pytest

from edgekd.core.errors import DataError
from edgekd.data.dataset import Dataset, Split, describe
from edgekd.data.images import ArrayImages
from edgekd.data.task import Task

TASK = Task("classification", tuple("abc"))


def _split(labels: list[int]) -> Split:
    return Split(ArrayImages(np.zeros((len(labels), 4, 4, 3), np.uint8)), np.array(labels, np.int64), TASK)


def test_split_refuses_a_count_mismatch() -> None:
    with pytest.raises(DataError, match="3 inputs but 2 labels"):
        Split(ArrayImages(np.zeros((3, 4, 4, 1), np.uint8)), np.zeros(2, np.int64), TASK)


@pytest.mark.parametrize("labels", [np.zeros(3, np.uint8), np.zeros((3, 1), np.int64)])
def test_split_refuses_labels_that_are_not_int64_rows(labels: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"classification needs int64 \[N\]"):
        Split(ArrayImages(np.zeros((3, 4, 4, 1), np.uint8)), labels, TASK)


def test_describe_is_plain_json_with_true_counts() -> None:
    dataset = Dataset(
        name="toy",
        train=_split([0, 0, 1, 2]),
        val=_split([1]),
        test=_split([2, 2]),
        mean=(0.1, 0.2, 0.3),
        std=(1.0, 1.0, 1.0),
        digest="d",
        notes=("n",),
    )
    assert (dataset.task, dataset.in_channels, dataset.resolution) == (TASK, 3, 4)
    assert json.loads(json.dumps(describe(dataset))) == {
        "name": "toy",
        "task": "classification",
        "targets": ["a", "b", "c"],
        "shape": [3, 4, 4],
        "sizes": {"train": 4, "val": 1, "test": 2},
        "unlabelled": 0,
        "class_counts": {"train": [2, 1, 1], "val": [0, 1, 0], "test": [0, 0, 2]},
        "mean": [0.1, 0.2, 0.3],
        "std": [1.0, 1.0, 1.0],
        "notes": ["n"],
        "digest": "d",
    }
