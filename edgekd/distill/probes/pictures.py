"""The pictures a probe looks at: some rows of a split, drawn from a seed, held in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgekd.core.errors import ConfigError
from edgekd.core.seeds import derive_seed
from edgekd.data import Split, network_inputs
from edgekd.data.images import Pixels


@dataclass(frozen=True, eq=False)
class Pictures:
    """Labelled pictures.

    Attributes:
        pixels: uint8 `[N, H, W, C]`.
        labels: int64 `[N]`.
    """

    pixels: Pixels
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def inputs(self) -> Tensor:
        """What networks take: float32 `[N, C, H, W]` in 0..1."""
        return torch.from_numpy(network_inputs(self.pixels))


def draw(split: Split, *, images: int, seed: int) -> Pictures:
    """Draw pictures without repetition.

    Args:
        split: Where to draw from.
        images: How many; all of them, in order, where the split holds no more.
        seed: Decides which.

    Raises:
        ConfigError: `images` below 1.
    """
    if images < 1:
        raise ConfigError(f"images is {images}, it must be at least 1")
    rows = np.arange(len(split), dtype=np.int64)
    if images < len(split):
        rng = np.random.default_rng(derive_seed(seed, "probe", "pictures"))
        rows = np.sort(rng.choice(rows, size=images, replace=False))
    return Pictures(split.inputs.gather(rows), torch.from_numpy(split.labels[rows]))


def chance_of(seed: int, *names: str | int) -> np.random.Generator:
    """Return the source of chance of one part of a probe, independent of every other part's."""
    return np.random.default_rng(derive_seed(seed, "probe", *names))
