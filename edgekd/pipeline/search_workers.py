"""The processes of a search: started, watched, begun again when they die."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from edgekd.core.artifacts import TrainedModel
from edgekd.core.errors import EdgeKDError
from edgekd.core.events import Event, Listener, silent
from edgekd.latency import CpuModel
from edgekd.models import load_model
from edgekd.pipeline.config import RunConfig
from edgekd.pipeline.search_setting import SearchRequest, SearchSetting, setting_of, study_of
from edgekd.pipeline.student_space import space_for
from edgekd.search import Plan, open_storage, records_of, storage_errors, trial_event, work, worker_name

_RESTARTS = 3
_WATCH_EVERY_S = 1.0


@dataclass(frozen=True)
class WorkerJob:
    """What a worker process is sent: plain data, no networks."""

    config: RunConfig
    storage: str
    teacher: TrainedModel
    model: CpuModel | None
    kept: Path


def run_workers(setting: SearchSetting, job: WorkerJob, study: Any, deadline: float, listener: Listener) -> None:
    """Work on a study in this process or in several until it is done.

    Args:
        setting: The search.
        job: What worker processes are sent.
        study: The study.
        deadline: `time.monotonic()` after which no student is begun.
        listener: Told of every trial that ends, those of other machines that work on the study too.

    Raises:
        EdgeKDError: A worker process died too often.
    """
    if job.config.search.workers == 1:
        _work(replace(setting, plan=replace(setting.plan, stop_at=deadline)), job, 0, listener)
        return
    spawn = multiprocessing.get_context("spawn")

    def start(index: int) -> Any:
        left = deadline - time.monotonic()
        process = spawn.Process(target=_worker_process, args=(job, index, left), name=f"edgekd search {index}")
        process.start()
        return process

    watch = _Watch(study, setting.plan, listener)
    running = {index: start(index) for index in range(job.config.search.workers)}
    restarts = dict.fromkeys(running, 0)
    try:
        while running:
            for index, process in list(running.items()):
                process.join(timeout=_WATCH_EVERY_S / len(running))
                if process.is_alive():
                    continue
                del running[index]
                if process.exitcode == 0:
                    continue
                listener(Event("note", "search", f"worker {index} ended with {process.exitcode}; its trial is retried"))
                restarts[index] += 1
                if restarts[index] > _RESTARTS:
                    raise EdgeKDError(
                        f"worker {index} ended {restarts[index]} times, last with {process.exitcode}; run with "
                        "--workers 1 to see why, and again to go on"
                    )
                running[index] = start(index)
            watch.tell()
    finally:
        for process in running.values():
            process.terminate()


@dataclass
class _Watch:
    """Tells of the trials that worker processes end; those that had ended before are not told again."""

    study: Any
    plan: Plan
    listener: Listener
    _told: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._told.update(record.number for record in records_of(self.study) if record.state != "running")

    def tell(self) -> None:
        """Tell of what ended since."""
        records = records_of(self.study)
        for record in records:
            if record.state != "running" and record.number not in self._told:
                self._told.add(record.number)
                self.listener(trial_event(record.number, records, self.plan))


def _worker_process(job: WorkerJob, index: int, seconds_left: float) -> None:
    torch.set_num_threads(1)
    asked = SearchRequest.of(job.config)
    teacher = (job.teacher.spec, load_model(job.teacher))
    space = space_for(job.config.search.space, asked.dataset, job.teacher.spec)
    setting = setting_of(asked, teacher, job.model, space, job.kept)
    plan = replace(setting.plan, stop_at=time.monotonic() + seconds_left)
    _work(replace(setting, plan=plan), job, index, silent)


def _work(setting: SearchSetting, job: WorkerJob, index: int, listener: Listener) -> None:
    study = study_of(setting, job.teacher, open_storage(job.storage), index)
    with storage_errors(job.storage):
        work(study, setting.plan, setting.candidates, worker=worker_name(index), listener=listener)
