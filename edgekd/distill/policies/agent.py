"""An actor-critic with its memory: networks made when the first state shows their widths, and all transitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from edgekd.core.seeds import derive_seed
from edgekd.distill.policies.actor_critic import ActorCritic, Learning, Transition, learn, seeded, slow_copy


class Agent:
    """What acts and learns.

    Args:
        actions: How many preferences.
        how: How it learns.
        seed: Decides its initial weights and which transitions it learns from.

    Attributes:
        transitions: All so far.
    """

    def __init__(self, actions: int, how: Learning, *, seed: int) -> None:
        self._actions, self._how, self._seed = actions, how, seed
        self._nets: tuple[ActorCritic, ActorCritic] | None = None
        self.transitions: list[Transition] = []

    def prefer(self, parts: Sequence[Tensor]) -> Tensor:
        """Return preferences `[A]` in 0..1 in a state of two parts, `[D1]` and `[D2]`."""
        nets, _ = self._nets or self._built((len(parts[0]), len(parts[1])))
        with torch.no_grad():
            return nets.act(torch.cat(list(parts))[None])[0].float()

    def learn(self, transition: Transition) -> None:
        """Keep a transition and learn from all."""
        self.transitions.append(transition)
        if self._nets is not None:
            learn(*self._nets, self.transitions, self._how, seed=derive_seed(self._seed, len(self.transitions)))

    def memory(self) -> dict[str, Any]:
        """Return networks and transitions, for a run that is interrupted."""
        return {
            "widths": None if self._nets is None else list(self._nets[0].widths),
            "nets": [_copied(nets.state_dict()) for nets in self._nets or ()],
            "transitions": [[one.state, one.action, one.reward, one.next_state] for one in self.transitions],
        }

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take up what `memory` returned."""
        self._nets, self.transitions = None, [Transition(*parts) for parts in memory["transitions"]]
        if memory["widths"] is not None:
            own, theirs = memory["widths"]
            for nets, state in zip(self._built((own, theirs)), memory["nets"], strict=True):
                nets.load_state_dict(state)

    def _built(self, widths: tuple[int, int]) -> tuple[ActorCritic, ActorCritic]:
        nets = seeded(widths, self._actions, self._how.width, derive_seed(self._seed, "weights"))
        self._nets = nets, slow_copy(nets)
        return self._nets


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}
