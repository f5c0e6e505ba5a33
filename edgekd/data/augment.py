"""Random changes to training inputs, vectorised over the batch: crops with padding, and horizontal flips.

A change that moves pixels moves label maps with them. Other labels stay as they are: choose a change that keeps them
true.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from edgekd.core.errors import ConfigError
from edgekd.core.registry import Registry
from edgekd.data.inputs import Rows, Stored
from edgekd.data.metrics import IGNORED, Labels
from edgekd.data.randaugment import RandAugment


class Augment(Protocol):
    """A random change to a batch."""

    def __call__(self, inputs: Stored, labels: Labels, rng: np.random.Generator) -> tuple[Stored, Labels]:
        """Return changed inputs and their labels, leaving those given as they are.

        Args:
            inputs: As stored: uint8 `[n, H, W, C]`, or int64 `[n, L]`.
            labels: `[n, ...]`.
            rng: The only source of chance.
        """
        ...


@runtime_checkable
class Divisible(Protocol):
    """A change that can be made to some rows of a batch as it would be made to all."""

    def part(
        self, inputs: Stored, labels: Labels, rng: np.random.Generator, *, rows: slice, of: int
    ) -> tuple[Stored, Labels]:
        """Return what the change makes of these rows in their batch.

        Args:
            inputs: Those of the rows only.
            labels: Likewise.
            rng: The only source of chance; left as the change of the whole batch leaves it.
            rows: Where they stand in the batch.
            of: Rows of the batch.
        """
        ...


@dataclass(frozen=True)
class Unchanged:
    """Returns inputs and labels as they are, and draws nothing."""

    def part(
        self, inputs: Stored, labels: Labels, rng: np.random.Generator, *, rows: slice, of: int
    ) -> tuple[Stored, Labels]:
        """Return `inputs` and `labels`."""
        return inputs, labels

    def __call__(self, inputs: Stored, labels: Labels, rng: np.random.Generator) -> tuple[Stored, Labels]:
        """Return `inputs` and `labels`."""
        return inputs, labels


@dataclass(frozen=True)
class RandomCrop:
    """Pads pictures and crops them back to their size at a random place, one place a picture.

    Pixels are padded with zeros, label maps with the ignored label.

    Attributes:
        padding: Pixels added on every side; shifts are uniform in `-padding..padding` along each axis.
        can_flip: Whether half of the pictures, at random, are mirrored left to right.
    """

    padding: int
    can_flip: bool = False

    def __call__(self, inputs: Stored, labels: Labels, rng: np.random.Generator) -> tuple[Stored, Labels]:
        """Return shifted, perhaps mirrored, pictures uint8 `[n, H, W, C]`, and maps `[n, H, W]` moved alike.

        Raises:
            ConfigError: The inputs are no pictures.
        """
        return self.part(inputs, labels, rng, rows=slice(None), of=len(inputs))

    def part(
        self, inputs: Stored, labels: Labels, rng: np.random.Generator, *, rows: slice, of: int
    ) -> tuple[Stored, Labels]:
        """Return those rows of a batch shifted as they are in it; see `Divisible`."""
        if inputs.ndim != 4:
            raise ConfigError("crops need pictures, these inputs are tokens; set train.augment to none or word-dropout")
        places = (place[rows] for place in self.places((of, *inputs.shape[1:]), rng))
        lines, columns = places
        moved = self._moved(inputs, lines, columns, fill=0)
        return moved, self._moved(labels, lines, columns, fill=IGNORED) if labels.ndim == 3 else labels

    def places(self, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Rows, Rows]:
        """Draw where each pixel comes from.

        Args:
            shape: `(n, H, W, C)` of the pictures.
            rng: The only source of chance.

        Returns:
            Rows `[n, H]` and columns `[n, W]` of the padded pictures.
        """
        count, height, width, _ = shape
        top = rng.integers(0, 2 * self.padding + 1, (count, 1))
        left = rng.integers(0, 2 * self.padding + 1, (count, 1))
        rows = top + np.arange(height)
        columns = left + np.arange(width)
        if self.can_flip:
            is_flipped = rng.random((count, 1)) < 0.5
            columns = np.where(is_flipped, columns[:, ::-1], columns)
        return rows, columns

    def _moved(self, maps: Stored, rows: Rows, columns: Rows, *, fill: int) -> Stored:
        margin = (self.padding, self.padding)
        beside = [(0, 0)] * (maps.ndim - 3)
        padded = np.pad(maps, ((0, 0), margin, margin, *beside), constant_values=fill)
        moved: Stored = padded[np.arange(len(maps))[:, None, None], rows[:, :, None], columns[:, None, :]]
        return moved


@dataclass(frozen=True)
class WordDropout:
    """Takes tokens out of texts at random, all but the first and the last; the rest close up.

    Attributes:
        rate: Share of the tokens taken out.
    """

    rate: float

    def __call__(self, inputs: Stored, labels: Labels, rng: np.random.Generator) -> tuple[Stored, Labels]:
        """Return shortened texts int64 `[n, L]`, filled up with 0, and the labels as they are.

        Raises:
            ConfigError: The inputs are no tokens.
        """
        return self.part(inputs, labels, rng, rows=slice(None), of=len(inputs))

    def part(
        self, inputs: Stored, labels: Labels, rng: np.random.Generator, *, rows: slice, of: int
    ) -> tuple[Stored, Labels]:
        """Return those texts of a batch shortened as they are in it; see `Divisible`."""
        if inputs.ndim != 2:
            raise ConfigError("word-dropout needs tokens, these inputs are pictures; set train.augment to auto")
        place = np.arange(inputs.shape[1])
        last = (inputs != 0).sum(axis=1, keepdims=True) - 1
        is_kept = (rng.random((of, inputs.shape[1]))[rows] >= self.rate) | (place == 0) | (place == last)
        kept = np.where(is_kept, inputs, 0)
        return np.take_along_axis(kept, np.argsort(kept == 0, axis=1, kind="stable"), axis=1), labels


@dataclass(frozen=True)
class Chained:
    """Changes one after the other.

    Attributes:
        changes: In their order.
    """

    changes: tuple[Augment, ...]

    def __call__(self, inputs: Stored, labels: Labels, rng: np.random.Generator) -> tuple[Stored, Labels]:
        """Return what all of them make of the batch."""
        for change in self.changes:
            inputs, labels = change(inputs, labels, rng)
        return inputs, labels

    def part(
        self, inputs: Stored, labels: Labels, rng: np.random.Generator, *, rows: slice, of: int
    ) -> tuple[Stored, Labels]:
        """Return those rows changed as they are in their batch; see `Divisible`."""
        for change in self.changes:
            if not isinstance(change, Divisible):
                raise ConfigError(f"augmentation {type(change).__name__} changes whole batches only")
            inputs, labels = change.part(inputs, labels, rng, rows=rows, of=of)
        return inputs, labels


AUGMENTATIONS: Registry[Augment] = Registry("augmentation")
_RANDAUGMENT = re.compile(r"randaugment(?:-n(\d+)-m(\d+))?")
AUGMENTATIONS.add("randaugment", RandAugment(2, 9))
AUGMENTATIONS.add("none", Unchanged())
AUGMENTATIONS.add("shift", RandomCrop(padding=1))
AUGMENTATIONS.add("crop-flip", RandomCrop(padding=4, can_flip=True))
AUGMENTATIONS.add("word-dropout", WordDropout(rate=0.1))


def augmentation(name: str) -> Augment:
    """Return an augmentation by name.

    Args:
        name: `"none"`, `"shift"` (one pixel any way, for small pictures), `"crop-flip"` (four pixels any way, mirrored
            half of the time), `"randaugment"` or `"randaugment-n2-m9"` (see `edgekd.data.randaugment`), or what was
            added to `AUGMENTATIONS`; several joined by `+` are applied one after the other.

    Raises:
        ConfigError: Unknown name; or `"auto"`, which only a data set can resolve.
    """
    if name == "auto":
        raise ConfigError("augmentation 'auto' depends on the data set: pass default_augmentation(dataset name)")
    changes = tuple(_one(part) for part in name.split("+"))
    return changes[0] if len(changes) == 1 else Chained(changes)


def _one(name: str) -> Augment:
    strength = _RANDAUGMENT.fullmatch(name)
    if strength is None:
        return AUGMENTATIONS[name]
    return RandAugment(int(strength[1] or 2), int(strength[2] or 9))
