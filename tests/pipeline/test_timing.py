import numpy as np
import pytest

from edgekd.data import ArrayImages, Split, Task
from edgekd.pipeline.timing import spread_inputs


@pytest.fixture
def split():
    """Ten pictures sorted by class, each of its own brightness, as a folder of classes gives them."""
    pixels = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1) * 20
    return Split(
        ArrayImages(np.tile(pixels, (1, 4, 4, 1))),
        np.arange(10, dtype=np.int64) // 5,
        Task("classification", ("a", "b")),
    )


def test_spread_inputs_reach_from_the_first_to_the_last(split):
    images, labels = spread_inputs(split, 4)
    assert images.shape == (4, 1, 4, 4)
    assert np.round(images[:, 0, 0, 0] * 255 / 20).astype(int).tolist() == [0, 3, 6, 9]
    assert labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (10, 10), (99, 10)])
def test_spread_inputs_are_different_and_no_more_than_there_are(split, count, expected):
    images, labels = spread_inputs(split, count)
    assert len(images) == len(labels) == expected
    assert len(np.unique(images[:, 0, 0, 0])) == expected
