"""The weights that a run's students start from where they are not drawn: a file's, or layers of the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekd.core.artifacts import NetSpec
from edgekd.data import Dataset
from edgekd.distill import TrainSettings, classifier_of
from edgekd.models import PRUNED, build, has_normalization, inherited_weights, prune_like, starting_weights
from edgekd.pipeline.config import StudentConfig
from edgekd.pipeline.found import read_found, start_of_found

_LR_OF_CUT = 0.1
"""Multiple of the learning rate at which what a cut teacher has kept outlives the first epochs."""
_LR_OF_CUT_UNNORMALIZED = 0.02
"""The same without normalisation layers, whose weights take a step as it is, however small they are."""


def settings_of(settings: TrainSettings, student: NetSpec) -> TrainSettings:
    """Return the settings that a student trains with: one cut from the teacher goes on from weights that know the task.

    Args:
        settings: The run's; a `student_lr` of its own stays.
        student: The student's architecture.
    """
    if student.family != PRUNED or settings.student_lr is not None:
        return settings
    with torch.random.fork_rng(devices=[]):
        rate = _LR_OF_CUT if has_normalization(build(student)) else _LR_OF_CUT_UNNORMALIZED
    return settings.model_copy(update={"student_lr": rate})


def start_of(
    config: StudentConfig,
    dataset: Dataset,
    student: NetSpec,
    teacher: NetSpec,
    teacher_net: Callable[[], nn.Module],
) -> Mapping[str, Tensor]:
    """Return the weights of a run's students that are not drawn, by name.

    Args:
        config: What was asked.
        dataset: What the student is for.
        student: Its architecture.
        teacher: The teacher's architecture.
        teacher_net: Gives the teacher with its weights, should they be needed.

    Raises:
        ConfigError: The weights belong to another network.
        StorageError: They cannot be read.
    """
    if config.found is not None:
        return start_of_found(read_found(Path(config.found)))
    if student.family == PRUNED:
        return prune_like(teacher_net(), teacher, student)
    if config.weights is not None:
        with torch.random.fork_rng(devices=[]):
            network = build(student)
        head = classifier_of(student, network, dataset)
        return starting_weights(network, Path(config.weights), head=head)
    if config.init == "drawn":
        return {}
    return inherited_weights(student, teacher, teacher_net().state_dict(), layers=config.init)
