"""Going on with a run that was interrupted: at any step, everything that decides the rest is kept in one file.

A run that is interrupted and resumed gives, bit for bit, the weights of one that is not. The file holds the networks
and the random state from before the stage it stands in, so that the stage is built again as it was, and then what its
steps have changed. What a batch is, and whatever a step draws, follows from the run's seed and the number of the step,
in the workers that make batches ahead too: their state is the number of the step.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from edgekd.core.errors import ConfigError, EdgeKDError, StorageError
from edgekd.distill.session import Checkpoint, Session
from edgekd.distill.state_files import StateFiles


class Paused(EdgeKDError):
    """A run stopped at its deadline; it goes on from its file."""


@dataclass(frozen=True)
class Resumption:
    """How a run can be interrupted.

    Attributes:
        path: The file of its state, ending in `.safetensors`; removed when the run is done.
        stop_at: `time.monotonic()` after which the run pauses at the end of an epoch.
        every_s: Seconds between two states kept, at least a step.
        every_steps: Steps between two states kept instead, or None.
        keep: How many of the last states to keep.
    """

    path: Path
    stop_at: float = math.inf
    every_s: float = 60.0
    every_steps: int | None = None
    keep: int = 1

    @property
    def files(self) -> StateFiles:
        """Where its states lie."""
        return StateFiles(self.path, self.keep)


def _unheard(message: str) -> None:
    """Drop a note where nobody listens."""


@runtime_checkable
class Remembering(Protocol):
    """A part of a run, not a module, that what comes next depends on."""

    def memory(self) -> dict[str, Any]:
        """Return tensors and plain values."""
        ...

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take up what `memory` returned."""
        ...


@dataclass(frozen=True)
class ScalerMemory:
    """What scales losses where training runs in fp16.

    Attributes:
        scaler: Its scale and how long that held go on with a run.
    """

    scaler: torch.amp.GradScaler

    def memory(self) -> dict[str, Any]:
        """Return scale and counters."""
        return dict(self.scaler.state_dict())

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take up what `memory` returned."""
        if memory:
            self.scaler.load_state_dict(dict(memory))


@dataclass
class Bookmark:
    """Where a run stands.

    Attributes:
        resumption: How it can be interrupted.
        key: Digest of everything the run depends on.
        device: Where it trains.
        initial: State of each network that a stage may change, before any stage; what stays like that is not written.
        saved: What its file said when the run began, or None.
        note: Tells the user something.
    """

    resumption: Resumption
    key: str
    device: torch.device
    initial: Mapping[str, dict[str, torch.Tensor]]
    saved: dict[str, Any] | None = None
    note: Callable[[str], None] = _unheard
    is_writing: bool = True
    _stage: int = 0
    _before: dict[str, Any] = field(default_factory=dict)
    _last_kept: float = field(default_factory=time.monotonic)

    @classmethod
    def open(
        cls,
        resumption: Resumption,
        session: Session,
        *,
        key: str,
        device: torch.device,
        fixed: Collection[str] = (),
        note: Callable[[str], None] = _unheard,
        is_writing: bool = True,
    ) -> Bookmark:
        """Read a run's file, where there is one.

        Args:
            resumption: How the run can be interrupted.
            session: Its networks and policies.
            key: Digest of everything it depends on.
            device: Where it trains.
            fixed: Roles whose networks never change.
            note: Tells the user something.
            is_writing: Whether this process keeps the states, the first of several.

        Raises:
            ConfigError: The file is of another run, or a policy of this one cannot be kept.
        """
        for name, policy in session.policies.items():
            if not isinstance(policy, Remembering):
                raise ConfigError(f"policy {name!r} keeps no state, so this run cannot be resumed: leave resume out")
        saved = resumption.files.newest(note)
        if saved is not None and saved["key"] != key:
            raise ConfigError(f"{resumption.path} is the state of another run: remove it or take another file")
        initial = {role: _copied(net.state_dict()) for role, net in session.nets.items() if role not in fixed}
        if saved is not None:
            note(f"going on from {resumption.files.last_good}")
        return cls(resumption, key, device, initial, saved, note, is_writing)

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
            self._restore_session(session, self._before)
        else:
            self._before = self._session_state(session)

    def resumed(self, parts: Sequence[Any], session: Session) -> int:
        """Bring a stage's parts to where they stood; returns the epochs done in it."""
        saved = self.saved
        if saved is None or self._stage != saved["stage"]:
            return 0
        for part, state in zip(parts, saved["parts"], strict=True):
            _restore(part, state)
        self._restore_session(session, saved["now"])
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
        is_over = time.monotonic() >= self.resumption.stop_at
        if is_over or self._is_time(None):
            self._write(epochs, parts, session, history)
        if is_over:
            raise Paused(f"paused after epoch {epochs}; run again to go on from {self.resumption.path}")

    def keep_within(
        self, epochs: int, step: int, parts: Sequence[Any], session: Session, history: Sequence[Any]
    ) -> None:
        """Write the state after a step, if it is time to; `step` counts those of the stage, see `keep`."""
        if self._is_time(step):
            self._write(epochs, parts, session, history)

    def _is_time(self, step: int | None) -> bool:
        if not self.is_writing:
            return False
        every = self.resumption.every_steps
        if every is not None and step is not None:
            return step % every == 0
        return time.monotonic() - self._last_kept >= self.resumption.every_s

    def _write(self, epochs: int, parts: Sequence[Any], session: Session, history: Sequence[Any]) -> None:
        tree = {
            "key": self.key,
            "stage": self._stage,
            "epochs": epochs,
            "before": self._before,
            "parts": [_state(part) for part in parts],
            "now": self._session_state(session),
            "history": [dataclasses.asdict(record) for record in history],
        }
        self._last_kept = time.monotonic()
        if not self.is_writing:
            return
        try:
            self.resumption.files.write(tree)
        except StorageError as error:
            good = self.resumption.files.last_good
            last = f"the last good one is {good}" if good is not None else "none was kept before"
            self.note(f"the state was not kept: {error}; {last}. Training goes on, and it is kept once there is space")

    def close(self) -> None:
        """Remove the file of a run that is done."""
        if self.is_writing:
            self.resumption.files.remove()

    def _session_state(self, session: Session) -> dict[str, Any]:
        is_cuda = self.device.type == "cuda"
        return {
            "nets": {role: _changed(session.nets[role].state_dict(), first) for role, first in self.initial.items()},
            "trajectories": {
                role: [[one.progress, dict(one.state)] for one in checkpoints]
                for role, checkpoints in session.trajectories.items()
            },
            "policies": {name: _state(policy) for name, policy in session.policies.items()},
            "random": [torch.get_rng_state(), torch.cuda.get_rng_state(self.device) if is_cuda else None],
        }

    def _restore_session(self, session: Session, state: Mapping[str, Any]) -> None:
        for role, first in self.initial.items():
            session.nets[role].load_state_dict({**first, **state["nets"][role]})
        session.trajectories.clear()
        for role, checkpoints in state["trajectories"].items():
            session.trajectories[role] = [
                Checkpoint(progress, {name: value.to(self.device) for name, value in one.items()})
                for progress, one in checkpoints
            ]
        for name, policy in session.policies.items():
            _restore(policy, state["policies"][name])
        torch.set_rng_state(state["random"][0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random"][1], self.device)


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


def _changed(state: Mapping[str, torch.Tensor], initial: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in _copied(state).items() if not torch.equal(value, initial[name])}
