"""The inputs that quantisation ranges are measured on: from the training split only, classes balanced."""

from __future__ import annotations

import numpy as np

from edgekd.core.errors import ConfigError
from edgekd.core.seeds import derive_seed
from edgekd.data.dataset import Dataset
from edgekd.data.inputs import NetInputs, Rows, network_inputs
from edgekd.data.splits import balanced_quotas, rows_by_quota


def calibration_rows(dataset: Dataset, *, size: int, seed: int) -> Rows:
    """Choose rows of the training split in random order, every class as often as its size allows.

    Rows without a label are drawn only where no row has one.
    Rows whose labels are maps or quantities have no class of their own and are drawn alike.

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
    candidates = np.flatnonzero(dataset.train.has_label)
    if len(candidates):
        strata = dataset.task.strata(dataset.train.labels[candidates])
    else:
        candidates, strata = np.arange(len(dataset.train)), np.zeros(len(dataset.train), np.int64)
    quotas = balanced_quotas(np.bincount(strata).astype(np.int64), size)
    rows = candidates[rows_by_quota(strata, quotas, derive_seed(seed, "calibration", "rows"))]
    return np.random.default_rng(derive_seed(seed, "calibration", "order")).permutation(rows)


def calibration_inputs(dataset: Dataset, *, size: int, seed: int) -> NetInputs:
    """Return the inputs of `calibration_rows` as networks take them.

    Args:
        dataset: A loaded data set.
        size: Inputs wanted.
        seed: Root seed of the draw.

    Returns:
        Pictures float32 `[n, C, H, W]` in 0..1, or tokens int64 `[n, L]`; n is `size`, or the whole training split
        where that is smaller.

    Raises:
        ConfigError: `size` below 1.
    """
    return network_inputs(dataset.train.inputs.gather(calibration_rows(dataset, size=size, seed=seed)))
