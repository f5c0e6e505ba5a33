"""The embedded default: scikit-learn's 1,797 handwritten digits, 8x8 grey, no download."""

from __future__ import annotations

import numpy as np

from edgekd.core.errors import ConfigError
from edgekd.core.seeds import derive_seed
from edgekd.data.config import DataConfig
from edgekd.data.images import ArrayImages, Pixels
from edgekd.data.sources import DATASETS, DatasetKind, Part, Source, checked_part
from edgekd.data.splits import held_out_rows
from edgekd.data.task import Task

TEST_FRACTION = 0.3
DIGIT_NAMES = tuple(str(digit) for digit in range(10))
TEST_NOTE = f"test part: a fixed stratified {TEST_FRACTION:.0%} of scikit-learn's digits"


def load_digits(config: DataConfig) -> Source:
    """Read the digits and set a test part aside that is the same for every seed.

    Args:
        config: Must not name a path.

    Returns:
        Stratified parts, 70 % training and 30 % test.

    Raises:
        ConfigError: A path is given.
    """
    return Source(Task("classification", DIGIT_NAMES), *digit_parts(config), notes=(TEST_NOTE,))


def digit_parts(config: DataConfig) -> tuple[Part, Part]:
    """Return the digits' training and test part, of which other data sets are made.

    Args:
        config: Must not name a path.

    Raises:
        ConfigError: A path is given.
    """
    if config.path is not None:
        raise ConfigError(
            f"data set {config.name!r} comes from scikit-learn's digits: remove data.path ({config.path})"
        )
    from sklearn.datasets import load_digits as load_bundled_digits

    bundled = load_bundled_digits()
    whole = checked_part(ArrayImages(_to_uint8(bundled.images)), bundled.target.astype(np.int64), 10, config.name)
    kept, held_out = held_out_rows(bundled.target, fraction=TEST_FRACTION, seed=derive_seed(0, "digits", "test"))
    return whole.take(kept), whole.take(held_out)


def three_digit_parts(config: DataConfig) -> dict[str, Part]:
    """Return the digits' `train`, `val` and `test` part, for data sets that show a digit more than once.

    Args:
        config: Must not name a path. Its seed and `val_fraction` divide the training digits.

    Raises:
        ConfigError: A path is given.
        DataError: Too few digits are left for one part.
    """
    whole, test = digit_parts(config)
    seed = derive_seed(config.seed, config.name, "val")
    kept, held_out = held_out_rows(whole.labels.astype(np.int64), fraction=config.val_fraction, seed=seed)
    return {"train": whole.take(kept), "val": whole.take(held_out), "test": test}


def _to_uint8(images: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Pixels:
    return np.rint(images * (255 / 16)).astype(np.uint8)[..., np.newaxis]


DATASETS.add("digits", DatasetKind(load_digits, augmentation="shift"))
