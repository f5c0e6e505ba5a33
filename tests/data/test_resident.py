"""Pictures that stay on the device: the batches of the host, bit for bit."""

import numpy as np
import pytest
import torch

from edgekd.core.errors import ConfigError
from edgekd.data import ArrayImages, RandomCrop, ResidentSplit, Split, Task, augmentation, train_batches

CPU = torch.device("cpu")


def _split(count: int = 23) -> Split:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    return Split(
        ArrayImages(rng.integers(0, 256, (count, 6, 7, 3), np.uint8)), labels, Task("classification", ("a", "b", "c"))
    )


@pytest.mark.parametrize("augment", [augmentation("none"), augmentation("shift"), RandomCrop(padding=4, can_flip=True)])
@pytest.mark.parametrize("size", [5, 23, 40])
def test_batches_are_those_of_the_host(augment, size):
    split = _split()
    resident = ResidentSplit(split, augment, CPU)
    for epoch in (0, 3):
        ours = list(resident.batches(batch_size=size, epoch=epoch, seed=9))
        theirs = list(train_batches(split, batch_size=size, epoch=epoch, seed=9, augment=augment))
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            for name in ("inputs", "labels", "ids", "is_labelled"):
                mine, expected = getattr(one, name), getattr(other, name)
                assert mine.dtype == expected.dtype and torch.equal(mine, expected), name


def test_what_cannot_stay_is_refused():
    def blur(inputs, labels, rng):
        return inputs // 2, labels

    with pytest.raises(ConfigError, match="augmentation function does more than move pixels"):
        ResidentSplit(_split(), blur, CPU)
    maps = Split(_split().inputs, np.zeros((23, 6, 7), np.int64), Task("segmentation", ("a", "b")))
    with pytest.raises(ConfigError, match="only pictures with one label each"):
        ResidentSplit(maps, augmentation("none"), CPU)
