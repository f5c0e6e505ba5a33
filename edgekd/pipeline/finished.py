"""A finished run of `edgekd distill` read back: its networks and its data, nothing run again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekd.core.artifacts import TrainedModel, from_json
from edgekd.core.config import read_yaml, validated
from edgekd.core.errors import ConfigError, DataError, StorageError
from edgekd.core.seeds import derive_seed
from edgekd.data import Dataset, load_dataset
from edgekd.models import build, load_model
from edgekd.pipeline.config import CONFIG_FILE, RunConfig
from edgekd.pipeline.ledger import read_results
from edgekd.pipeline.starting import start_of
from edgekd.report import read_report


@dataclass(frozen=True)
class FinishedRun:
    """What a run left behind.

    Attributes:
        folder: The run folder.
        config: What was asked.
        dataset: The data it was trained on, loaded.
        teacher: The teacher.
        alone: Students trained without it, by seed: the independent ones.
        distilled: Students trained with it, by seed.
    """

    folder: Path
    config: RunConfig
    dataset: Dataset
    teacher: TrainedModel
    alone: tuple[TrainedModel, ...]
    distilled: tuple[TrainedModel, ...]


def load_finished(folder: Path) -> FinishedRun:
    """Read a finished run.

    Args:
        folder: Its folder.

    Returns:
        Its data and networks; the weights are read, and checked, when a network is loaded.

    Raises:
        ConfigError: The run is not finished.
        DataError: The data are not those of the run any more.
        StorageError: The record is damaged, lacks a network, or mixes networks of different settings.
    """
    report = read_report(folder)
    config = validated(RunConfig, read_yaml(folder / CONFIG_FILE), str(folder / CONFIG_FILE))
    results = read_results(folder)
    teacher = _network(folder, results, "teacher")
    seeds = range(config.seeds)
    alone = [_network(folder, results, f"alone/seed{seed}") for seed in seeds if config.compare_alone]
    distilled = [_network(folder, results, f"distilled/seed{seed}") for seed in seeds]
    _require_one_family(folder, teacher, [*alone, *distilled])
    dataset = load_dataset(config.data)
    if dataset.digest != report.data.digest:
        raise DataError(f"data set {dataset.name} is not what {folder} was trained on: its content changed since")
    return FinishedRun(folder, config, dataset, teacher, tuple(alone), tuple(distilled))


def teacher_of_run(folder: Path) -> TrainedModel:
    """Return the teacher of a run folder, finished or not.

    Raises:
        StorageError: The record is missing, damaged, or has no teacher.
    """
    return _network(folder, read_results(folder), "teacher")


def require_alone(run: FinishedRun) -> None:
    """Raise `ConfigError` unless the run trained students without the teacher."""
    if not run.alone:
        raise ConfigError(
            f"{run.folder} has no students trained without the teacher, and probes compare with those: train them by\n"
            f"  edgekd distill {run.folder / 'config.yaml'} --set compare_alone=true --out {run.folder}\n"
            "which keeps what is there"
        )


def initial_student(run: FinishedRun, seed: int) -> nn.Module:
    """Return the run's student as its training starts for a seed, in evaluation mode.

    Args:
        run: A finished run.
        seed: Seed of its training.
    """
    spec, teacher = run.distilled[0].spec, run.teacher
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "student"))
        student = build(spec)
    start = start_of(run.config.student, run.dataset, spec, teacher.spec, lambda: load_model(teacher))
    student.load_state_dict(dict(start), strict=False)
    return student.eval()


def _network(folder: Path, results: Mapping[str, Any], stage: str) -> TrainedModel:
    if stage not in results:
        raise StorageError(f"{folder} has no {stage}: finish the run with the same edgekd distill command")
    return from_json(TrainedModel, results[stage]["model"])


def _require_one_family(folder: Path, teacher: TrainedModel, students: list[TrainedModel]) -> None:
    specs = {student.spec.digest for student in students}
    if len(specs) > 1 or any(student.parents and teacher.digest not in student.parents for student in students):
        raise StorageError(
            f"{folder} mixes networks of different settings, as a run does that was changed and not finished: "
            "finish it with the same edgekd distill command"
        )
