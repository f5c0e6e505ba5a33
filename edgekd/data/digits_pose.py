"""A regression made of real digits: how far each was turned, and how much it was enlarged.

Every digit appears once, turned by up to 45 degrees and enlarged by 1 to 2, in the middle of 16x16 pixels. Handwriting
has a slant of its own, so that the angle cannot be told exactly.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from edgekd.core.seeds import derive_seed
from edgekd.data.config import DataConfig
from edgekd.data.digits import TEST_NOTE, digit_parts
from edgekd.data.images import ArrayImages, Pixels
from edgekd.data.metrics import Labels
from edgekd.data.sources import DATASETS, DatasetKind, Part, Source
from edgekd.data.task import Task

CANVAS = 16
MAX_DEGREES = 45.0
_NOTE = (
    f"each digit once; angle: turned counter-clockwise by {MAX_DEGREES:g} degrees times -1..1; scale: enlarged by 1.5 "
    "plus half of -1..1"
)


def load_digits_pose(config: DataConfig) -> Source:
    """Turn and enlarge scikit-learn's digits, the same way for every seed.

    Args:
        config: Must not name a path.

    Returns:
        Grey pictures of 16x16 pixels; targets `angle` and `scale`, both in -1..1.

    Raises:
        ConfigError: A path is given.
    """
    train, test = digit_parts(config)
    task = Task("regression", ("angle", "scale"))
    return Source(task, _posed(train, "train"), _posed(test, "test"), notes=(_NOTE, TEST_NOTE))


def posed(digit: Pixels, *, angle: float, scale: float) -> Pixels:
    """Turn and enlarge one digit.

    Args:
        digit: uint8 `[8, 8]`.
        angle: Counter-clockwise, as a share of `MAX_DEGREES`, -1..1.
        scale: -1 keeps the size, 1 doubles it.

    Returns:
        uint8 `[16, 16]`, bilinear.
    """
    turn, factor = np.deg2rad(angle * MAX_DEGREES), 1.5 + scale / 2
    cosine, sine = np.cos(turn) / factor, np.sin(turn) / factor
    middle, canvas_middle = digit.shape[0] / 2, CANVAS / 2
    rows = [(x, y, middle - canvas_middle * (x + y)) for x, y in ((cosine, -sine), (sine, cosine))]
    placed = Image.fromarray(digit).transform(
        (CANVAS, CANVAS), Image.Transform.AFFINE, (*rows[0], *rows[1]), resample=Image.Resampling.BILINEAR
    )
    return np.asarray(placed)


def _posed(part: Part, name: str) -> Part:
    digits = part.inputs.gather(np.arange(len(part.labels), dtype=np.int64))[..., 0]
    rng = np.random.default_rng(derive_seed(0, "digits-pose", name))
    poses: Labels = rng.uniform(-1, 1, (len(digits), 2)).astype(np.float32)
    pixels = [posed(digit, angle=angle, scale=scale) for digit, (angle, scale) in zip(digits, poses, strict=True)]
    return Part(ArrayImages(np.stack(pixels)[..., np.newaxis]), poses)


DATASETS.add("digits-pose", DatasetKind(load_digits_pose, augmentation="none"))
