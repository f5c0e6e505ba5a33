"""RandAugment: a few changes of colour or geometry for each picture, drawn evenly, all of one strength."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from edgekd.core.errors import ConfigError
from edgekd.data.inputs import Stored
from edgekd.data.metrics import Labels

_STRONGEST = 30
Change = Callable[[Image.Image, float], Image.Image]
"""A picture and a strength in -1..1 to a picture of the same size and mode."""


@dataclass(frozen=True)
class RandAugment:
    """Changes each picture `count` times, each time by one of fourteen changes.

    Attributes:
        count: Changes of a picture.
        magnitude: Strength of 0 to 30; signed ones go either way by chance.

    Raises:
        ConfigError: No changes, or a strength that there is not.

    Reference:
        Cubuk et al. 2019, arXiv 1909.13719; ranges as in the authors' code, where translations reach a third of the
        picture and posterising keeps four bits at least.
    """

    count: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.magnitude <= _STRONGEST:
            raise ConfigError(
                f"randaugment: changes ({self.count}) must be positive, strength ({self.magnitude}) in 0..{_STRONGEST}"
            )

    def __call__(self, inputs: Stored, labels: Labels, rng: np.random.Generator) -> tuple[Stored, Labels]:
        """Return changed pictures uint8 `[n, H, W, C]`, C being 1 or 3, and their labels as they are.

        Raises:
            ConfigError: Inputs are no such pictures, or labels are maps, which would have to move along.
        """
        return self.part(inputs, labels, rng, rows=slice(None), of=len(inputs))

    def part(
        self, inputs: Stored, labels: Labels, rng: np.random.Generator, *, rows: slice, of: int
    ) -> tuple[Stored, Labels]:
        """Return those rows of a batch changed as they are in it; see `edgekd.data.augment.Divisible`."""
        if inputs.ndim != 4 or inputs.shape[3] not in (1, 3):
            raise ConfigError("randaugment changes pictures of one or three channels; these inputs are others")
        if labels.ndim == 3:
            raise ConfigError("randaugment moves pixels but no label maps: set train.augment=crop-flip")
        chosen = rng.integers(len(_CHANGES), size=(of, self.count))[rows]
        signs = rng.choice((-1.0, 1.0), size=(of, self.count))[rows]
        strength = self.magnitude / _STRONGEST
        changed = [
            _changed(picture, which, sign * strength)
            for picture, which, sign in zip(inputs, chosen, signs, strict=True)
        ]
        return (np.stack(changed) if changed else inputs), labels


def _changed(picture: Stored, which: Stored, strengths: Stored) -> Stored:
    is_grey = picture.shape[2] == 1
    image = Image.fromarray(picture[:, :, 0] if is_grey else picture)
    for index, strength in zip(which.tolist(), strengths.tolist(), strict=True):
        image = _CHANGES[index](image, strength)
    pixels: Stored = np.asarray(image)
    return pixels[:, :, None] if is_grey else pixels


def _sheared(image: Image.Image, across: float, down: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, (1, across, 0, down, 1, 0), Image.Resampling.NEAREST)


def _shifted(image: Image.Image, across: float, down: float) -> Image.Image:
    places = (1, 0, across * image.width, 0, 1, down * image.height)
    return image.transform(image.size, Image.Transform.AFFINE, places, Image.Resampling.NEAREST)


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Change:
    return lambda image, strength: kind(image).enhance(1 + 0.9 * strength)


_BY_NAME: Mapping[str, Change] = {
    "identity": lambda image, strength: image,
    "auto-contrast": lambda image, strength: ImageOps.autocontrast(image),
    "equalize": lambda image, strength: ImageOps.equalize(image),
    "rotate": lambda image, strength: image.rotate(30 * strength),
    "posterize": lambda image, strength: ImageOps.posterize(image, 8 - round(4 * abs(strength))),
    "solarize": lambda image, strength: ImageOps.solarize(image, round(256 * (1 - abs(strength)))),
    "colour": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear-x": lambda image, strength: _sheared(image, 0.3 * strength, 0),
    "shear-y": lambda image, strength: _sheared(image, 0, 0.3 * strength),
    "translate-x": lambda image, strength: _shifted(image, strength / 3, 0),
    "translate-y": lambda image, strength: _shifted(image, 0, strength / 3),
}
_CHANGES = tuple(_BY_NAME.values())
