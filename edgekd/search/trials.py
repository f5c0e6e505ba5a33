"""The trials of a study: read back as plain data, kept alive while they run, tried again when their worker died.

Optuna keeps a heartbeat in databases only; here it is an attribute of the trial, the same in every storage. A trial
whose worker is known to be dead, or has been silent for too long, is closed as lost, and its point is queued again:
whoever asks next gets it. Both steps are recorded, so a worker killed between them loses nothing.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import psutil

from edgekd.search.space import Point, SearchSpace, parameters_of
from edgekd.search.storage import import_optuna

HEARTBEAT_S = 15.0
SILENCE_S = 120.0

State = Literal["trained", "stopped", "over budget", "copied", "failed", "lost", "running"]

_POINT, _STATE, _RUNGS, _COST, _WORKER, _BEAT, _WHY = (
    f"edgekd.{name}" for name in ("point", "state", "rungs", "cost", "worker", "heartbeat", "why")
)
_EPOCHS, _RETRY_OF, _EXCESS = "edgekd.epochs", "edgekd.retry_of", "edgekd.excess"


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Attributes:
        number: Its number in the study.
        state: What became of it: `trained` to the last rung, `stopped` at an earlier one, `over budget` and never
            trained, `copied` from an equal one, `failed` for its own reason, `lost` with its worker, or `running`.
        point: Which student; None when its worker died before it chose.
        score: Score on the held-out split at its last rung; None where it was not trained.
        epochs: Epochs it was trained for.
        rungs: Score by epochs.
        cost: What it costs, as `Cost.document` gives it.
        excess: By how much it misses each clause of the budget, as a share.
        worker: Who ran it.
        why: What went wrong, or of which trial it is a copy or a retry.
    """

    number: int
    state: State
    point: Point | None
    score: float | None
    epochs: int
    rungs: Mapping[int, float]
    cost: Mapping[str, Any] | None
    excess: tuple[float, ...]
    worker: str
    why: str

    @property
    def is_counted(self) -> bool:
        """Whether it stands for a student that was trained."""
        return self.state in ("trained", "stopped")

    def document(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "number": self.number,
            "state": self.state,
            "point": self.point,
            "score": self.score,
            "epochs": self.epochs,
            "rungs": {str(epoch): score for epoch, score in self.rungs.items()},
            "cost": None if self.cost is None else dict(self.cost),
            "excess": list(self.excess),
            "worker": self.worker,
            "why": self.why,
        }


def records_of(study: Any) -> list[TrialRecord]:
    """Read every trial of a study that was begun, oldest first; queued ones are left out."""
    optuna = import_optuna()
    waiting = optuna.trial.TrialState.WAITING
    return [_record(trial) for trial in study.get_trials(deepcopy=False) if trial.state != waiting]


def note(trial: Any, **values: Any) -> None:
    """Keep facts of a running trial: `point`, `rungs`, `cost`, `worker`, `epochs`, `excess`, `why`."""
    for name, value in values.items():
        trial.set_user_attr(f"edgekd.{name}", value)


def finish(study: Any, trial: Any, state: State, values: tuple[float, ...] | None) -> None:
    """Close a trial.

    Args:
        study: Its study.
        trial: The trial.
        state: What became of it.
        values: Its objectives; None for a trial that failed.
    """
    optuna = import_optuna()
    trial.set_user_attr(_STATE, state)
    if values is None:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(trial, list(values))


@contextmanager
def kept_alive(trial: Any, every_s: float = HEARTBEAT_S) -> Iterator[None]:
    """Let others know that a trial's worker lives, until the block ends."""
    done = threading.Event()
    trial.set_user_attr(_BEAT, time.time())

    def beat() -> None:
        with suppress(import_optuna().exceptions.UpdateFinishedTrialError):
            while not done.wait(every_s):
                trial.set_user_attr(_BEAT, time.time())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def worker_name(index: int) -> str:
    """Return a name that no other worker on any machine has: host, process and place."""
    return f"{socket.gethostname()}:{os.getpid()}:{index}"


def close_lost(study: Any, *, silence_s: float = SILENCE_S) -> int:
    """Close running trials whose worker is gone: its process on this host has ended, or nothing was heard of it.

    Args:
        study: The study.
        silence_s: Seconds since the last sign of life after which a trial is lost.

    Returns:
        How many were closed by this call.
    """
    optuna = import_optuna()
    states = optuna.trial.TrialState
    closed = 0
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        last = trial.user_attrs.get(_BEAT) or trial.datetime_start.timestamp()
        if time.time() - last < silence_s and not _is_dead(str(trial.user_attrs.get(_WORKER, ""))):
            continue
        try:
            study._storage.set_trial_user_attr(trial._trial_id, _STATE, "lost")
            closed += study._storage.set_trial_state_values(trial._trial_id, states.FAIL)
        except optuna.exceptions.UpdateFinishedTrialError:
            continue  # another worker closed it, or it was finished after all
    return closed


def queue_lost(study: Any, space: SearchSpace) -> int:
    """Queue the points of lost trials that nobody has queued yet.

    Args:
        study: The study.
        space: What its points belong to.

    Returns:
        How many were queued by this call.
    """
    trials = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get(_RETRY_OF) for trial in trials}
    queued = 0
    for trial in trials:
        is_lost = trial.user_attrs.get(_STATE) == "lost" and trial.state.name == "FAIL"
        if is_lost and trial.number not in retried and trial.user_attrs.get(_POINT):
            parameters = parameters_of(trial.user_attrs[_POINT], space)
            study.enqueue_trial(parameters, user_attrs={_RETRY_OF: trial.number})
            queued += 1
    return queued


def _is_dead(worker: str) -> bool:
    host, _, rest = worker.rpartition(":")[0].rpartition(":")
    return host == socket.gethostname() and rest.isdecimal() and not psutil.pid_exists(int(rest))


def _record(trial: Any) -> TrialRecord:
    facts = trial.user_attrs
    state: State = "running" if trial.state.name == "RUNNING" else facts.get(_STATE, "failed")
    retry = facts.get(_RETRY_OF)
    is_trained = state in ("trained", "stopped")
    return TrialRecord(
        number=trial.number,
        state=state,
        point=facts.get(_POINT),
        score=trial.values[0] if is_trained and trial.values else None,
        epochs=int(facts.get(_EPOCHS, 0)),
        rungs={int(epoch): float(score) for epoch, score in facts.get(_RUNGS, {}).items()},
        cost=facts.get(_COST),
        excess=tuple(facts.get(_EXCESS, ())),
        worker=str(facts.get(_WORKER, "")),
        why=str(facts.get(_WHY, "" if retry is None else f"retry of trial {retry}")),
    )
