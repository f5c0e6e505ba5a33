"""A training written down in a folder, so that another process can do it, or take part in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from edgekd.core.artifacts import NetSpec, from_json, to_json
from edgekd.core.atomic import replacing, write_json
from edgekd.core.config import validated
from edgekd.core.errors import StorageError
from edgekd.core.events import Listener, silent
from edgekd.data import Dataset
from edgekd.distill.recipe import Recipe
from edgekd.distill.resume import Resumption
from edgekd.distill.roles import Given
from edgekd.distill.run import Outcome, RunOptions, run_recipe
from edgekd.distill.settings import TrainSettings
from edgekd.models import build

_DOCUMENT, _TEACHER, _START = "job.json", "teacher.safetensors", "start.safetensors"


@dataclass(frozen=True)
class Job:
    """One call of `run_recipe`.

    Attributes:
        recipe: The method.
        student: The student's architecture.
        teacher: The teacher's architecture and network, or None.
        dataset_digest: That of the data.
        settings: Optimisation settings.
        options: Seed, label, folder, start, how to go on; the listener is not a part of it.
    """

    recipe: Recipe
    student: NetSpec
    teacher: Given | None
    dataset_digest: str
    settings: TrainSettings
    options: RunOptions = field(default_factory=RunOptions)

    def run(self, dataset: Dataset, listener: Listener = silent) -> Outcome:
        """Do it; raises what `run_recipe` does, and `StorageError` where the data are others."""
        if dataset.digest != self.dataset_digest:
            raise StorageError("the data here are not those of the process that gave out the work: share them")
        return run_recipe(
            self.recipe,
            student=self.student,
            teacher=self.teacher,
            dataset=dataset,
            settings=self.settings,
            options=RunOptions(
                self.options.seed,
                self.options.label,
                self.options.folder,
                listener,
                self.options.start,
                self.options.resume,
            ),
        )


def save_job(job: Job, folder: Path) -> None:
    """Write a job into a folder.

    Raises:
        StorageError: The file system refused.
        ValueError: The job changes its student by a function, which cannot be written down.
    """
    options = job.options
    if options.remodel is not None:
        raise ValueError("a job cannot hold a function that changes the student")
    _save_tensors(folder / _START, options.start)
    if job.teacher is not None:
        _save_tensors(folder / _TEACHER, job.teacher[1].state_dict())
    document = {
        "schema_version": 1,
        "recipe": job.recipe.model_dump(mode="json"),
        "student": to_json(job.student),
        "teacher": None if job.teacher is None else to_json(job.teacher[0]),
        "dataset_digest": job.dataset_digest,
        "settings": job.settings.model_dump(mode="json"),
        "seed": options.seed,
        "label": options.label,
        "folder": None if options.folder is None else str(options.folder),
        "resume": None if options.resume is None else _resumption_as_json(options.resume),
    }
    write_json(folder / _DOCUMENT, document)


def load_job(folder: Path) -> Job:
    """Read a job that `save_job` wrote.

    Raises:
        StorageError: It cannot be read.
    """
    try:
        document = json.loads((folder / _DOCUMENT).read_text(encoding="utf-8"))
        start = safetensors.torch.load_file(folder / _START)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise StorageError(f"the work in {folder} cannot be read: {error}; all processes need that folder") from error
    teacher = None
    if document["teacher"] is not None:
        spec = from_json(NetSpec, document["teacher"])
        with torch.random.fork_rng(devices=[]):
            network = build(spec)
        network.load_state_dict(safetensors.torch.load_file(folder / _TEACHER))
        teacher = (spec, network.eval().requires_grad_(False))
    resume = document["resume"]
    options = RunOptions(
        document["seed"],
        document["label"],
        None if document["folder"] is None else Path(document["folder"]),
        start=start,
        resume=None if resume is None else Resumption(**{**resume, "path": Path(resume["path"])}),
    )
    return Job(
        validated(Recipe, document["recipe"], str(folder)),
        from_json(NetSpec, document["student"]),
        teacher,
        document["dataset_digest"],
        validated(TrainSettings, document["settings"], str(folder)),
        options,
    )


def _resumption_as_json(resume: Resumption) -> dict[str, Any]:
    if resume.stop_at != math.inf:
        raise ValueError("a job cannot hold a deadline: it is by the clock of one process")
    return {
        "path": str(resume.path),
        "every_s": resume.every_s,
        "every_steps": resume.every_steps,
        "keep": resume.keep,
    }


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with replacing(path) as temporary:
        try:
            held = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
            safetensors.torch.save_file(held, temporary)
        except safetensors.SafetensorError as error:
            raise StorageError(f"cannot write {path}: {error}") from error
