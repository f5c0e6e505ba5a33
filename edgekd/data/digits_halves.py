"""Two modalities made of real digits: the left and the right half of each, as one channel each.

Neither half tells every digit; both together do. Columns of a half are doubled so that pictures stay square.
"""

from __future__ import annotations

import numpy as np

from edgekd.data.config import DataConfig
from edgekd.data.digits import DIGIT_NAMES, TEST_NOTE, digit_parts
from edgekd.data.images import ArrayImages
from edgekd.data.sources import DATASETS, DatasetKind, Part, Source
from edgekd.data.task import Task

_NOTE = "channel 0 is the left half of a digit, channel 1 the right half, columns doubled"


def load_digits_halves(config: DataConfig) -> Source:
    """Read scikit-learn's digits as two channels.

    Args:
        config: Must not name a path.

    Returns:
        Pictures of 8x8 pixels and two channels, with the parts and labels of `digits`.

    Raises:
        ConfigError: A path is given.
    """
    train, test = (_halved(part) for part in digit_parts(config))
    return Source(Task("classification", DIGIT_NAMES), train, test, notes=(_NOTE, TEST_NOTE))


def _halved(part: Part) -> Part:
    pixels = part.inputs.gather(np.arange(len(part.labels), dtype=np.int64))
    left, right = (half.repeat(2, axis=2) for half in np.split(pixels, 2, axis=2))
    return Part(ArrayImages(np.concatenate([left, right], axis=3)), part.labels)


DATASETS.add("digits-halves", DatasetKind(load_digits_halves, augmentation="shift"))
