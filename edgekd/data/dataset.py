"""The data set noun: three splits of labelled pictures with the statistics and the digest of what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.core.errors import DataError
from edgekd.data.images import Images, Rows


@dataclass(frozen=True, eq=False)
class Split:
    """Pictures and their labels.

    Attributes:
        images: The pictures.
        labels: int64 `[N]`.

    Raises:
        DataError: There are not as many labels as pictures.
    """

    images: Images
    labels: Rows

    def __post_init__(self) -> None:
        if self.labels.ndim != 1 or self.labels.dtype != np.int64:
            raise DataError(f"labels must be int64 [N], got {self.labels.dtype} {list(self.labels.shape)}")
        if len(self.images) != len(self.labels):
            raise DataError(f"{len(self.images)} pictures but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """A classification data set.

    Attributes:
        name: The registered name it was loaded by.
        classes: Class names; label `k` is `classes[k]`.
        train: What networks are trained on.
        val: Held out of the training part; every choice during a run is made on it.
        test: Never used to choose anything.
        mean: Mean of each channel of the training split, pixels in 0..1.
        std: Standard deviation of each channel of the training split, pixels in 0..1.
        digest: Covers pixels, labels, split and resolution.
        notes: Decisions taken while loading, in words, for the report.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def in_channels(self) -> int:
        """Colour channels of a picture."""
        return self.train.images.shape[0]

    @property
    def resolution(self) -> int:
        """Height and width of a picture in pixels."""
        return self.train.images.shape[1]


def describe(dataset: ImageDataset) -> dict[str, Any]:
    """Return what a report says about a data set, as plain JSON data.

    Args:
        dataset: A loaded data set.

    Returns:
        Name, class names, shape `[C, H, W]`, size and class counts of each split, statistics, notes and digest.
    """
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    return {
        "name": dataset.name,
        "classes": list(dataset.classes),
        "shape": [dataset.in_channels, dataset.resolution, dataset.resolution],
        "sizes": {name: len(split) for name, split in splits.items()},
        "class_counts": {
            name: np.bincount(split.labels, minlength=dataset.num_classes).tolist() for name, split in splits.items()
        },
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "notes": list(dataset.notes),
        "digest": dataset.digest,
    }
