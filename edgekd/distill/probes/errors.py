"""Whether a student makes the errors its teacher made before it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgekd.data import Split
from edgekd.distill.evaluation import outputs_of
from edgekd.distill.probes.probe import PROBES, Figures, Models, Probe, by_role, network_of


def error_overlap_of(decided: Tensor, taught: Tensor, labels: Tensor) -> Figures:
    """Compare the errors of a network with those of its trainer.

    Args:
        decided: Classes a network chose, int64 `[N]`.
        taught: Classes its trainer chose, int64 `[N]`.
        labels: The right ones, int64 `[N]`.

    Returns:
        `overlap`: share of the network's errors on pictures its trainer got wrong too; `same_answer`: share of them
        with the very class its trainer chose; NaN where it makes no error.
    """
    is_wrong = decided != labels
    errors = int(is_wrong.sum())
    if not errors:
        return {"overlap": math.nan, "same_answer": math.nan}
    return {
        "overlap": (is_wrong & (taught != labels)).sum().item() / errors,
        "same_answer": (is_wrong & (taught == decided)).sum().item() / errors,
    }


def errors(models: Models, split: Split) -> Figures:
    """Which share of a student's errors its teacher made before it: the avalanche of errors along a chain.

    Args:
        models: Roles `teacher` (the trainer), `student`, and `independent` where given.
        split: What to run them on.

    Returns:
        For each student `overlap` and `same_answer` (see `error_overlap_of`) and `error_rate`; `teacher.error_rate`;
        `chance.overlap`, that same rate: what errors at random places would give. Errors of independent students
        overlap more than that, as some pictures are hard for all.

    Reference:
        Son et al. 2021, arXiv 2009.08825.
    """
    labels = torch.from_numpy(split.labels)
    taught = outputs_of(network_of(models, "teacher"), split).argmax(dim=1)
    trainer_rate = (taught != labels).double().mean().item()

    def measure(network: nn.Module) -> Figures:
        decided = outputs_of(network, split).argmax(dim=1)
        rate = (decided != labels).double().mean().item()
        return error_overlap_of(decided, taught, labels) | {"error_rate": rate}

    return by_role(models, measure) | {"teacher.error_rate": trainer_rate, "chance.overlap": trainer_rate}


PROBES.add(
    "errors",
    Probe(
        errors,
        title="Share of a student's errors that its teacher made already",
        reference="Son et al. 2021, arXiv 2009.08825",
        chance="the independent student's overlap; the teacher's error rate for errors at random places",
        extreme={"overlap": 1.0, "same_answer": 1.0},
        needs_pictures=False,
    ),
)
