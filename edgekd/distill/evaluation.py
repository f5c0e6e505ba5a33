"""How good a network is on a split, and probes that compare networks by role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.core.registry import Registry
from edgekd.data import Split, eval_batches
from edgekd.models import evaluating

EVAL_BATCH_SIZE = 256


@dataclass(frozen=True)
class Evaluation:
    """Quality of a classifier on a split.

    Attributes:
        accuracy: Top-1, 0..1.
        nll: Mean negative log-likelihood in nats.
        samples: Size of the split.
    """

    accuracy: float
    nll: float
    samples: int


class Probe(Protocol):
    """Compares networks by role on a split."""

    def __call__(self, models: Mapping[str, nn.Module], split: Split) -> dict[str, float]:
        """Return named figures."""
        ...


PROBES: Registry[Probe] = Registry("probe")


def logits_of(model: nn.Module, split: Split) -> Tensor:
    """Return a network's logits `[N, K]` in float32 on the CPU, in evaluation mode and without a graph.

    Args:
        model: `[B, C, H, W]` in 0..1 to logits; the mode of each of its modules is restored.
        split: What to run it on.
    """
    device = next(model.parameters()).device
    with evaluating(model):
        batches = eval_batches(split, batch_size=EVAL_BATCH_SIZE)
        return torch.cat([model(batch.inputs.to(device)).float().cpu() for batch in batches])


def evaluate(model: nn.Module, split: Split) -> Evaluation:
    """Evaluate a classifier on a split."""
    logits = logits_of(model, split)
    labels = torch.from_numpy(split.labels)
    accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
    return Evaluation(accuracy, F.cross_entropy(logits, labels).item(), len(labels))


@PROBES.register("fidelity")
def fidelity(models: Mapping[str, nn.Module], split: Split) -> dict[str, float]:
    """How well the student follows the teacher: agreement, and mean KL(teacher || student) at temperature 1.

    Reference:
        Stanton et al. 2021, arXiv 2106.05945.
    """
    return fidelity_of(logits_of(models["student"], split), logits_of(models["teacher"], split))


def fidelity_of(student_logits: Tensor, teacher_logits: Tensor) -> dict[str, float]:
    """Compare two networks' logits `[N, K]`: `agreement` 0..1 and `kl` in nats, never negative."""
    student, teacher = (F.log_softmax(logits.double(), dim=1) for logits in (student_logits, teacher_logits))
    agreement = (student.argmax(dim=1) == teacher.argmax(dim=1)).double().mean().item()
    divergence = (teacher.exp() * (teacher - student)).sum(dim=1).mean().item()
    return {"agreement": agreement, "kl": max(0.0, divergence)}
