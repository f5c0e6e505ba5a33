"""The pictures that quantisation ranges are measured on: from the training split only, classes balanced."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekd.core.errors import ConfigError
from edgekd.core.seeds import derive_seed
from edgekd.data.batches import unit_floats
from edgekd.data.dataset import ImageDataset
from edgekd.data.images import Rows
from edgekd.data.splits import balanced_quotas, rows_by_quota


def calibration_rows(dataset: ImageDataset, *, size: int, seed: int) -> Rows:
    """Choose rows of the training split, every class as often as its size allows, in random order.

    Args:
        dataset: A loaded data set.
        size: Rows wanted.
        seed: Root seed of the draw.

    Returns:
        int64 `[n]`, rows of `dataset.train` without repetition; n is `size`, or all rows where there are fewer.

    Raises:
        ConfigError: `size` below 1.
    """
    if size < 1:
        raise ConfigError(f"calibration size is {size}, it must be at least 1")
    labels = dataset.train.labels
    quotas = balanced_quotas(np.bincount(labels, minlength=dataset.num_classes).astype(np.int64), size)
    rows = rows_by_quota(labels, quotas, derive_seed(seed, "calibration", "rows"))
    return np.random.default_rng(derive_seed(seed, "calibration", "order")).permutation(rows)


def calibration_images(dataset: ImageDataset, *, size: int, seed: int) -> NDArray[np.float32]:
    """Return the pictures of `calibration_rows`.

    Args:
        dataset: A loaded data set.
        size: Pictures wanted.
        seed: Root seed of the draw.

    Returns:
        float32 `[n, C, H, W]` in 0..1; n is `size`, or the whole training split where that is smaller.

    Raises:
        ConfigError: `size` below 1.
    """
    return unit_floats(dataset.train.images.gather(calibration_rows(dataset, size=size, seed=seed)))
