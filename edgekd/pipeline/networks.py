"""Networks by reference, made for a data set."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from edgekd.core.artifacts import NetSpec
from edgekd.data import Dataset
from edgekd.models import Role, load_teacher


def network_for(
    ref: str,
    dataset: Dataset,
    *,
    role: Role,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    weights: Path | None = None,
) -> tuple[NetSpec, nn.Module]:
    """Make the network that a reference names, see `edgekd.models.load_teacher`, with the shapes of a data set.

    Args:
        ref: Its reference.
        dataset: What it is for.
        role: What it is, in messages.
        mean: What it subtracts from inputs in 0..1; None for the data set's.
        std: What it divides by; None for the data set's.
        weights: File of its weights, or None.

    Raises:
        ConfigError: It does not fit the data.
    """
    return load_teacher(
        ref,
        role=role,
        in_channels=dataset.in_channels,
        num_classes=dataset.task.num_outputs,
        resolution=dataset.resolution,
        mean=mean or dataset.mean,
        std=std or dataset.std,
        weights=weights,
        vocabulary=dataset.vocabulary,
        is_dense=dataset.task.is_dense,
    )
