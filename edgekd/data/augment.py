"""Random changes to training pictures, vectorised over the batch: crops with zero padding, and horizontal flips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgekd.core.errors import ConfigError
from edgekd.core.registry import Registry
from edgekd.data.images import Pixels


class Augment(Protocol):
    """A random change to a batch of pictures."""

    def __call__(self, images: Pixels, rng: np.random.Generator) -> Pixels:
        """Return changed pictures, uint8 `[n, H, W, C]`, leaving `images` as it is.

        Args:
            images: uint8 `[n, H, W, C]`.
            rng: The only source of chance.
        """
        ...


@dataclass(frozen=True)
class Unchanged:
    """Returns pictures as they are, and draws nothing."""

    def __call__(self, images: Pixels, rng: np.random.Generator) -> Pixels:
        """Return `images`."""
        return images


@dataclass(frozen=True)
class RandomCrop:
    """Pads pictures with zeros and crops them back to their size at a random place, one place a picture.

    Attributes:
        padding: Pixels added on every side; shifts are uniform in `-padding..padding` along each axis.
        can_flip: Whether half of the pictures, at random, are mirrored left to right.
    """

    padding: int
    can_flip: bool = False

    def __call__(self, images: Pixels, rng: np.random.Generator) -> Pixels:
        """Return shifted, perhaps mirrored, pictures, uint8 `[n, H, W, C]`."""
        count, height, width, _ = images.shape
        top = rng.integers(0, 2 * self.padding + 1, (count, 1))
        left = rng.integers(0, 2 * self.padding + 1, (count, 1))
        rows = top + np.arange(height)
        columns = left + np.arange(width)
        if self.can_flip:
            is_flipped = rng.random((count, 1)) < 0.5
            columns = np.where(is_flipped, columns[:, ::-1], columns)
        margin = (self.padding, self.padding)
        padded = np.pad(images, ((0, 0), margin, margin, (0, 0)))
        cropped: Pixels = padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return cropped


AUGMENTATIONS: Registry[Augment] = Registry("augmentation")
AUGMENTATIONS.add("none", Unchanged())
AUGMENTATIONS.add("shift", RandomCrop(padding=1))
AUGMENTATIONS.add("crop-flip", RandomCrop(padding=4, can_flip=True))


def augmentation(name: str) -> Augment:
    """Return an augmentation by name.

    Args:
        name: `"none"`, `"shift"` (one pixel any way, for small pictures), `"crop-flip"` (four pixels any way, mirrored
            half of the time), or what was added to `AUGMENTATIONS`.

    Raises:
        ConfigError: Unknown name; or `"auto"`, which only a data set can resolve.
    """
    if name == "auto":
        raise ConfigError("augmentation 'auto' depends on the data set: pass default_augmentation(dataset name)")
    return AUGMENTATIONS[name]
