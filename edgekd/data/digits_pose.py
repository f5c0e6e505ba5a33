"""A regression made of real digits: how far each was turned, and how much it was enlarged.

Digits are turned by up to 45 degrees and enlarged by 1 to 2, in the middle of 16x16 pixels. Handwriting has a slant of
its own, so that the angle cannot be told exactly. The three parts show different digits.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from edgekd.core.seeds import derive_seed
from edgekd.data.config import DataConfig
from edgekd.data.digits import TEST_NOTE, three_digit_parts
from edgekd.data.images import ArrayImages, Pixels
from edgekd.data.metrics import Labels
from edgekd.data.sources import DATASETS, DatasetKind, Part, Source
from edgekd.data.task import Task

CANVAS = 16
MAX_DEGREES = 45.0
POSES = {"train": 4, "val": 2, "test": 2}
_NOTE = (
    f"each digit in {POSES['train']} poses ({POSES['test']} in the test part), no digit in two parts; angle: turned "
    f"counter-clockwise by {MAX_DEGREES:g} degrees times -1..1; scale: enlarged by 1.5 plus half of -1..1"
)


def load_digits_pose(config: DataConfig) -> Source:
    """Turn and enlarge scikit-learn's digits.

    Args:
        config: Must not name a path. Its seed and `val_fraction` divide the training digits among training and held-out
            part; the test part is the same for every seed.

    Returns:
        Grey pictures of 16x16 pixels; targets `angle` and `scale`, both in -1..1.

    Raises:
        ConfigError: A path is given.
        DataError: Too few digits are left for the held-out part.
    """
    parts = {
        name: _posed(part, name, 0 if name == "test" else config.seed)
        for name, part in three_digit_parts(config).items()
    }
    return Source(
        Task("regression", ("angle", "scale")), parts["train"], parts["test"], parts["val"], notes=(_NOTE, TEST_NOTE)
    )


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
    middle = CANVAS / 2
    across = (cosine, -sine, middle * (1 - cosine + sine))
    down = (sine, cosine, middle * (1 - cosine - sine))
    # Padded first: ink at the border is to fade into the ground, not to be cut.
    padded = Image.fromarray(np.pad(digit, (CANVAS - len(digit)) // 2))
    placed = padded.transform(padded.size, Image.Transform.AFFINE, across + down, resample=Image.Resampling.BILINEAR)
    return np.asarray(placed)


def _posed(part: Part, name: str, seed: int) -> Part:
    digits = part.inputs.gather(np.arange(len(part.labels), dtype=np.int64))[..., 0].repeat(POSES[name], axis=0)
    rng = np.random.default_rng(derive_seed(seed, "digits-pose", name))
    poses: Labels = rng.uniform(-1, 1, (len(digits), 2)).astype(np.float32)
    pixels = [posed(digit, angle=angle, scale=scale) for digit, (angle, scale) in zip(digits, poses, strict=True)]
    return Part(ArrayImages(np.stack(pixels)[..., np.newaxis]), poses)


DATASETS.add("digits-pose", DatasetKind(load_digits_pose, augmentation="none"))
