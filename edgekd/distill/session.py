"""The networks of one run by role, and what its stages hand to each other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from edgekd.core.errors import ConfigError, unknown_name
from edgekd.distill.net import TracedNet
from edgekd.distill.policies import Policy


@dataclass(frozen=True)
class Checkpoint:
    """A network in the middle of its training.

    Attributes:
        progress: Share of its training done, in (0, 1].
        state: Its state, attachments included.
    """

    progress: float
    state: Mapping[str, Tensor]


@dataclass(frozen=True)
class Session:
    """One run.

    Attributes:
        nets: Networks by role.
        input_shape: `(C, H, W)` of the data.
        seed: Root of whatever is random.
        fresh: By role, gives the backbone state that its training starts from; roles that cannot start anew lack.
        policies: Learned weights by name.
        trajectories: Recorded checkpoints by role.
    """

    nets: Mapping[str, TracedNet]
    input_shape: tuple[int, ...]
    seed: int
    fresh: dict[str, Callable[[], Mapping[str, Tensor]]] = field(default_factory=dict)
    policies: Mapping[str, Policy] = field(default_factory=dict)
    trajectories: dict[str, list[Checkpoint]] = field(default_factory=dict)

    def net(self, role: str) -> TracedNet:
        """Return a role's network; raises `ConfigError` when the run has none."""
        if role not in self.nets:
            if role == "teacher":
                raise ConfigError("this recipe needs a teacher and none was given")
            raise unknown_name("role", role, self.nets)
        return self.nets[role]

    def restart(self, role: str) -> None:
        """Put a role's backbone back to the weights its training starts from.

        Raises:
            ConfigError: The network came from elsewhere with its weights, so it has no such weights.
        """
        if role not in self.fresh:
            raise ConfigError(f"{role} cannot be trained from new weights: its network is not one of edgekd's families")
        self.net(role).backbone.load_state_dict(self.fresh[role]())

    def begin_from(self, role: str, weights: Mapping[str, Tensor]) -> None:
        """Let a role's backbone start from these weights, by name, where its own would be drawn."""
        drawn = self.fresh[role]
        self.fresh[role] = lambda: {**drawn(), **weights}
        self.restart(role)

    def record(self, role: str, progress: float) -> None:
        """Keep a role's network as it is now."""
        state = copy.deepcopy(self.net(role).state_dict())
        self.trajectories.setdefault(role, []).append(Checkpoint(progress, state))
