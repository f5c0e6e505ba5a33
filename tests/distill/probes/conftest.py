"""Small trained networks by role, and pictures on which they err."""

import numpy as np
import pytest
import torch

from edgekd.data import ArrayImages, Split, Task
from edgekd.models import build


@pytest.fixture(scope="session")
def split() -> Split:
    """Pictures with less contrast than the training ones, so that no network is always right."""
    rng = np.random.default_rng(9)
    labels = np.arange(60) % 4
    images = rng.integers(0, 160, size=(60, 8, 8, 1))
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 30
    return Split(ArrayImages(images.astype(np.uint8)), labels.astype(np.int64), Task("classification", tuple("abcd")))


@pytest.fixture(scope="session")
def models(run, student, teacher):
    """Networks by role; `another` is a second independent student."""
    torch.manual_seed(0)
    return {
        "teacher": teacher[1],
        "student": run("kd", seed=1).student,
        "independent": run("plain", with_teacher=False, seed=2).student,
        "another": run("plain", with_teacher=False, seed=3).student,
        "start": build(student).eval(),
    }


@pytest.fixture(scope="session")
def pixels_of():
    """Inputs float32 `[N, C, H, W]` in 0..1 of a split, without edgekd's batches."""

    def read(split):
        pixels = split.inputs.gather(np.arange(len(split)))
        return torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255)

    return read
