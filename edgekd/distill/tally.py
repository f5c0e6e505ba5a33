"""How far an epoch is, and the sums that its record is made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from edgekd.distill.learner import Losses


@dataclass
class Tally:
    """The epoch that runs.

    Attributes:
        step: Steps done in it.
        lr: Learning rate at the last of them.
        seconds: Time spent in it before the run was interrupted.
        parts: Parts that a batch is worked through in.
    """

    parts: int = 1
    step: int = 0
    lr: float = 0.0
    seconds: float = 0.0
    _total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    _sums: dict[str, Tensor] = field(default_factory=dict)
    _since: float = field(default_factory=time.perf_counter)

    def count(self, losses: Losses, lr: float) -> None:
        """Count a step."""
        self.step += 1
        self.lr = lr
        self._total = self._total.to(losses.total.device) + losses.total.detach().double()
        for name, value in losses.by_term.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)).to(value.device) + value

    def record(self, mean: Callable[[Tensor], Tensor]) -> tuple[float, dict[str, float]]:
        """Return the mean total loss of the steps so far, and that of each term.

        Args:
            mean: The mean of a tensor over all processes.
        """
        loss = mean(self._total).item() / self.step
        return loss, {name: mean(value).item() / self.step for name, value in self._sums.items()}

    @property
    def elapsed_s(self) -> float:
        """Seconds spent in the epoch."""
        return self.seconds + time.perf_counter() - self._since

    def begin(self) -> None:
        """Start on the next epoch."""
        self.step, self.seconds, self._sums = 0, 0.0, {}
        self._since = time.perf_counter()
        self._total = torch.zeros_like(self._total)

    def memory(self) -> dict[str, Any]:
        """Return all of it, for a run that is interrupted."""
        return {
            "parts": self.parts,
            "step": self.step,
            "lr": self.lr,
            "seconds": self.elapsed_s,
            "total": self._total,
            "sums": dict(self._sums),
        }

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take up what `memory` returned."""
        self.parts, self.step, self.lr = memory["parts"], memory["step"], memory["lr"]
        self.seconds, self._total, self._sums = memory["seconds"], memory["total"], dict(memory["sums"])
        self._since = time.perf_counter()
