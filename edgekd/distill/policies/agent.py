"""An actor-critic with its memory: networks made when the first state shows their widths, and all transitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from edgekd.core.seeds import derive_seed
from edgekd.distill.policies.actor_critic import ActorCritic, Learning, Transition, learn, seeded, slow_copy
from edgekd.distill.policies.state import owned, owned_by

_NAMES = ("fast", "slow")


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
        """Remember a transition and learn from all."""
        self.transitions.append(transition)
        if self._nets is not None:
            learn(*self._nets, self.transitions, self._how, seed=derive_seed(self._seed, len(self.transitions)))

    def state_dict(self) -> dict[str, Tensor]:
        """Return networks and transitions."""
        state: dict[str, Tensor] = {}
        if self._nets is not None:
            state["widths"] = torch.tensor(self._nets[0].widths)
            for name, nets in zip(_NAMES, self._nets, strict=True):
                state |= owned(name, nets.state_dict())
        if self.transitions:
            rows = {part.name: [getattr(one, part.name) for one in self.transitions] for part in fields(Transition)}
            state |= owned("transitions", {name: torch.stack(row) for name, row in rows.items()})
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from such a state."""
        self._nets, rows = None, owned_by("transitions", state)
        self.transitions = [Transition(**dict(zip(rows, row, strict=True))) for row in zip(*rows.values(), strict=True)]
        if "widths" in state:
            own, theirs = state["widths"].tolist()
            for name, nets in zip(_NAMES, self._built((own, theirs)), strict=True):
                nets.load_state_dict(owned_by(name, state))

    def _built(self, widths: tuple[int, int]) -> tuple[ActorCritic, ActorCritic]:
        nets = seeded(widths, self._actions, self._how.width, derive_seed(self._seed, "weights"))
        self._nets = nets, slow_copy(nets)
        return self._nets
