"""One worker of a study: asks for a student, weighs it, trains it rung by rung, and tells what came of it."""

from __future__ import annotations

import json
import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from edgekd.core.budget import Budget
from edgekd.core.errors import EdgeKDError
from edgekd.core.events import Event, Listener, silent
from edgekd.core.seeds import derive_seed
from edgekd.search.costs import Cost, excesses
from edgekd.search.pareto import Losses, goes_on
from edgekd.search.space import Point, SearchSpace, parameters_of, suggest
from edgekd.search.storage import import_optuna
from edgekd.search.trials import TrialRecord, close_lost, finish, kept_alive, note, queue_lost, records_of

OBJECTIVES = ("score", "p99", "memory")
_FEW_FAILURES = 5

GoesOn = Callable[[int, float], bool]
"""Told the epochs done and the score; says whether training goes on."""


class Students(Protocol):
    """What a search needs to know about students."""

    def cost(self, point: Point) -> Cost:
        """Return what a student costs on the target; nothing is trained."""
        ...

    def train(self, point: Point, goes_on: GoesOn) -> tuple[float, int]:
        """Train a student as long as `goes_on` says; returns its score and the epochs done."""
        ...


@dataclass(frozen=True)
class Plan:
    """What a search does.

    Attributes:
        space: What may be chosen.
        budget: What must be kept.
        objectives: Which of `OBJECTIVES` are sought, the score first.
        rungs: Epochs after which a student is compared with the others, increasing; the last is the whole proxy.
        share: Share that passes a rung.
        trials: Students to train, in all.
        no_skill: Score of one answer to everything: what a student that is not trained counts as.
        seed: Root of the samplers.
        sampler: `tpe` or `nsga2`.
        max_macs: Students with more multiply-accumulates are not trained, as if over budget.
        stop_at: `time.monotonic()` after which no student is begun.
    """

    space: SearchSpace
    budget: Budget | None
    objectives: tuple[str, ...]
    rungs: tuple[int, ...]
    share: float
    trials: int
    no_skill: float
    seed: int
    sampler: str = "tpe"
    max_macs: int | None = None
    stop_at: float = float("inf")

    @property
    def directions(self) -> tuple[str, ...]:
        """Optuna's name for each objective's good direction."""
        return tuple("maximize" if name == "score" else "minimize" for name in self.objectives)

    def excess(self, cost: Cost) -> tuple[float, ...]:
        """Return by how much a student misses each clause of the budget and the largest size allowed."""
        over = excesses(cost, self.budget)
        return over if self.max_macs is None else (*over, cost.macs / self.max_macs - 1.0)

    def fits(self, cost: Cost) -> bool:
        """Say whether a student keeps the budget and is not too large."""
        return all(share <= 0 for share in self.excess(cost))

    def values(self, score: float, cost: Cost) -> tuple[float, ...]:
        """Return the objectives of a student."""
        known = {"score": score, "p99": cost.figures["p99"], "memory": cost.figures["memory"]}
        return tuple(known[name] for name in self.objectives)

    def losses(self, score: float, figures: Mapping[str, float]) -> Losses:
        """Return what a rung compares: under a budget the score alone, since all that are trained keep it."""
        others = () if self.budget is not None else tuple(figures[name] for name in self.objectives if name != "score")
        return (-score, *others)


def sampler_for(plan: Plan, worker: int, begun: int = 0) -> Any:
    """Make the sampler of a worker.

    Args:
        plan: Says which.
        worker: Its place; workers draw differently.
        begun: Trials that exist already: a search that is resumed does not draw the same again.
    """
    optuna = import_optuna()
    seed = derive_seed(plan.seed, "sampler", worker, begun) % 2**31
    startup = max(4, min(10, plan.trials // 3))
    if plan.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(population_size=startup, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(n_startup_trials=startup, multivariate=True, group=True, seed=seed)


def work(study: Any, plan: Plan, students: Students, *, worker: str, listener: Listener = silent) -> None:
    """Try students until the plan's number is trained, its time is over, or the space is exhausted.

    Args:
        study: What `open_study` returned.
        plan: What to do.
        students: Weighs and trains them.
        worker: Name of this worker.
        listener: Told of every trial.

    Raises:
        EdgeKDError: The first students all failed; the last one's error.
    """
    while not _is_done(study, plan):
        close_lost(study)
        queue_lost(study, plan.space)
        trial = study.ask()
        note(trial, worker=worker)
        with suppress(import_optuna().exceptions.UpdateFinishedTrialError):  # others took it for lost and retry it
            try:
                with kept_alive(trial):
                    _try(study, trial, plan, students)
            except EdgeKDError as error:
                note(trial, why=f"{type(error).__name__}: {error}")
                finish(study, trial, "failed", None)
                _require_some_success(study, error)
        listener(trial_event(trial.number, records_of(study), plan))


def _try(study: Any, trial: Any, plan: Plan, students: Students) -> None:
    point = suggest(trial, plan.space)
    note(trial, point=point)
    known = _known(study, trial, point)
    if known is not None:
        _copy(study, trial, plan, known)
        _queue_new(study, plan, trial.number)
        return
    cost = students.cost(point)
    excess = plan.excess(cost)
    _note_cost(trial, cost.document(), excess)
    if any(share > 0 for share in excess):
        finish(study, trial, "over budget", plan.values(plan.no_skill, cost))
        return
    rungs: dict[int, float] = {}

    def passes(epoch: int, score: float) -> bool:
        if epoch not in plan.rungs:
            return epoch < plan.rungs[-1]
        rungs[epoch] = score
        note(trial, rungs={str(key): value for key, value in rungs.items()}, epochs=epoch)
        if epoch == plan.rungs[-1]:
            return False
        others = [_losses(one, plan, epoch) for one in records_of(study) if one.number != trial.number]
        mine = plan.losses(score, cost.figures)
        return goes_on(mine, [one for one in others if one is not None], share=plan.share)

    score, epochs = students.train(point, passes)
    note(trial, epochs=epochs)
    finish(study, trial, "trained" if epochs >= plan.rungs[-1] else "stopped", plan.values(score, cost))


def _note_cost(trial: Any, cost: Mapping[str, Any], excess: tuple[float, ...]) -> None:
    note(trial, cost=dict(cost), excess=list(excess))
    for index, share in enumerate(excess):
        trial.set_constraint(str(index), share)


def _losses(record: TrialRecord, plan: Plan, epoch: int) -> Losses | None:
    if epoch not in record.rungs or record.cost is None or record.state == "lost":
        return None
    return plan.losses(record.rungs[epoch], record.cost["figures"])


def _known(study: Any, trial: Any, point: Point) -> TrialRecord | None:
    """Return a trial of the same point that was finished, or is being trained by another worker, before this one."""
    for record in records_of(study):
        is_earlier = record.number < trial.number
        if is_earlier and record.point == point and record.state in ("trained", "stopped", "over budget", "running"):
            return record
    return None


def _copy(study: Any, trial: Any, plan: Plan, known: TrialRecord) -> None:
    note(trial, why=f"equal to trial {known.number}")
    if known.cost is None or known.state == "running":
        finish(study, trial, "copied", None)
        return
    _note_cost(trial, known.cost, known.excess)
    score = plan.no_skill if known.score is None else known.score
    finish(study, trial, "copied", tuple({**known.cost["figures"], "score": score}[name] for name in plan.objectives))


def _queue_new(study: Any, plan: Plan, number: int) -> None:
    """Queue a student that was never tried, drawn by chance: the sampler has begun to repeat itself."""
    tried = {json.dumps(record.point, sort_keys=True) for record in records_of(study)}
    fresh = [point for point in plan.space.points() if json.dumps(point, sort_keys=True) not in tried]
    if fresh:
        chosen = random.Random(derive_seed(plan.seed, "fresh", number)).choice(fresh)  # noqa: S311
        study.enqueue_trial(parameters_of(chosen, plan.space))


def _is_done(study: Any, plan: Plan) -> bool:
    if time.monotonic() >= plan.stop_at:
        return True
    records = records_of(study)
    counted = sum(record.is_counted or record.state == "running" for record in records)
    tried = {json.dumps(record.point, sort_keys=True) for record in records if record.state not in ("lost", "running")}
    return counted >= plan.trials or len(tried - {"null"}) >= len(plan.space)


def _require_some_success(study: Any, error: EdgeKDError) -> None:
    records = [record for record in records_of(study) if record.state != "running"]
    if len(records) >= _FEW_FAILURES and all(record.state == "failed" for record in records):
        raise error


def trial_event(number: int, records: Sequence[TrialRecord], plan: Plan) -> Event:
    """Return what to tell of a trial that ended: its student, and in figures its score and cost."""
    record = next(one for one in records if one.number == number)
    done = sum(one.is_counted for one in records)
    name = "?" if record.cost is None else record.cost["name"]
    score = "" if record.score is None else f", held-out {record.score:.4f} after {record.epochs} epochs"
    why = f" ({record.why})" if record.why else ""
    values = {"trial": float(number), "epochs": float(record.epochs)}
    if record.score is not None:
        values["score"] = record.score
    if record.cost is not None:
        values |= record.cost["figures"]
    message = f"trial {number}: {name} {record.state}{score}{why}"
    return Event("progress", "search", message, done, plan.trials, values)
