"""A segmentation made of real digits: each scene holds a few on a textured ground, every pixel has a class.

Digits are enlarged and lie where chance puts them, none over another. A pixel belongs to a digit where that has ink,
else to the ground. Scenes of the three parts are made of different digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from edgekd.core.seeds import derive_seed
from edgekd.data.config import DataConfig
from edgekd.data.digits import DIGIT_NAMES, TEST_NOTE, three_digit_parts
from edgekd.data.images import ArrayImages, Pixels
from edgekd.data.inputs import Rows
from edgekd.data.sources import DATASETS, DatasetKind, Part, Source
from edgekd.data.task import Task

CANVAS = 24
SIDES = (9, 14)
LEAST_INK = 96
MOST_DIGITS = 4
_BRIGHTEST_GROUND = 88
_PATCHES = 6
_SCENES = {"train": 1200, "val": 200, "test": 400}


@dataclass(frozen=True)
class Digits:
    """Digits to compose scenes of.

    Attributes:
        pixels: uint8 `[n, 8, 8]`.
        labels: int64 `[n]`, 0..9.
    """

    pixels: Pixels
    labels: Rows


def load_digits_scenes(config: DataConfig) -> Source:
    """Compose scenes of scikit-learn's digits.

    Args:
        config: Must not name a path. Its seed and `val_fraction` divide the training digits among the training and the
            held-out scenes; the test scenes are the same for every seed.

    Returns:
        Grey pictures of 24x24 pixels with maps of 11 classes: the ground and the digits 0 to 9.

    Raises:
        ConfigError: A path is given.
        DataError: Too few digits are left for the held-out scenes.
    """
    parts = {
        name: _scenes(part, name, 0 if name == "test" else config.seed)
        for name, part in three_digit_parts(config).items()
    }
    note = f"scenes of up to {MOST_DIGITS} digits composed of scikit-learn's, no digit in two parts; {TEST_NOTE}"
    return Source(
        Task("segmentation", ("ground", *DIGIT_NAMES)), parts["train"], parts["test"], parts["val"], notes=(note,)
    )


def scene(digits: Digits, rng: np.random.Generator) -> tuple[Pixels, Rows]:
    """Compose one scene.

    Args:
        digits: What to draw from.
        rng: The only source of chance.

    Returns:
        uint8 `[24, 24]`, and its classes int64 `[24, 24]`: 0 for the ground, digit + 1 where a digit has ink.
    """
    pixels, classes = _ground(rng), np.zeros((CANVAS, CANVAS), np.int64)
    is_taken = np.zeros((CANVAS, CANVAS), np.bool_)
    for row in rng.integers(0, len(digits.pixels), rng.integers(1, MOST_DIGITS + 1)):
        side = int(rng.integers(SIDES[0], SIDES[1] + 1))
        top, left = rng.integers(0, CANVAS - side + 1, 2)
        place = np.s_[top : top + side, left : left + side]
        if is_taken[place].any():
            continue
        is_taken[place] = True
        ink = _enlarged(digits.pixels[row], side)
        pixels[place] = np.maximum(pixels[place], ink)
        classes[place] = np.where(ink >= LEAST_INK, digits.labels[row] + 1, 0)
    return pixels, classes


def _ground(rng: np.random.Generator) -> Pixels:
    """Return soft patches, darker than ink."""
    return _enlarged(rng.integers(0, _BRIGHTEST_GROUND, (_PATCHES, _PATCHES), np.uint8), CANVAS)


def _enlarged(pixels: Pixels, side: int) -> Pixels:
    return np.array(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))


def _scenes(part: Part, name: str, seed: int) -> Part:
    digits = Digits(
        part.inputs.gather(np.arange(len(part.labels), dtype=np.int64))[..., 0], part.labels.astype(np.int64)
    )
    rng = np.random.default_rng(derive_seed(seed, "digits-scenes", name))
    pixels, classes = zip(*(scene(digits, rng) for _ in range(_SCENES[name])), strict=True)
    return Part(ArrayImages(np.stack(pixels)[..., np.newaxis]), np.stack(classes))


DATASETS.add("digits-scenes", DatasetKind(load_digits_scenes, augmentation="shift"))
