"""Where training stands, and the chance that belongs to one step."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgekd.core.seeds import derive_seed


@dataclass(frozen=True)
class Step:
    """Where training stands.

    Attributes:
        index: Optimiser steps taken in this stage.
        total: Optimiser steps of this stage.
        epoch: Epochs finished in this stage.
        seed: Root of whatever is random in this stage.
        part: Which part of the batch this is, where batches are worked through in parts.
    """

    index: int
    total: int
    epoch: int
    seed: int = 0
    part: int = 0

    @property
    def progress(self) -> float:
        """Share of the stage's steps already taken, in [0, 1)."""
        return self.index / max(1, self.total)

    def generator(self, *purpose: str | int) -> torch.Generator:
        """Return a CPU generator that only the seed, the step, its part and the purpose decide, whatever ran before."""
        parts = ("part", self.part) if self.part else ()
        return torch.Generator().manual_seed(derive_seed(self.seed, *purpose, self.index, *parts))
