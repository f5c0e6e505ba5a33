"""Averaged weights: an exponential moving average of what trains, which is evaluated and kept in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from edgekd.distill.learner import Learners


class MovingAverage:
    """The average of the networks of a stage over its steps, statistics of batch norms among them.

    Terms' adapters are not averaged: nothing is evaluated or exported of them.

    Args:
        learners: What trains; its networks as they are now are the first value.
        decay: Share of the average that the next step keeps.
        is_warming: Whether step `t`, from 1, keeps `(1 + t) / (10 + t)` at most, so that the first weights fade soon.
    """

    def __init__(self, learners: Learners, *, decay: float, is_warming: bool = True) -> None:
        self._decay, self._is_warming, self._steps = decay, is_warming, 0
        self._average = {name: value.detach().clone() for name, value in _networks(learners).items()}

    @property
    def decay(self) -> float:
        """Share of the average that the last step kept."""
        warm = (1 + self._steps) / (10 + self._steps)
        return min(self._decay, warm) if self._is_warming else self._decay

    @torch.no_grad()
    def follow(self, learners: Learners) -> None:
        """Count the weights after a step."""
        self._steps += 1
        keep = self.decay
        for name, value in _networks(learners).items():
            average = self._average[name]
            if average.is_floating_point():
                average.lerp_(value.to(average.dtype), 1 - keep)
            else:
                average.copy_(value)

    @contextmanager
    def in_place(self, learners: Learners) -> Iterator[None]:
        """Let the networks have the averaged weights within the block."""
        own = {name: value.detach().clone() for name, value in _networks(learners).items()}
        self.settle(learners)
        try:
            yield
        finally:
            _copy(own, learners)

    def settle(self, learners: Learners) -> None:
        """Give the networks the averaged weights for good."""
        _copy(self._average, learners)

    def memory(self) -> dict[str, Any]:
        """Return the average and how many steps it counts, for a run that is interrupted."""
        return {"steps": self._steps, "average": dict(self._average)}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take up what `memory` returned."""
        self._steps = memory["steps"]
        for name, value in memory["average"].items():
            self._average[name].copy_(value)


def _networks(learners: Learners) -> dict[str, Tensor]:
    return {f"{learner.role}.{name}": value for learner in learners for name, value in learner.net.state_dict().items()}


@torch.no_grad()
def _copy(weights: Mapping[str, Tensor], learners: Learners) -> None:
    for name, value in _networks(learners).items():
        value.copy_(weights[name])
