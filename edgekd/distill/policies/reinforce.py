"""REINFORCE for independent yes-or-no choices whose log-odds are linear in a state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def log_odds(parameters: Tensor, states: Tensor) -> Tensor:
    """Return `A_k s_ik + b_k`, `[B, S]`.

    Args:
        parameters: `[S, D + 1]`, the last column being b.
        states: `[B, S, D]`.
    """
    return (states * parameters[:, :-1]).sum(dim=2) + parameters[:, -1]


class EpisodeGradient:
    """The policy gradient of an episode, summed choice by choice.

    The gradient of `log pi(a|s)` is `(a - sigma) s`, and `a - sigma` for b. Its sum is kept alone and times the reward,
    so that a baseline and a reward known only at the end enter later: no states are stored.

    Args:
        choices: How many for each instance, S.
        width: Of a state, D.
    """

    def __init__(self, choices: int, width: int) -> None:
        self._rewarded, self._alone = torch.zeros(choices, width + 1), torch.zeros(choices, width + 1)
        self._rewards, self.count = 0.0, 0

    def add(self, surprises: Tensor, states: Tensor, rewards: Tensor) -> None:
        """Count some choices.

        Args:
            surprises: `[B, S]`, `a - sigma` when the choice was made.
            states: `[B, S, D]`.
            rewards: `[B]`.
        """
        with_one = torch.cat([states, torch.ones_like(states[:, :, :1])], dim=2)
        self._alone += torch.einsum("bs,bsd->sd", surprises, with_one)
        self._rewarded += torch.einsum("b,bs,bsd->sd", rewards, surprises, with_one)
        self._rewards += rewards.sum().item()
        self.count += len(rewards)

    def memory(self) -> dict[str, Any]:
        """Return the sums, for a run that is interrupted."""
        return {
            "rewarded": self._rewarded.clone(),
            "alone": self._alone.clone(),
            "rewards": self._rewards,
            "count": self.count,
        }

    @classmethod
    def remembered(cls, memory: Mapping[str, Any]) -> EpisodeGradient:
        """Return the sums that `memory` returned, to go on adding to."""
        choices, width = memory["alone"].shape
        gradient = cls(choices, width - 1)
        gradient._rewarded, gradient._alone = memory["rewarded"].clone(), memory["alone"].clone()
        gradient._rewards, gradient.count = memory["rewards"], memory["count"]
        return gradient

    @property
    def mean_reward(self) -> float:
        """Mean of the rewards that were added."""
        return self._rewards / self.count

    def ascent(self, *, share: float = 1.0, offset: float = 0.0) -> Tensor:
        """Return the mean over the added rows of `(share r + offset) grad log pi`, `[S, D + 1]`."""
        return (share * self._rewarded + offset * self._alone) / self.count
