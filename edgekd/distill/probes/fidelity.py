"""How well a student follows its teacher, which is another matter than being right."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import KINDS, Split
from edgekd.distill.evaluation import evaluate, fidelity_of, outputs_of
from edgekd.distill.probes.probe import PROBES, Figures, Models, Probe, by_role, network_of, prefixed
from edgekd.distill.probes.quality import quality_of


def ensemble_logits(logits: Sequence[Tensor]) -> Tensor:
    """Combine networks by averaging their probabilities: `logmeanexp_k log_softmax(z_k)`.

    Args:
        logits: `[B, K]` of each network.

    Returns:
        `[B, K]`, whose softmax is the mean of the networks' softmaxes.
    """
    stacked = torch.stack([F.log_softmax(each, dim=1) for each in logits])
    return stacked.logsumexp(dim=0) - math.log(len(logits))


class Ensemble(nn.Module):
    """Several classifiers as one, their probabilities averaged.

    Args:
        members: `[B, C, H, W]` to logits `[B, K]`, at least one.

    Raises:
        ConfigError: There is no member.

    Reference:
        Stanton et al. 2021, arXiv 2106.05945.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ConfigError("an ensemble needs at least one network")
        self.members = nn.ModuleList(members)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits `[B, K]` whose softmax is the mean probability."""
        return ensemble_logits([member(inputs) for member in self.members])


def fidelity(models: Models, split: Split) -> Figures:
    """How well the student follows the teacher, next to how good it is.

    Args:
        models: Roles `teacher` (an `Ensemble` averages probabilities), `student`, and `independent` where given.
        split: What to run them on, of any task; training and test data answer different questions.

    Returns:
        For each student `agreement` and `kl` (see `fidelity_of`: temperature 1); for all of them and the teacher
        `accuracy`, `nll` in nats and `ece` (10 bins), or in tasks without classes of inputs `score` and `nll`.

    Reference:
        Stanton et al. 2021, arXiv 2106.05945.
    """
    teacher = network_of(models, "teacher")
    expected = outputs_of(teacher, split)

    def measure(network: nn.Module) -> Figures:
        outputs = outputs_of(network, split)
        return fidelity_of(outputs, expected, split.task) | _quality(network, outputs, split)

    return by_role(models, measure) | prefixed("teacher", _quality(teacher, expected, split))


def _quality(network: nn.Module, outputs: Tensor, split: Split) -> Figures:
    if split.task.kind == "classification":
        return quality_of(outputs, torch.from_numpy(split.labels))
    found = evaluate(network, split)
    return {"score": found.score, "nll": found.nll}


PROBES.add(
    "fidelity",
    Probe(
        fidelity,
        title="Agreement with the teacher and KL at temperature 1, next to accuracy, NLL, ECE",
        reference="Stanton et al. 2021, arXiv 2106.05945",
        chance="the independent student's figures",
        extreme={"agreement": 1.0, "kl": 0.0},
        splits=("train", "test"),
        tasks=KINDS,
        needs_pictures=False,
    ),
)
