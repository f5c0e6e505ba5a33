"""Which epoch of a stage is gone on with, when there is no use in another, and the weights of epochs on disk."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from edgekd.core.errors import StorageError
from edgekd.core.events import Event, Listener
from edgekd.distill.learner import Learners
from edgekd.distill.net import TracedNet
from edgekd.models import save_weights


class Keeper:
    """Holds the weights of the best epoch so far, in memory; the later of two equal ones.

    Args:
        select_best: Whether the best epoch is gone on with, not the last.
        patience: Epochs without a better score after which a stage ends, or None.
    """

    def __init__(self, *, select_best: bool, patience: int | None = None) -> None:
        self._select_best, self._patience = select_best, patience
        self._score, self._waited = -math.inf, 0
        self._state: dict[str, Tensor] | None = None

    def offer(self, score: float, learners: Learners) -> bool:
        """Take an epoch's score and weights; returns whether it is the best so far, or as good."""
        self._waited = 0 if score > self._score else self._waited + 1
        if score < self._score:
            return False
        self._score = score
        if self._select_best:
            self._state = copy.deepcopy(learners.state_dict())
        return True

    @property
    def is_out_of_patience(self) -> bool:
        """Whether the score has not risen for too long."""
        return self._patience is not None and self._waited >= self._patience

    @property
    def is_holding(self) -> bool:
        """Whether it has an epoch to go back to."""
        return self._state is not None

    def restore(self, learners: Learners) -> None:
        """Go back to the best epoch, if that is wanted."""
        if self._state is not None:
            learners.load_state_dict(self._state)

    def memory(self) -> dict[str, Any]:
        """Return score, weights and patience, for a run that is interrupted."""
        return {"score": self._score, "state": self._state, "waited": self._waited}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take up what `memory` returned."""
        self._score, self._state, self._waited = memory["score"], memory["state"], memory["waited"]


class EpochWeights:
    """The weights of a stage's last epoch and of its best one, as files.

    Args:
        folder: Where they go, or None for nowhere.
        stage: Name of the stage.
        listener: Told when they cannot be written; training goes on.
    """

    def __init__(self, folder: Path | None, stage: str, listener: Listener) -> None:
        self._folder, self._stage, self._listener = folder, stage, listener

    @property
    def path(self) -> Path | None:
        """File of the last epoch."""
        return None if self._folder is None else self._folder / f"{self._stage}.safetensors"

    def write(self, net: TracedNet, *, is_best: bool) -> None:
        """Write the weights after an epoch."""
        if self._folder is None:
            return
        names = [f"{self._stage}.safetensors", *([f"{self._stage}.best.safetensors"] if is_best else [])]
        try:
            for name in names:
                save_weights(net, self._folder / name, {"stage": self._stage})
        except StorageError as error:
            self._listener(Event("note", self._stage, f"{error}; {self.last_good}. Training goes on"))

    @property
    def last_good(self) -> str:
        """Where the last good weights are, in words."""
        path = self.path
        is_there = path is not None and path.exists()
        return f"the last good checkpoint is {path}" if is_there else "no epoch had finished"
