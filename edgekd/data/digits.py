"""The embedded default: scikit-learn's 1,797 handwritten digits, 8x8 grey, no download."""

from __future__ import annotations

import numpy as np

from edgekd.core.errors import ConfigError
from edgekd.core.seeds import derive_seed
from edgekd.data.config import DataConfig
from edgekd.data.images import ArrayImages, Pixels
from edgekd.data.sources import DATASETS, DatasetKind, Source, checked_part
from edgekd.data.splits import held_out_rows
from edgekd.data.task import Task

TEST_FRACTION = 0.3


def load_digits(config: DataConfig) -> Source:
    """Read the digits and set a test part aside that is the same for every seed.

    Args:
        config: Must not name a path.

    Returns:
        Stratified parts, 70 % training and 30 % test.

    Raises:
        ConfigError: A path is given.
    """
    if config.path is not None:
        raise ConfigError(f"data set 'digits' comes with scikit-learn: remove data.path ({config.path})")
    from sklearn.datasets import load_digits as load_bundled_digits

    bundled = load_bundled_digits()
    whole = checked_part(ArrayImages(_to_uint8(bundled.images)), bundled.target.astype(np.int64), 10, "digits")
    kept, held_out = held_out_rows(bundled.target, fraction=TEST_FRACTION, seed=derive_seed(0, "digits", "test"))
    return Source(
        Task("classification", tuple(str(digit) for digit in range(10))),
        whole.take(kept),
        whole.take(held_out),
        notes=(f"test part: a fixed stratified {TEST_FRACTION:.0%} of scikit-learn's digits",),
    )


def _to_uint8(images: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Pixels:
    return np.rint(images * (255 / 16)).astype(np.uint8)[..., np.newaxis]


DATASETS.add("digits", DatasetKind(load_digits, augmentation="shift"))
