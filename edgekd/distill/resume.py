"""Going on with a run that was interrupted: after whole epochs, everything that decides the rest is kept in one file.

A run that is paused and resumed gives the weights of one that is not. The file holds the networks and the random state
from before the stage it stands in, so that the stage is built again as it was, and then what its epochs have changed.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from edgekd.core.errors import ConfigError, EdgeKDError
from edgekd.distill.session import Checkpoint, Session
from edgekd.distill.tree_file import load_tree, save_tree


class Paused(EdgeKDError):
    """A run stopped at its deadline; it goes on from its file."""


@dataclass(frozen=True)
class Resumption:
    """How a run can be interrupted.

    Attributes:
        path: The file of its state, ending in `.safetensors`; removed when the run is done.
        stop_at: `time.monotonic()` after which the run pauses at the end of an epoch.
        every_s: Seconds between two states kept, at least an epoch.
    """

    path: Path
    stop_at: float = math.inf
    every_s: float = 60.0


@runtime_checkable
class Remembering(Protocol):
    """A part of a run, not a module, that what comes next depends on."""

    def memory(self) -> dict[str, Any]:
        """Return tensors and plain values."""
        ...

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take up what `memory` returned."""
        ...


@dataclass
class Bookmark:
    """Where a run stands.

    Attributes:
        resumption: How it can be interrupted.
        key: Digest of everything the run depends on.
        device: Where it trains.
        saved: What its file said when the run began, or None.
    """

    resumption: Resumption
    key: str
    device: torch.device
    saved: dict[str, Any] | None = None
    _stage: int = 0
    _before: dict[str, Any] = field(default_factory=dict)
    _last_kept: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, resumption: Resumption, session: Session, *, key: str, device: torch.device) -> Bookmark:
        """Read a run's file, where there is one.

        Raises:
            ConfigError: The file is of another run, or a policy of this one cannot be kept.
        """
        for name, policy in session.policies.items():
            if not isinstance(policy, Remembering):
                raise ConfigError(f"policy {name!r} keeps no state, so this run cannot be resumed: leave resume out")
        saved = load_tree(resumption.path) if resumption.path.exists() else None
        if saved is not None and saved["key"] != key:
            raise ConfigError(f"{resumption.path} is the state of another run: remove it or take another file")
        return cls(resumption, key, device, saved)

    @property
    def history(self) -> list[dict[str, Any]]:
        """Records of the epochs that were done when the run was interrupted."""
        return [] if self.saved is None else list(self.saved["history"])

    def is_past(self, stage: int) -> bool:
        """Whether a stage was finished before the run was interrupted."""
        return self.saved is not None and stage < self.saved["stage"]

    def enter(self, stage: int, session: Session) -> None:
        """Note the state before a stage is built, or go back to it."""
        self._stage = stage
        if self.saved is not None and stage == self.saved["stage"]:
            self._before = self.saved["before"]
            _restore_session(session, self._before, self.device)
        else:
            self._before = _session_state(session, self.device)

    def resumed(self, parts: Sequence[Any], session: Session) -> int:
        """Bring a stage's parts to where they stood; returns the epochs done in it."""
        saved = self.saved
        if saved is None or self._stage != saved["stage"]:
            return 0
        for part, state in zip(parts, saved["parts"], strict=True):
            _restore(part, state)
        _restore_session(session, saved["now"], self.device)
        self.saved = None
        return int(saved["epochs"])

    def keep(self, epochs: int, parts: Sequence[Any], session: Session, history: Sequence[Any]) -> None:
        """Write the state after an epoch, if it is time to.

        Args:
            epochs: Epochs done in this stage.
            parts: What the stage changes: modules, optimisers, and what remembers.
            session: The run.
            history: Records of every epoch so far, as dataclasses.

        Raises:
            Paused: The deadline is over.
        """
        now = time.monotonic()
        is_over = now >= self.resumption.stop_at
        if not is_over and now < self._last_kept + self.resumption.every_s:
            return
        tree = {
            "key": self.key,
            "stage": self._stage,
            "epochs": epochs,
            "before": self._before,
            "parts": [_state(part) for part in parts],
            "now": _session_state(session, self.device),
            "history": [dataclasses.asdict(record) for record in history],
        }
        save_tree(self.resumption.path, tree)
        self._last_kept = time.monotonic()
        if is_over:
            raise Paused(f"paused after epoch {epochs}; run again to go on from {self.resumption.path}")

    def close(self) -> None:
        """Remove the file of a run that is done."""
        self.resumption.path.unlink(missing_ok=True)


def _session_state(session: Session, device: torch.device) -> dict[str, Any]:
    return {
        "nets": {role: _copied(net.state_dict()) for role, net in session.nets.items()},
        "trajectories": {
            role: [[one.progress, dict(one.state)] for one in checkpoints]
            for role, checkpoints in session.trajectories.items()
        },
        "policies": {name: _state(policy) for name, policy in session.policies.items()},
        "random": [torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None],
    }


def _restore_session(session: Session, state: Mapping[str, Any], device: torch.device) -> None:
    for role, net in session.nets.items():
        net.load_state_dict(state["nets"][role])
    session.trajectories.clear()
    for role, checkpoints in state["trajectories"].items():
        session.trajectories[role] = [Checkpoint(progress, _moved(one, device)) for progress, one in checkpoints]
    for name, policy in session.policies.items():
        _restore(policy, state["policies"][name])
    torch.set_rng_state(state["random"][0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["random"][1], device)


def _state(part: Any) -> Any:
    if isinstance(part, nn.Module):
        return _copied(part.state_dict())
    if isinstance(part, torch.optim.Optimizer):
        state = part.state_dict()["state"]
        return [[index, dict(values)] for index, values in state.items()]
    return part.memory()


def _restore(part: Any, state: Any) -> None:
    if isinstance(part, nn.Module):
        part.load_state_dict(state)
    elif isinstance(part, torch.optim.Optimizer):
        groups = part.state_dict()["param_groups"]
        part.load_state_dict({"state": dict(state), "param_groups": groups})
    else:
        part.remember(state)


def _copied(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def _moved(state: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: value.to(device) for name, value in state.items()}
